//! One registry of metrics for the whole process: names and help texts of every crate, buckets by unit, process figures.
//! Names are `sluse_<stage>_<noun>_<unit>[_total]`; labels are bounded, never a device.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// Seconds a call of the store took, by `call` and `outcome` (`ok`, `fenced`, `refused`, `unavailable`).
pub const STORE_CALL_SECONDS: &str = "sluse_store_call_seconds";
/// Rows written by the store, by `table`.
pub const STORE_ROWS_TOTAL: &str = "sluse_store_rows_written_total";
/// Rows that PostgreSQL refused for their data and that were reduced, by `table`.
pub const STORE_ROWS_REDUCED_TOTAL: &str = "sluse_store_rows_reduced_total";
/// Connections of the pool, by `state` (`open`, `idle`, `waiting`).
pub const STORE_CONNECTIONS: &str = "sluse_store_connections";
/// Rows deleted for their age or number, by `table`.
pub const STORE_ROWS_EXPIRED_TOTAL: &str = "sluse_store_rows_expired_total";
/// Seconds a call of ChirpStack's API took, by `call` and `outcome` (`ok`, `not_found`, `refused`, `forbidden`, `unavailable`).
pub const CHIRPSTACK_CALL_SECONDS: &str = "sluse_chirpstack_call_seconds";
/// Objects that may not stand in ChirpStack as they stand here.
pub const CHIRPSTACK_TASKS: &str = "sluse_chirpstack_tasks";
/// Age of the oldest of them, seconds.
pub const CHIRPSTACK_TASK_AGE_SECONDS: &str = "sluse_chirpstack_oldest_task_age_seconds";
/// Runs of jobs that one node does at a time, on this node, by `job_name` and `outcome` (`done`, `failed`).
pub const CLUSTER_JOB_RUNS_TOTAL: &str = "sluse_cluster_job_runs_total";
/// 1 while Sluse runs, with its `version`.
pub const BUILD_INFO: &str = "sluse_build_info";

/// From half a millisecond (a local round trip) to a minute (a target's time-out).
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const BYTES: [f64; 8] = [64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];
/// Of everything else: records, events, jobs, steps.
const NUMBERS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 250.0, 500.0, 1000.0, 4000.0];
/// Histograms keep their samples until they are drained.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    prometheus: PrometheusHandle,
    process: Collector,
}

impl Metrics {
    /// Installs the process's one recorder and describes every metric.
    ///
    /// # Errors
    /// When there is a recorder already.
    pub fn install() -> Result<Self, BuildError> {
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
            // Without buckets a histogram is rendered as a summary, which cannot be added up over nodes.
            .set_buckets(&NUMBERS)?
            .install_recorder()?;
        let process = Collector::default();
        process.describe();
        describe_all();
        metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { prometheus, process })
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        self.process.collect();
        self.prometheus.render()
    }

    /// Keeps histograms small; runs for ever.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            self.prometheus.run_upkeep();
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Describes every metric of the program to the recorder.
pub fn describe_all() {
    describe();
    crate::mail::describe();
    crate::system_log::describe();
    sluse_actors::metrics::describe();
    sluse_actors::intake::metrics::describe();
    sluse_actors::partition::metrics::describe();
    sluse_actors::target::metrics::describe();
    sluse_actors::reload::reloader::describe();
    sluse_http::metrics::describe();
    crate::log::metrics::describe();
    crate::kafka_log::metrics::describe();
    crate::redis::metrics::describe();
    crate::decoder::metrics::describe();
    crate::send::metrics::describe();
    crate::source::metrics::describe();
}

/// Help texts of the store's metrics.
fn describe() {
    describe_histogram!(STORE_CALL_SECONDS, Unit::Seconds, "time of a call of the database store, by call and outcome");
    describe_counter!(STORE_ROWS_TOTAL, Unit::Count, "rows written, by table");
    describe_counter!(STORE_ROWS_REDUCED_TOTAL, Unit::Count, "rows refused for their data and reduced, by table");
    describe_gauge!(STORE_CONNECTIONS, Unit::Count, "connections of the pool, by state");
    describe_counter!(STORE_ROWS_EXPIRED_TOTAL, Unit::Count, "rows deleted for their age or number, by table");
    describe_histogram!(
        CHIRPSTACK_CALL_SECONDS,
        Unit::Seconds,
        "time of a call of ChirpStack's API, by call and outcome"
    );
    describe_gauge!(CHIRPSTACK_TASKS, Unit::Count, "objects that may not stand in ChirpStack as they stand here");
    describe_gauge!(CHIRPSTACK_TASK_AGE_SECONDS, Unit::Seconds, "age of the oldest of them");
    describe_counter!(CLUSTER_JOB_RUNS_TOTAL, Unit::Count, "runs of jobs that one node does at a time, on this node");
    describe_gauge!(BUILD_INFO, Unit::Count, "1, with the version of sluse");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_has_help_buckets_and_process_figures() {
        let metrics = Metrics::install().unwrap();
        metrics::histogram!(STORE_CALL_SECONDS, "call" => "store_states", "outcome" => "ok").record(0.003);
        let text = metrics.render();
        assert!(text.contains("# HELP sluse_store_call_seconds time of a call"), "{text}");
        assert!(
            text.contains("sluse_store_call_seconds_bucket{call=\"store_states\",outcome=\"ok\",le=\"0.005\"} 1"),
            "{text}"
        );
        for name in [
            "sluse_source_batch_events",
            "sluse_decoder_batch_jobs",
            "sluse_partition_step_uplinks",
            "sluse_kafka_transaction_steps",
            "sluse_some_figure",
        ] {
            metrics::histogram!(name).record(7.0);
        }
        let text = metrics.render();
        assert!(text.contains("sluse_source_batch_events_bucket{le=\"16\"} 1"), "{text}");
        let summaries: Vec<&str> =
            text.lines().filter(|l| l.ends_with(" summary") || l.contains("quantile=")).collect();
        assert!(summaries.is_empty(), "{summaries:?}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        assert!(text.contains("sluse_build_info{version="), "{text}");
        assert!(Metrics::install().is_err(), "a second recorder would take half of the figures");
    }
}
