//! What the tests of the embedded log share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Log, ReadLimit};
use sluse_schema::record::{Offset, Record, Step, Topic};
use tempfile::TempDir;

pub const P0: PartitionId = PartitionId(0);
pub const P1: PartitionId = PartitionId(1);
pub const WIDE: ReadLimit = ReadLimit { num_records_max: 1_000_000, num_bytes_max: 1 << 30 };

pub use sluse_schema::testing::log_conformance::{read_all, record};

/// A configuration for tests: the machine's free disk is none of their business, and their timestamps are from 1970.
pub fn config(dir: &TempDir, num_partitions: u32) -> EmbeddedLogConfig {
    of_dir(&dir.path().join("log"), num_partitions)
}

pub fn of_dir(dir: &std::path::Path, num_partitions: u32) -> EmbeddedLogConfig {
    let defaults = EmbeddedLogConfig::new(dir, num_partitions);
    EmbeddedLogConfig { free_space_reserve_bytes: 0, retention_ms: u64::MAX, ..defaults }
}

pub fn open(dir: &TempDir, num_partitions: u32) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(config(dir, num_partitions)).unwrap()
}

pub fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value.to_vec()).unwrap()).collect()
}

/// Text that cannot be compressed, different for each seed.
pub fn noise(seed: u64, num_bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters = (0..num_bytes).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state >> 32) as u8 % 90)
    });
    letters.collect()
}

/// A step from 0 over `next` uplinks of partition 0 with one delivery of this text to partition 0.
pub fn step(from: u64, next: u64, text: &str) -> Step {
    Step { partition: P0, from: Offset(from), next: Offset(next), outputs: vec![(P0, record(1, 1_000, text))] }
}

pub async fn uplinks(log: &dyn Log) -> Vec<String> {
    texts(&read_all(log, Topic::Uplinks, P0).await)
}

pub async fn deliveries(log: &dyn Log) -> Vec<String> {
    texts(&read_all(log, Topic::Deliveries, P0).await)
}

/// Waits for what happens by itself within seconds.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started_at = Instant::now();
    while !is_so().await {
        assert!(started_at.elapsed() < Duration::from_secs(30), "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
