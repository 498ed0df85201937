//! Device stage, the partition's side: one consumer per assigned uplinks partition.
//!
//! Reading order: [`message`], [`consumer`] (the actor: reads, hands out), [`offsets`] (the window: what is open, what the next step
//! is), [`steps`] (committing, and what an unclear outcome means), [`devices`] (activation, panics,
//! reload, passivation), [`take`] (what happens at assignment), [`stage`] (all partitions of this node).

pub mod config;
pub mod consumer;
pub mod devices;
pub mod message;
pub mod metrics;
pub mod offsets;
pub mod stage;
pub mod steps;
pub mod take;
#[cfg(test)]
mod tests;

pub use config::{DevicePorts, DeviceStageConfig};
pub use stage::DeviceStage;
