//! Devices outside the log: who a sender is, what administration says of a device, and the state that follows the log.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use crate::change::ChangeEvent;
use crate::device::{DeviceConfig, DeviceRef, DeviceState};
use crate::id::{DecoderId, DeviceId, DeviceKey};
use crate::partition::PartitionId;
use crate::port::decoder::DecodeErrorKind;
use crate::record::Position;

/// Looks senders up in the database itself. The bounded cache before it is `actors`' part.
#[async_trait]
pub trait DeviceDirectory: Debug + Send + Sync + 'static {
    /// One answer per key, in order; `None`: there is no such device.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the answer is "later", never "unknown".
    async fn find_devices(&self, keys: &[DeviceKey]) -> Result<Vec<Option<DeviceRef>>, StoreError>;
}

/// A device that becomes active: what administration says, and what is remembered.
#[derive(Clone, Debug)]
pub struct Activation {
    pub config: Arc<DeviceConfig>,
    /// Without the latest payload, which stays in the store.
    pub state: Option<DeviceState>,
}

/// What one flush of a partition writes, in one transaction.
#[derive(Clone, Debug)]
pub struct StateBatch {
    pub partition: PartitionId,
    /// The epoch under which this partition was taken (I8).
    pub epoch: i64,
    /// Changed devices, one row each; rows of deleted devices are skipped.
    pub states: Vec<DeviceState>,
    /// Everything below it is in the rows; never ahead of the committed position.
    pub position: Position,
}

/// A decode that failed, for the list of the decoder's and the device's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFailure {
    pub decoder: DecoderId,
    pub device: DeviceId,
    pub kind: DecodeErrorKind,
    pub message: String,
    /// The payload that could not be decoded, at most 4 kB of it.
    pub sample: Bytes,
    pub failed_at_ms: i64,
    /// How many failures alike this one stands for.
    pub num_failures: u32,
}

/// Configuration and state of devices.
#[async_trait]
pub trait DeviceStore: Debug + Send + Sync + 'static {
    /// Configuration and stored state; a device that is gone is missing from the answer. Order is free.
    async fn activate(&self, devices: &[DeviceId]) -> Result<Vec<Activation>, StoreError>;

    /// Configuration alone, for a reload; a device that is gone is missing from the answer. Order is free.
    async fn load_configs(&self, devices: &[DeviceId]) -> Result<Vec<Arc<DeviceConfig>>, StoreError>;

    /// Takes an uplinks partition: raises its epoch and returns it with the stored state position.
    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError>;

    /// Writes rows and state position in one transaction. A row with `applied` behind the stored one is skipped.
    /// Data that the database refuses is bisected out: the bad row is reduced to its counters, the others are written.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when somebody took the partition (I8); [`StoreError::Unavailable`] when nothing was written.
    async fn store_states(&self, batch: &StateBatch) -> Result<(), StoreError>;

    /// Lists failed decodes, newest kept (bounded per decoder). Loss of these lines is no loss of data.
    async fn record_decode_failures(&self, failures: &[DecodeFailure]) -> Result<(), StoreError>;
}

/// Tells what administration changed.
#[async_trait]
pub trait ChangeFeed: Debug + Send + Sync + 'static {
    /// The changes after `after`, oldest first, at most `num_max`; `None` when `after` is too old to tell: reload everything.
    async fn changes_since(&self, after: i64, num_max: usize) -> Result<Option<Vec<ChangeEvent>>, StoreError>;

    /// The newest id there is.
    async fn newest_change(&self) -> Result<i64, StoreError>;

    /// Completes when something may have changed (NOTIFY), or spuriously.
    async fn wait_for_change(&self);
}
