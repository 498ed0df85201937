//! Names, help texts and units of the HTTP layer's metrics, and the handles that the hot path keeps.

use std::time::Duration;

use actix_web::http::StatusCode;
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

/// Administrative requests, by class of status.
pub const REQUESTS: &str = "sluse_http_requests_total";
/// How long administrative requests took.
pub const REQUEST_SECONDS: &str = "sluse_http_request_seconds";
/// Handlers that panicked.
pub const PANICS: &str = "sluse_http_panics_total";
/// Log-ins, by outcome.
pub const LOG_INS: &str = "sluse_http_log_ins_total";
/// Lines of the change log about failures, by what became of them.
pub const AUDIT_LINES: &str = "sluse_http_audit_lines_total";
/// What devices sent over HTTP, by outcome.
pub const ARRIVALS: &str = "sluse_ingest_http_arrivals_total";
/// How long devices waited for their answer.
pub const ARRIVAL_SECONDS: &str = "sluse_ingest_http_arrival_seconds";

/// Tells the recorder what the names mean.
pub fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Administrative requests answered, by class of status");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "Time from an administrative request to its answer");
    describe_counter!(PANICS, Unit::Count, "Handlers that panicked; each is a bug to report");
    describe_counter!(LOG_INS, Unit::Count, "Log-ins, by outcome");
    describe_counter!(
        AUDIT_LINES,
        Unit::Count,
        "Lines of the change log about what failed: written, dropped for there were too many, failed"
    );
    describe_counter!(ARRIVALS, Unit::Count, "What devices sent over HTTP, by outcome");
    describe_histogram!(
        ARRIVAL_SECONDS,
        Unit::Seconds,
        "Time from an accepted HTTP arrival to its answer, durable append included"
    );
}

/// Counts an administrative request.
pub fn request_done(status: StatusCode, took: Duration) {
    let class = match status.as_u16() {
        0..400 => "success",
        400..500 => "client_error",
        _ => "server_error",
    };
    counter!(REQUESTS, "class" => class).increment(1);
    histogram!(REQUEST_SECONDS).record(took.as_secs_f64());
}

/// Counts a panic.
pub fn handler_panicked() {
    counter!(PANICS).increment(1);
}

/// Counts a log-in.
pub fn log_in(outcome: &'static str) {
    counter!(LOG_INS, "outcome" => outcome).increment(1);
}

/// Counts a line of the change log about something that failed.
pub fn audit_line(outcome: &'static str) {
    counter!(AUDIT_LINES, "outcome" => outcome).increment(1);
}

/// Handles for what happens once per uplink.
pub struct IngestMetrics {
    pub accepted: Counter,
    pub unknown_sender: Counter,
    pub bad_request: Counter,
    pub too_large: Counter,
    pub later: Counter,
    pub too_often: Counter,
    pub accepted_seconds: Histogram,
}

impl std::fmt::Debug for IngestMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IngestMetrics")
    }
}

impl IngestMetrics {
    /// Handles of the recorder that is installed now.
    pub fn new() -> Self {
        let of = |outcome: &'static str| counter!(ARRIVALS, "outcome" => outcome);
        Self {
            accepted: of("accepted"),
            unknown_sender: of("unknown_sender"),
            bad_request: of("bad_request"),
            too_large: of("too_large"),
            later: of("later"),
            too_often: of("too_often"),
            accepted_seconds: histogram!(ARRIVAL_SECONDS),
        }
    }
}

impl Default for IngestMetrics {
    fn default() -> Self {
        Self::new()
    }
}
