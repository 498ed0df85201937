//! Limits that several nodes share. Each node keeps limits of its own too: when the shared ones do not answer, it goes on alone.
//!
//! All of them are leaky buckets: a place comes back every `interval`, and at most `burst` places are free at once.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

/// A bucket by what it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The same on every node. Nothing secret and nobody's name: adapters hash it before it leaves the process.
    pub key: String,
    /// How long until one place is free again.
    pub interval: Duration,
    /// Places when the bucket is empty.
    pub burst: u32,
}

/// Places that were taken on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub key: String,
    pub num: u32,
    pub interval: Duration,
}

/// What the nodes have taken together.
#[async_trait]
pub trait SharedLimits: Debug + Send + Sync + 'static {
    /// Takes a place in every one of these buckets, or in none: then how long to wait. `None` when there is no answer (within some
    /// hundred milliseconds).
    async fn attempt(&self, buckets: &[Bucket]) -> Option<Result<(), Duration>>;

    /// Adds what was taken here, and tells how full each bucket is over all nodes, as the time until it is empty; in order. `None` when
    /// there is no answer: it is not known then whether it was added.
    async fn add(&self, taken: &[Taken]) -> Option<Vec<Duration>>;
}
