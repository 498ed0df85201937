//! Metrics of the device stage. Counted locally and published with every step: no look-up per uplink.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Uplinks done with. Labels: `partition`, `outcome`. Their sum is the number of uplinks passed.
pub const UPLINKS: &str = "sluse_device_uplinks_total";
/// Deliveries written to the deliveries log. Label: `partition`.
pub const DELIVERIES: &str = "sluse_device_deliveries_total";
/// Uplinks that are read and not yet in a step. Label: `partition`.
pub const OPEN_UPLINKS: &str = "sluse_partition_open_uplinks";
/// Records between the committed position and the end. Label: `partition`.
pub const LAG_RECORDS: &str = "sluse_partition_lag_records";
/// Age of the record at the committed position. Label: `partition`.
pub const LAG_SECONDS: &str = "sluse_partition_lag_seconds";
/// From the reading of an uplink's batch to the commit of its step.
pub const STEP_SECONDS: &str = "sluse_partition_step_commit_seconds";
/// Uplinks per step.
pub const STEP_UPLINKS: &str = "sluse_partition_step_uplinks";
/// Times a partition was paused because its window was full. Label: `partition`.
pub const PAUSES: &str = "sluse_partition_pauses_total";
/// Device actors in memory. Label: `partition`.
pub const ACTIVE_DEVICES: &str = "sluse_device_active";
/// Devices that became active. Label: `kind` (`stored`, `provisional`, `after_panic`).
pub const ACTIVATIONS: &str = "sluse_device_activations_total";
/// Warnings of decoders.
pub const DECODE_WARNINGS: &str = "sluse_device_decode_warnings_total";
/// Failed decodes that did not fit into the list of failures.
pub const DECODE_FAILURES_UNLISTED: &str = "sluse_device_decode_failures_unlisted_total";
/// Device rows written.
pub const STATES_STORED: &str = "sluse_persist_states_stored_total";
/// Time of one flush of a partition.
pub const FLUSH_SECONDS: &str = "sluse_persist_flush_seconds";
/// Records between the state position and the committed position: what a restart replays. Label: `partition`.
pub const STATE_LAG_RECORDS: &str = "sluse_persist_state_lag_records";
/// Failed attempts to store. Label: `partition`.
pub const STORE_FAILURES: &str = "sluse_persist_store_failures_total";

/// Registers help texts and units.
pub fn describe() {
    describe_counter!(UPLINKS, Unit::Count, "Uplinks done with, by outcome");
    describe_counter!(DELIVERIES, Unit::Count, "Deliveries written to the deliveries log");
    describe_gauge!(OPEN_UPLINKS, Unit::Count, "Uplinks that are read and not yet in a committed step");
    describe_gauge!(LAG_RECORDS, Unit::Count, "Records between the committed position and the end of the uplinks log");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "Age of the oldest uplink that is not committed");
    describe_histogram!(STEP_SECONDS, Unit::Seconds, "Time to commit a step");
    describe_histogram!(STEP_UPLINKS, Unit::Count, "Uplinks in a step");
    describe_counter!(PAUSES, Unit::Count, "Times a partition was paused because its window was full");
    describe_gauge!(ACTIVE_DEVICES, Unit::Count, "Device actors in memory");
    describe_counter!(ACTIVATIONS, Unit::Count, "Devices that became active");
    describe_counter!(DECODE_WARNINGS, Unit::Count, "Warnings that decoders gave with their results");
    describe_counter!(DECODE_FAILURES_UNLISTED, Unit::Count, "Failed decodes left out of the list of failures");
    describe_counter!(STATES_STORED, Unit::Count, "Device rows written to PostgreSQL");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "Time to store the changed devices of a partition");
    describe_gauge!(STATE_LAG_RECORDS, Unit::Count, "Records a restart would replay to rebuild device states");
    describe_counter!(STORE_FAILURES, Unit::Count, "Failed attempts to store device states");
}
