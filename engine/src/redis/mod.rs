//! Redis, which is optional: what nodes share so that several behave like one. Nothing in it is ever needed.
//!
//! [`limits`] (over all nodes, by two scripts), [`tail`] (lines of the live tail from the node that handles a device to the node where
//! somebody watches). While Redis is away each node goes on alone: limits count this node only, the tail shows what this node
//! handles. `/readyz` says so without failing, `sluse_redis_connected` is 0, and all comes back by itself.
//!
//! Keys and channels begin with `sluse:` and the installation's id (that of its database), so that several may use one Redis; keys end
//! by themselves. One server is meant, not a Redis Cluster: a script touches several keys.

mod connection;
mod limits;
mod tail;

pub mod metrics;

pub use connection::{Redis, RedisConfig, RedisError};
