//! Senders: how a delivery reaches its receiver. One attempt at a time; retry, order and limits are the target's actor's part.
//!
//! Reading order: [`factory`] (what a target gets), [`http`] (with `http_plain` and `http1`), [`mqtt`] (the attempts), [`egress`], [`resolve`], [`relay`] (where
//! attempts may go), [`tls`], [`retry_after`].

pub mod egress;
pub mod factory;
pub mod http;
mod http1;
mod http_plain;
pub mod metrics;
pub mod mqtt;
mod mqtt_connection;
mod mqtt_in_flight;
pub(crate) mod mqtt_url;
mod mqtt_v5;
pub mod relay;
pub mod resolve;
pub mod retry_after;
pub mod tls;

pub use egress::{EgressPolicy, EgressSettingError};
pub use factory::{Senders, SendersError};
