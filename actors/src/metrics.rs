//! Every metric of the actors that is not of one stage alone; stages keep theirs in their own `metrics.rs`.

use metrics::{Unit, describe_counter, describe_gauge};

/// Time senders waited for an actor to take and answer a message. Label: `actor`.
pub const MAILBOX_WAIT_MICROSECONDS: &str = "sluse_mailbox_wait_microseconds_total";
/// Actors that ended by a panic. Label: `actor`.
pub const ACTOR_PANICS: &str = "sluse_actor_panics_total";
/// Actors started again by their supervisor. Label: `actor`.
pub const ACTOR_RESTARTS: &str = "sluse_actor_restarts_total";
/// Actors whose restart budget is used up: they come back only at the longest backoff. Label: `actor`.
pub const ACTORS_OVER_BUDGET: &str = "sluse_actors_over_restart_budget";

/// Registers help texts and units.
pub fn describe() {
    describe_counter!(
        MAILBOX_WAIT_MICROSECONDS,
        Unit::Microseconds,
        "Time senders waited for an actor to take and answer a message"
    );
    describe_counter!(ACTOR_PANICS, Unit::Count, "Actors that ended by a panic");
    describe_counter!(ACTOR_RESTARTS, Unit::Count, "Actors started again by their supervisor");
    describe_gauge!(ACTORS_OVER_BUDGET, Unit::Count, "Actors that fail more often than their restart budget allows");
}
