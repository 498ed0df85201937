//! Metrics of the intake.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Arrivals that became durable uplinks. Labels: `source`, `event`.
pub const ACCEPTED: &str = "sluse_intake_accepted_total";
/// Arrivals that were not taken. Labels: `source`, `reason` (`unknown_sender`, `later`, `too_often`).
pub const REFUSED: &str = "sluse_intake_refused_total";
/// Arrivals of senders that are heard too often: refused by HTTP, taken in all the same by MQTT. Label: `source`.
pub const OVER_LIMIT: &str = "sluse_intake_over_limit_total";
/// From hand-over to durable.
pub const APPEND_SECONDS: &str = "sluse_intake_append_seconds";
/// Look-ups that had to ask PostgreSQL.
pub const LOOKUPS: &str = "sluse_intake_directory_lookups_total";
/// Senders in the cache, registered and not.
pub const CACHED_SENDERS: &str = "sluse_intake_directory_cached";

/// Registers help texts and units.
pub fn describe() {
    describe_counter!(ACCEPTED, Unit::Count, "Arrivals that became durable uplinks");
    describe_counter!(REFUSED, Unit::Count, "Arrivals that were not taken, by reason");
    describe_counter!(OVER_LIMIT, Unit::Count, "Arrivals of senders that are heard too often, by source");
    describe_histogram!(APPEND_SECONDS, Unit::Seconds, "Time from hand-over to durable");
    describe_counter!(LOOKUPS, Unit::Count, "Senders that had to be looked up in PostgreSQL");
    describe_gauge!(CACHED_SENDERS, Unit::Count, "Senders in the cache, registered and not");
}
