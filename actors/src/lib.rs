//! The data path of Sluse as supervised actors, on ports alone: no Kafka, no PostgreSQL, no network in here.
//!
//! ```text
//! intake ─► uplinks log ─► partition (consumer) ─► device (actors) ─► ONE step ─► deliveries log ─► target (actors) ─► receiver
//!                               └─► persist (state follows the log)                     └─► cursors, dead letters
//! ```
//!
//! Reading order: [`mailbox`] and [`supervise`] (how actors talk and come back), [`intake`] (how something gets in),
//! [`partition`] (one consumer per partition: window, steps, replay), [`device`] (one actor per device and its pure machine),
//! [`persist`] (state rows), [`target`] (one actor per target), [`reload`] (administration reaches running actors).

pub mod clock;
pub mod device;
pub mod intake;
pub mod mailbox;
pub mod metrics;
pub mod partition;
pub mod persist;
mod releasing;
pub mod reload;
pub mod supervise;
mod table;
pub mod tail;
pub mod target;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
