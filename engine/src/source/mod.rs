//! Sources that Sluse itself connects to. What comes in over HTTP is in the `http` crate; both hand in at the same door, the
//! [`Intake`](sluse_schema::port::Intake).
//!
//! Reading order: [`event`] (what is taken in), [`ack_window`] and [`lanes`] (pure: in which order), [`gateway_state`],
//! [`chirpstack`] (the source), `session` (its connections, one after another), `link` (a connection's packets), `low_water` (when
//! its reader is woken), [`owner`] (which node holds it).

pub mod ack_window;
pub mod chirpstack;
pub mod event;
pub mod gateway_state;
pub mod lanes;
mod link;
mod low_water;
pub mod metrics;
pub mod owner;
mod session;

pub use chirpstack::{ChirpstackConfig, ChirpstackSource, HealthCell, SourceError, SourceHealth};
pub use owner::{SessionHealth, SessionOwner};
