//! What an embedded log is opened with, and why it could not be opened.

use std::path::PathBuf;

use super::store::StoreError;

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After `fdatasync`: an acknowledged record survives a power cut. Everything that waits shares one.
    FsyncBeforeAck,
    /// After the write: an acknowledged record survives `kill -9`, and a power cut takes at most the last so many milliseconds.
    /// Readers still see only what is synced, so a record becomes visible up to this much later.
    FsyncEveryMs(u64),
}

/// How an [`EmbeddedLog`](super::EmbeddedLog) is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedLogConfig {
    /// Its directory; made when it is not there. One process at a time uses it.
    pub dir: PathBuf,
    /// Partitions of each topic, fixed when the log is made.
    pub num_partitions: u32,
    /// Records older than this are dropped, uplinks only below their retention floor.
    pub retention_ms: u64,
    /// When the records of both topics are larger than this (as read, before compression), the oldest are dropped.
    pub retention_bytes_max: u64,
    /// Below so much free disk, appends are refused; steps go on, so that what is in the log can drain.
    pub free_space_reserve_bytes: u64,
    pub durability: Durability,
    /// Newest records kept in memory per partition of each topic, so that live readers never touch the disk.
    pub tail_cache_bytes_max: usize,
    /// Appends that wait for the writer; beyond this they are refused as unavailable, never queued.
    pub queue_bytes_max: usize,
}

impl EmbeddedLogConfig {
    /// The defaults: 7 days or 20 GiB, 1 GiB of free disk in reserve, every append synced before it is acknowledged.
    pub fn new(dir: impl Into<PathBuf>, num_partitions: u32) -> Self {
        Self {
            dir: dir.into(),
            num_partitions,
            retention_ms: 7 * 24 * 3_600 * 1_000,
            retention_bytes_max: 20 << 30,
            free_space_reserve_bytes: 1 << 30,
            durability: Durability::FsyncBeforeAck,
            tail_cache_bytes_max: 1 << 20,
            queue_bytes_max: 64 << 20,
        }
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error(
        "another process uses the log in {}: stop it, or give this one a data directory of its own",
        dir.display()
    )]
    Locked { dir: PathBuf },
    #[error(
        "the log in {} was made with {stored} partitions and cannot be opened with {asked}: set the count back; \
         growing means a new log after this one is drained",
        dir.display()
    )]
    PartitionCount { dir: PathBuf, stored: u32, asked: u32 },
    #[error("a log needs at least 1 and at most {max} partitions, not {asked}")]
    InvalidPartitionCount { asked: u32, max: u32 },
    #[error("the log's directory {} cannot be used: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the log's store in {} cannot be opened: {source}", dir.display())]
    Store { dir: PathBuf, source: StoreError },
}

/// Each partition is three keyspaces' worth of memory and files.
pub const NUM_PARTITIONS_MAX: u32 = 256;
