//! The log: append, read, and commit a step. One conformance suite (`testing::log_conformance`) runs against every
//! implementation.
//!
//! Limits: both topics have the same number of partitions, fixed when the log is made. Readers see only what is durable.

use std::fmt::Debug;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::id::TargetId;
use crate::partition::PartitionId;
use crate::record::{LogIdentity, NewRecord, Offset, Position, Record, Resolution, Step, Topic};

/// Why the log could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing was written; the same call may go through later.
    #[error("the log is not available: {0}")]
    Unavailable(String),
    /// The reserve of free disk is reached: sources answer 503 until there is room.
    #[error("the log's disk is full: {free_bytes} bytes free, {reserve_bytes} kept in reserve")]
    Full {
        /// What the file system has left.
        free_bytes: u64,
        /// What must stay free.
        reserve_bytes: u64,
    },
    /// The outcome is not known: read the committed position before anything is tried again.
    #[error("the outcome of a step is not known: {0}")]
    Unclear(String),
    /// The partition is not ours any more, or the step does not start at the committed position (I8).
    #[error("partition {partition} refused the step: {reason}")]
    Fenced {
        /// The partition concerned.
        partition: PartitionId,
        /// What the log found instead.
        reason: String,
    },
    /// The offset lies before the first record that is still kept.
    #[error("offset {asked} of {topic}/{partition} is gone, the log starts at {start}", topic = topic.name())]
    OutOfRange {
        /// The topic.
        topic: Topic,
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        asked: Offset,
        /// The first record that is still there.
        start: Offset,
    },
}

/// How much a read may bring at once.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    pub num_records_max: usize,
    /// At least one record is brought even when it alone is larger.
    pub num_bytes_max: usize,
}

/// What a read brought.
#[derive(Clone, Debug)]
pub struct ReadBatch {
    pub records: Vec<Record>,
    /// Where the next read goes on; beyond the last record where the log has gaps, or where an index skipped others' records.
    pub next: Offset,
    /// One past the last durable record of the partition.
    pub end: Offset,
}

/// What waits for one target in its partition, from an offset on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetBacklog {
    pub num_records: u64,
    /// The first of them, with its timestamp (Unix milliseconds).
    pub first: Option<(Offset, i64)>,
}

/// A change of what this node owns. Uplinks and deliveries partitions of one number go together.
#[derive(Debug)]
pub enum Assignment {
    /// These partitions are ours from now on.
    Assigned(Vec<PartitionId>),
    /// These are to be given up: answer after the last step and cursor are written.
    Revoked {
        /// What goes.
        partitions: Vec<PartitionId>,
        /// Dropped or answered when nothing more will be written for them.
        done: AssignmentDone,
    },
    /// These may be somebody else's already: drop them at once, and write nothing more.
    Lost(Vec<PartitionId>),
}

/// Tells the log that a revocation is complete, at the latest when it is dropped.
pub struct AssignmentDone(Option<Box<dyn FnOnce() + Send>>);

impl AssignmentDone {
    /// Calls `done` once.
    pub fn new(done: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(done)))
    }
}

impl Drop for AssignmentDone {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

impl Debug for AssignmentDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AssignmentDone")
    }
}

/// The log as both stages and the sources use it.
#[async_trait]
pub trait Log: Debug + Send + Sync + 'static {
    /// Which log this is; stored with every position that is kept elsewhere.
    fn identity(&self) -> LogIdentity;

    /// Partitions of each topic; never changes.
    fn num_partitions(&self) -> u32;

    /// Appends to a partition of the uplinks topic, in order, and returns once all of it is durable.
    /// Appends of one partition that overlap keep the order in which this method was called (first polled), and after one that failed
    /// none that was called before the failure was known is accepted.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] and [`LogError::Full`] when nothing was written; [`LogError::Unclear`] when it may have been:
    /// a sender that is told "later" then sends a repeat.
    async fn append(&self, partition: PartitionId, records: Vec<NewRecord>) -> Result<Offset, LogError>;

    /// Appends to several partitions of the uplinks topic, each as [`Log::append`] does, and answers in the order of the parts
    /// once the last of them is durable or refused. A log that writes all partitions together overrides it: whoever waits is then
    /// woken once, not once per partition.
    async fn append_all(&self, parts: Vec<(PartitionId, Vec<NewRecord>)>) -> Vec<Result<Offset, LogError>> {
        join_all(parts.into_iter().map(|(partition, records)| self.append(partition, records))).await
    }

    /// Commits a step: all of its outputs and its position, or nothing (I1).
    ///
    /// # Errors
    /// [`LogError::Fenced`] when `step.from` is not the committed position, [`LogError::Unclear`] when the outcome has to be
    /// read from [`Log::committed`] first; otherwise nothing was written.
    async fn commit_step(&self, step: Step) -> Result<(), LogError>;

    /// The committed position of an uplinks partition, stable: no step of ours is still on its way.
    /// `None` when nothing was ever committed.
    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError>;

    /// Reads from `from` on. Returns at once, with no records when there are none yet.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] when `from` lies before the first record.
    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError>;

    /// Completes when the partition has a durable record at or beyond `offset`, or spuriously. Callers poll it beside other work.
    async fn wait_for(&self, topic: Topic, partition: PartitionId, offset: Offset);

    /// First kept offset and the end (one past the last durable record).
    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<(Offset, Offset), LogError>;

    /// The first offset whose record has a timestamp at or after `at_ms`; the end when there is none.
    async fn offset_at(&self, topic: Topic, partition: PartitionId, at_ms: i64) -> Result<Offset, LogError>;

    /// Like [`Log::read`] on the deliveries topic, with only the records of one target. `next` lies beyond everything that was
    /// looked at, so that a target with nothing to read still moves.
    async fn read_target(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError>;

    /// Counts what stands in `[from, until)` for one target, exactly.
    async fn backlog(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, LogError>;

    /// What a position that was stored elsewhere means here.
    async fn resolve(&self, topic: Topic, partition: PartitionId, stored: &Position) -> Result<Resolution, LogError>;

    /// Nothing at or beyond `floor` may be trimmed, however old: for uplinks the state position.
    fn set_retention_floor(&self, topic: Topic, partition: PartitionId, floor: Offset);

    /// Completes with the next change of what this node owns. The first call brings what it owns at the start.
    async fn next_assignment(&self) -> Assignment;

    /// Whether the partition is still assigned to this node, as the group says now and not as this node remembers it. Asked around
    /// the raise of an epoch: a node that slept must not fence the one that works on its partitions now (I8). A log of one node
    /// always says yes.
    ///
    /// # Errors
    /// When the group cannot be asked now.
    async fn is_assigned(&self, partition: PartitionId) -> Result<bool, LogError> {
        let _ = partition;
        Ok(true)
    }

    /// Whether the log takes appends right now; the text is for `/readyz`.
    async fn health(&self) -> Result<(), LogError>;

    /// Refuses new appends, finishes those under way, and closes cleanly. Reads may go on until the value is dropped.
    async fn close(&self) -> Result<(), LogError>;
}
