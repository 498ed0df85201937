//! Names of the log's metrics, with help text and unit. Label: `topic`.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const RECORDS_APPENDED: &str = "sluse_log_records_appended_total";
pub const RECORDS_TRIMMED: &str = "sluse_log_records_trimmed_total";
pub const COMMIT_SECONDS: &str = "sluse_log_commit_seconds";
pub const QUEUE_BYTES: &str = "sluse_log_queue_bytes";
pub const QUEUE_REFUSED: &str = "sluse_log_queue_refused_total";
pub const STALL_SECONDS: &str = "sluse_log_stall_seconds";
pub const STORE_REOPENED: &str = "sluse_log_store_reopened_total";
pub const STORE_READS: &str = "sluse_log_store_reads_total";
pub const FREE_BYTES: &str = "sluse_log_disk_free_bytes";

/// Registers help texts and units.
pub fn describe() {
    describe_counter!(RECORDS_APPENDED, Unit::Count, "records written and synced, by topic");
    describe_counter!(RECORDS_TRIMMED, Unit::Count, "records dropped by retention, by topic");
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "time of one group commit with its sync");
    describe_gauge!(QUEUE_BYTES, Unit::Bytes, "appends and steps that wait for the writer");
    describe_counter!(QUEUE_REFUSED, Unit::Count, "appends refused because too much waits for the writer");
    describe_histogram!(STALL_SECONDS, Unit::Seconds, "time the writer waited for the store to flush");
    describe_counter!(STORE_REOPENED, Unit::Count, "times the store was opened again after a failed write");
    describe_counter!(STORE_READS, Unit::Count, "reads that went to the store because memory did not hold the records");
    describe_gauge!(FREE_BYTES, Unit::Bytes, "free disk under the log");
}
