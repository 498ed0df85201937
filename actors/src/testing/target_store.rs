//! Targets in memory: configuration, cursors, dead letters and requests, written as the database does: all of a flush or nothing,
//! under the partition's epoch. Tests switch it off and look inside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::table::HashMap;
use async_trait::async_trait;
use sluse_schema::delivery::DeadLetter;
use sluse_schema::device::DecoderScript;
use sluse_schema::id::{DeadLetterId, DecoderId, DeviceId, TargetId};
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{CursorBatch, StoreError, TargetLogEntry, TargetRequest, TargetRequestKind, TargetStore};
use sluse_schema::record::Position;
use sluse_schema::target::{TargetConfig, TargetCursor, TargetStatus};

#[derive(Debug, Default)]
struct Inner {
    epochs: HashMap<PartitionId, (i64, Option<Position>)>,
    configs: BTreeMap<TargetId, Arc<TargetConfig>>,
    cursors: BTreeMap<TargetId, TargetCursor>,
    statuses: BTreeMap<TargetId, TargetStatus>,
    letters: BTreeMap<i64, DeadLetter>,
    requests: BTreeMap<i64, TargetRequest>,
    log: Vec<TargetLogEntry>,
    decoders: HashMap<DecoderId, Arc<DecoderScript>>,
    next_id: i64,
    is_unavailable: bool,
    num_stored: usize,
    letters_made: HashMap<TargetId, u64>,
}

/// The in-memory [`TargetStore`].
#[derive(Debug)]
pub struct MemoryTargetStore {
    num_partitions: u32,
    inner: Mutex<Inner>,
}

