//! Targets outside the log: their configuration, cursors, dead letters, logs, and what people ask of them.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::StoreError;
use crate::delivery::DeadLetter;
use crate::device::DecoderScript;
use crate::id::{DeadLetterId, DecoderId, DeviceId, TargetId};
use crate::partition::PartitionId;
use crate::record::Position;
use crate::target::{TargetConfig, TargetCursor, TargetStatus};

/// A line of a target's log, by the reference's rule: every error, and the first success after one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLogEntry {
    pub target: TargetId,
    pub device: Option<DeviceId>,
    pub decoder: Option<DecoderId>,
    pub is_error: bool,
    pub status_code: Option<u16>,
    pub message: String,
    pub logged_at_ms: i64,
}

/// What somebody asked of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetRequestKind {
    /// Offer everything from this time (Unix milliseconds) on again.
    RewindToTime(i64),
    /// Offer everything from this offset on again.
    RewindToOffset(u64),
    /// Offer these dead letters again.
    Replay(Vec<DeadLetterId>),
}

/// A request as it waits for the target's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRequest {
    /// Ascending.
    pub id: i64,
    pub target: TargetId,
    pub kind: TargetRequestKind,
}

/// What one flush of a deliveries partition writes, in one transaction.
#[derive(Clone, Debug)]
pub struct CursorBatch {
    pub partition: PartitionId,
    /// The epoch under which this partition was taken (I8).
    pub epoch: i64,
    /// Cursors that changed.
    pub cursors: Vec<TargetCursor>,
    /// How targets look, for those who ask another node; same order of targets is not needed.
    pub statuses: Vec<TargetStatus>,
    /// New ones: added after those that are gone or superseded have left.
    pub dead_letters: Vec<DeadLetter>,
    /// Dead letters that were offered again and are finished, or superseded by a rewind: they leave the list.
    pub dead_letters_gone: Vec<DeadLetterId>,
    /// Targets whose dead letters at or beyond an offset a rewind supersedes.
    pub dead_letters_superseded: Vec<(TargetId, u64)>,
    /// Requests that are done with.
    pub requests_done: Vec<i64>,
    pub log: Vec<TargetLogEntry>,
    /// `last_message_at` of targets that attempted something, Unix milliseconds.
    pub last_message_at: Vec<(TargetId, i64)>,
    /// Where targets without a row of their own stand: a target without holes follows it.
    pub position: Position,
}

/// Configuration, cursors and dead letters of targets.
#[async_trait]
pub trait TargetStore: Debug + Send + Sync + 'static {
    /// Takes a deliveries partition: raises its epoch and returns it with the stored position, if there is one.
    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError>;

    /// Every target of the partition that has a row, with its cursor, tombstones included: a late record must not start their
    /// counters anew.
    async fn load_cursors(&self, partition: PartitionId) -> Result<Vec<TargetCursor>, StoreError>;

    /// The configuration of these targets, or of all of the partition for `None`; a target that is gone is missing.
    async fn load_targets(
        &self,
        partition: PartitionId,
        targets: Option<&[TargetId]>,
    ) -> Result<Vec<Arc<TargetConfig>>, StoreError>;

    /// Writes a flush in one transaction; refused data is bisected out as with device states.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when somebody took the partition (I8); [`StoreError::Unavailable`] when nothing was written.
    async fn store_cursors(&self, batch: &CursorBatch) -> Result<(), StoreError>;

    /// Requests that wait for targets of this partition, oldest first.
    async fn load_requests(&self, partition: PartitionId) -> Result<Vec<TargetRequest>, StoreError>;

    /// Dead letters by id, for a replay; one that was purged is missing.
    async fn load_dead_letters(
        &self,
        target: TargetId,
        ids: &[DeadLetterId],
    ) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError>;

    /// The decoder as it is now and the device's record, to decode an `undecoded` delivery again; `None` when either is gone.
    async fn load_decoder(
        &self,
        decoder: DecoderId,
        device: DeviceId,
    ) -> Result<Option<(Arc<DecoderScript>, Arc<str>)>, StoreError>;
}
