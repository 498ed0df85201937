//! The log of several nodes, in Kafka: the [`Log`](sluse_schema::port::Log) with nothing lost whichever of them dies.
//!
//! Reading order: [`kafka`] (the port), [`append`] with `answers` (uplinks in), [`steps`] with [`transaction`] (deliveries and positions, all or nothing),
//! [`claim`], [`group`] with [`rebalance`], [`membership`], [`lease`] and [`orphans`] (who owns what), [`reader`] with [`view`], [`own`], [`reel`] and [`blocks`] (what is read), [`topics`],
//! [`config`].

mod answers;
pub mod append;
pub mod blocks;
pub mod claim;
pub mod config;
pub mod group;
pub mod kafka;
pub mod lease;
pub mod link;
pub mod membership;
pub mod metrics;
mod native;
pub mod orphans;
pub mod own;
pub mod reader;
pub mod rebalance;
mod record;
pub mod reel;
pub mod steps;
pub mod topics;
pub mod transaction;
pub mod view;

pub use config::{KafkaLogConfig, OpenKafkaError};
pub use kafka::KafkaLog;
pub use lease::{Lease, LeasedSenders};