impl MemoryTargetStore {
    /// A store without targets.
    pub fn new(num_partitions: u32) -> Arc<Self> {
        Arc::new(Self { num_partitions, inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn available(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.is_unavailable {
            return Err(StoreError::Unavailable("switched off by the test".into()));
        }
        Ok(inner)
    }

    /// While on, every call answers [`StoreError::Unavailable`].
    pub fn set_unavailable(&self, is_unavailable: bool) {
        self.lock().is_unavailable = is_unavailable;
    }

    /// Creates or changes a target.
    pub fn put_target(&self, config: TargetConfig) {
        self.lock().configs.insert(config.target, Arc::new(config));
    }

    /// Deletes a target; its dead letters and requests go with it, its cursor stays.
    pub fn delete_target(&self, target: TargetId) {
        let mut inner = self.lock();
        inner.configs.remove(&target);
        inner.letters.retain(|_, letter| letter.meta.target != target);
        inner.requests.retain(|_, request| request.target != target);
    }

    /// Creates or changes a decoder.
    pub fn put_decoder(&self, script: DecoderScript) {
        self.lock().decoders.insert(script.id, Arc::new(script));
    }

    /// Asks something of a target.
    pub fn ask(&self, target: TargetId, kind: TargetRequestKind) -> i64 {
        let mut inner = self.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        inner.requests.insert(id, TargetRequest { id, target, kind });
        id
    }

    /// Takes a partition as another node would: whoever had it is fenced.
    pub fn steal(&self, partition: PartitionId) {
        self.lock().epochs.entry(partition).or_default().0 += 1;
    }

    /// The row of a target.
    pub fn cursor(&self, target: TargetId) -> Option<TargetCursor> {
        self.lock().cursors.get(&target).cloned()
    }

    /// The status that was stored with it.
    pub fn status(&self, target: TargetId) -> Option<TargetStatus> {
        self.lock().statuses.get(&target).cloned()
    }

    /// The stored position of a partition.
    pub fn position(&self, partition: PartitionId) -> Option<Position> {
        self.lock().epochs.get(&partition)?.1.clone()
    }

    /// Dead letters of a target.
    pub fn letters(&self, target: TargetId) -> Vec<(DeadLetterId, DeadLetter)> {
        let inner = self.lock();
        let of_target = inner.letters.iter().filter(|(_, letter)| letter.meta.target == target);
        of_target.map(|(id, letter)| (DeadLetterId(*id), letter.clone())).collect()
    }

    /// Dead letters that were ever written for a target.
    pub fn num_letters_made(&self, target: TargetId) -> u64 {
        self.lock().letters_made.get(&target).copied().unwrap_or(0)
    }

    /// The epoch of a partition.
    pub fn epoch(&self, partition: PartitionId) -> i64 {
        self.lock().epochs.get(&partition).map_or(0, |row| row.0)
    }

    /// Requests that are not done.
    pub fn requests(&self) -> Vec<TargetRequest> {
        self.lock().requests.values().cloned().collect()
    }

    /// Lines of all targets' logs.
    pub fn log_lines(&self) -> Vec<TargetLogEntry> {
        self.lock().log.clone()
    }

    /// Flushes that were stored.
    pub fn num_stored(&self) -> usize {
        self.lock().num_stored
    }
}

#[async_trait]
impl TargetStore for MemoryTargetStore {
    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError> {
        let mut inner = self.available()?;
        let row = inner.epochs.entry(partition).or_default();
        row.0 += 1;
        Ok(row.clone())
    }

    async fn load_cursors(&self, partition: PartitionId) -> Result<Vec<TargetCursor>, StoreError> {
        let inner = self.available()?;
        let is_ours = |cursor: &&TargetCursor| partition_of_target(cursor.target, self.num_partitions) == partition;
        Ok(inner.cursors.values().filter(is_ours).cloned().collect())
    }

    async fn load_targets(
        &self,
        partition: PartitionId,
        targets: Option<&[TargetId]>,
    ) -> Result<Vec<Arc<TargetConfig>>, StoreError> {
        let inner = self.available()?;
        let is_wanted = |config: &&Arc<TargetConfig>| {
            partition_of_target(config.target, self.num_partitions) == partition
                && targets.is_none_or(|targets| targets.contains(&config.target))
        };
        Ok(inner.configs.values().filter(is_wanted).cloned().collect())
    }

    async fn store_cursors(&self, batch: &CursorBatch) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        let mut inner = self.available()?;
        let row = inner.epochs.entry(batch.partition).or_default();
        if row.0 != batch.epoch {
            return Err(StoreError::Fenced { partition: batch.partition.0, current: row.0, ours: batch.epoch });
        }
        row.1 = Some(batch.position.clone());
        for cursor in &batch.cursors {
            inner.cursors.insert(cursor.target, cursor.clone());
        }
        for status in &batch.statuses {
            inner.statuses.insert(status.target_id, status.clone());
        }
        for (target, from) in &batch.dead_letters_superseded {
            inner.letters.retain(|_, letter| letter.meta.target != *target || letter.offset < *from);
        }
        for id in &batch.dead_letters_gone {
            inner.letters.remove(&id.0);
        }
        for letter in &batch.dead_letters {
            // A flush whose answer was lost is written again: what stands there already is not written twice.
            let is_same = |l: &DeadLetter| {
                (l.meta.target, l.offset, l.meta.event_key, l.died_at_ms)
                    == (letter.meta.target, letter.offset, letter.meta.event_key, letter.died_at_ms)
            };
            if inner.configs.contains_key(&letter.meta.target) && !inner.letters.values().any(is_same) {
                inner.next_id += 1;
                let id = inner.next_id;
                inner.letters.insert(id, letter.clone());
                *inner.letters_made.entry(letter.meta.target).or_default() += 1;
            }
        }
        for id in &batch.requests_done {
            inner.requests.remove(id);
        }
        inner.log.extend(batch.log.iter().cloned());
        inner.num_stored += 1;
        Ok(())
    }

    async fn load_requests(&self, partition: PartitionId) -> Result<Vec<TargetRequest>, StoreError> {
        let inner = self.available()?;
        let is_ours = |request: &&TargetRequest| partition_of_target(request.target, self.num_partitions) == partition;
        Ok(inner.requests.values().filter(is_ours).cloned().collect())
    }

    async fn load_dead_letters(
        &self,
        target: TargetId,
        ids: &[DeadLetterId],
    ) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError> {
        let inner = self.available()?;
        let found = ids.iter().filter_map(|id| Some((*id, inner.letters.get(&id.0)?.clone())));
        Ok(found.filter(|(_, letter)| letter.meta.target == target).collect())
    }

    async fn load_decoder(
        &self,
        decoder: DecoderId,
        _: DeviceId,
    ) -> Result<Option<(Arc<DecoderScript>, Arc<str>)>, StoreError> {
        let inner = self.available()?;
        Ok(inner.decoders.get(&decoder).map(|script| (Arc::clone(script), Arc::from("{}"))))
    }
}
