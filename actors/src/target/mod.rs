//! Target stage: one actor per data target sends what the deliveries log owes it, and nothing a receiver does delays another.
//!
//! ```text
//!                      live                          ┌─► TargetActor ─► TargetSender ─► receiver
//! deliveries log ─► DeliveriesConsumer ──────────────┤        │ ▲
//!        └────────────────► Sweep (lagging ones) ────┘        │ └─ configuration, requests (TargetPartition)
//!                                                             └─► CursorWriter: one transaction per second
//! ```
//!
//! Reading order: [`input`] (words), [`machine`] with [`feeding`], [`dispatch`] and [`again`] (what one target does), the parts it
//! is made of ([`cursor`], [`order`], [`breaker`], [`retry`], [`limiter`], [`rate`]); then `message`, `actor`, `consumer`, `sweep`,
//! `writer`, `partition` and [`stage`].

pub mod again;
pub mod breaker;
pub mod cursor;
pub mod dispatch;
pub mod feeding;
pub mod input;
pub mod limiter;
pub mod machine;
pub mod order;
pub mod rate;
pub mod retry;

mod actor;
mod board;
pub mod config;
mod consumer;
mod decode_again;
mod message;
pub mod metrics;
mod partition;
mod requests;
pub mod stage;
mod sweep;
mod takeover;
mod writer;

pub use config::{Clock, TargetPorts, TargetStageConfig};
pub use stage::{TargetStage, TargetStageHandle};

#[cfg(test)]
mod tests;
