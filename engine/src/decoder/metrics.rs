//! Names, help texts and units of what the decoder sandbox measures.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const DECODE_SECONDS: &str = "sluse_decoder_decode_seconds";
pub const WAIT_SECONDS: &str = "sluse_decoder_wait_seconds";
pub const DECODED: &str = "sluse_decoder_results_total";
pub const ERRORS: &str = "sluse_decoder_errors_total";
pub const WARNINGS: &str = "sluse_decoder_warnings_total";
pub const COMPILED: &str = "sluse_decoder_compilations_total";
pub const RUNS: &str = "sluse_decoder_runs_total";
pub const KILLS: &str = "sluse_decoder_worker_kills_total";
pub const STARTS: &str = "sluse_decoder_worker_starts_total";
pub const RESENT: &str = "sluse_decoder_resent_jobs_total";
pub const BATCH_JOBS: &str = "sluse_decoder_batch_jobs";
pub const QUEUE: &str = "sluse_decoder_queue_jobs";
pub const CACHED: &str = "sluse_decoder_cached_scripts";

/// Registers help texts and units.
pub fn describe() {
    describe_histogram!(DECODE_SECONDS, Unit::Seconds, "time of one decode inside the worker");
    describe_histogram!(WAIT_SECONDS, Unit::Seconds, "time a job waited before it was sent to its worker");
    describe_counter!(DECODED, "decodes that ended with a value or with nothing, by outcome");
    describe_counter!(ERRORS, "decodes that failed, by kind");
    describe_counter!(WARNINGS, "warnings that TS013 and Actility decoders returned");
    describe_counter!(COMPILED, "compilations of scripts");
    describe_counter!(RUNS, "decodes by how they started: from the image, or with the top level run again");
    describe_counter!(KILLS, "workers that ended, by cause: stuck, crash, protocol");
    describe_counter!(STARTS, "starts of worker processes");
    describe_counter!(RESENT, "jobs sent again after their worker ended");
    describe_histogram!(BATCH_JOBS, Unit::Count, "jobs per frame to a worker");
    describe_gauge!(QUEUE, "jobs that wait for a worker");
    describe_gauge!(CACHED, "compiled scripts that a worker keeps");
}
