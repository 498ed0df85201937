//! The fjall database under the log, and reading in it.
//!
//! One keyspace per topic and partition, of record batches: keys only rise, nothing is overwritten or deleted one by one, so that a compaction only
//! moves tables and old ones are dropped whole. One keyspace for the index by target, one for the few figures of the log itself.
//! Reads here block on the disk; the port runs them on the blocking pool.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{LogError, ReadBatch, ReadLimit, TargetBacklog};
use sluse_schema::record::{Offset, Record, Topic};

use super::batch::{self, Damaged, RecordBatch};
use super::journal_tail;
use super::keys::{self, Running};
use super::postings::{self, Postings};
use super::tail_cache::Taken;

// Measured in a release build on 2 cores, uplinks of 1.6 kB of JSON with a delivery of 300 B each, CPU per uplink, when every record
// was an entry of its own: blocks with LZ4 3.3 us and 285 B of tables, without 3.4 us and 1 690 B; blocks of 4 KiB 405 B, of 64 KiB 225 B
// at the same CPU; two fjall workers instead of one 5.5 us. In batches the engine as a whole takes 8 % less, by turns at 10 000/s; the
// tables then take about 380 B at 5 000/s, where a batch is smaller than a block.

/// Memory one keyspace gathers before it is written as a table, in compressed batches. 16 of them with 8 partitions, so this bounds the
/// log's memory.
const MEMTABLE_BYTES: u64 = 1 << 20;
const INDEX_MEMTABLE_BYTES: u64 = 4 << 20;
const META_MEMTABLE_BYTES: u64 = 1 << 20;
/// What a restart may have to replay.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Blocks that readers of older records find again.
const BLOCK_CACHE_BYTES: u64 = 16 << 20;
/// A block is the unit of reading and of compression: the log is read in order.
const BLOCK_BYTES: u32 = 16 << 10;
/// From this many tables that wait to be written, the writer waits too (fjall itself would at 4, deaf to its own failure).
const NUM_SEALED_MEMTABLES_MAX: usize = 3;
const NUM_INDEX_L0_TABLES_MAX: usize = 24;
/// How much sparser than dense a target's records may lie and still be read by scanning.
const SCAN_RATIO: u64 = 4;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Fjall(#[from] fjall::Error),
    #[error("{0} is damaged")]
    Damaged(String),
    #[error("it has format {stored}, this program reads format {ours}: use the program that wrote it")]
    Format { stored: u32, ours: u32 },
    #[error("{0}")]
    Fault(&'static str),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// An open database.
pub struct Store {
    db: Database,
    pub meta: Keyspace,
    pub index: Keyspace,
    uplinks: Vec<Keyspace>,
    deliveries: Vec<Keyspace>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("num_partitions", &self.uplinks.len()).finish_non_exhaustive()
    }
}

fn records_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .manual_journal_persist(true)
}

fn index_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(INDEX_MEMTABLE_BYTES)
        .compaction_strategy(std::sync::Arc::new(Leveled::default().with_table_target_size(INDEX_MEMTABLE_BYTES)))
        .manual_journal_persist(true)
}

fn meta_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(META_MEMTABLE_BYTES).manual_journal_persist(true)
}

impl Store {
    /// Opens the database in `dir`, or makes it. A batch that a power cut tore is cut off: it was never acknowledged.
    pub fn open(dir: &Path, num_partitions: u32) -> Result<Self, StoreError> {
        match Self::open_whole(dir, num_partitions) {
            Err(StoreError::Fjall(fjall::Error::JournalRecovery(damage))) => match journal_tail::cut_torn_batch(dir)? {
                Some(num_bytes) => {
                    tracing::error!(num_bytes, "the log's last write was torn, as by a power cut, and is cut off");
                    Self::open_whole(dir, num_partitions)
                }
                None => Err(fjall::Error::JournalRecovery(damage).into()),
            },
            opened => opened,
        }
    }

    fn open_whole(dir: &Path, num_partitions: u32) -> Result<Self, StoreError> {
        let db = Database::builder(dir)
            // A second worker would spin while the first one compacts (fjall 3.1.13, worker_pool.rs).
            .worker_threads(1)
            .cache_size(BLOCK_CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true)
            .open()?;
        let records = |topic| {
            let keyspace = |p| db.keyspace(&keys::keyspace_name(topic, PartitionId(p)), records_options);
            (0..num_partitions).map(keyspace).collect::<Result<Vec<_>, _>>()
        };
        let (uplinks, deliveries) = (records(Topic::Uplinks)?, records(Topic::Deliveries)?);
        let (meta, index) = (db.keyspace("meta", meta_options)?, db.keyspace("index", index_options)?);
        Ok(Self { meta, index, uplinks, deliveries, db })
    }

    /// Makes a database beside `dir`, with these first figures and a file, and moves it there: a half-made one is never opened.
    pub fn create(
        dir: &Path,
        num_partitions: u32,
        first: &[(&[u8], Vec<u8>)],
        (file_name, text): (&str, &[u8]),
    ) -> Result<(), StoreError> {
        let mut unfinished = dir.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        if unfinished.try_exists()? {
            std::fs::remove_dir_all(&unfinished)?;
        }
        let store = Self::open(&unfinished, num_partitions)?;
        let mut batch = store.batch(Some(PersistMode::SyncAll));
        for (key, value) in first {
            batch.insert(&store.meta, *key, value.as_slice());
        }
        batch.commit()?;
        drop(store);
        let mut file = std::fs::File::create(unfinished.join(file_name))?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::File::open(&unfinished)?.sync_all()?;
        std::fs::rename(&unfinished, dir)?;
        if let Some(parent) = dir.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    /// A batch that is written in one go, and synced as `durability` says.
    pub fn batch(&self, durability: Option<PersistMode>) -> fjall::OwnedWriteBatch {
        self.db.batch().durability(durability)
    }

    /// Syncs what was written.
    pub fn persist(&self, mode: PersistMode) -> Result<(), StoreError> {
        Ok(self.db.persist(mode)?)
    }

    /// The keyspace of a partition that is known to exist.
    pub fn keyspace(&self, topic: Topic, partition: PartitionId) -> &Keyspace {
        match topic {
            Topic::Uplinks => &self.uplinks[partition.0 as usize],
            Topic::Deliveries => &self.deliveries[partition.0 as usize],
        }
    }

    /// Whether a write would have to wait for tables to be written or merged.
    pub fn is_behind(&self) -> bool {
        let records = self.uplinks.iter().chain(&self.deliveries);
        records.chain([&self.meta, &self.index]).any(|k| k.sealed_memtable_count() >= NUM_SEALED_MEMTABLES_MAX)
            || self.index.l0_table_count() >= NUM_INDEX_L0_TABLES_MAX
    }

    /// Starts writing everything in memory as tables; [`Store::has_unflushed`] says when it is done.
    pub fn start_flush(&self) -> Result<(), StoreError> {
        for keyspace in self.uplinks.iter().chain(&self.deliveries).chain([&self.meta, &self.index]) {
            keyspace.rotate_memtable()?;
        }
        Ok(())
    }

    /// Whether sealed memory is still to be written.
    pub fn has_unflushed(&self) -> bool {
        let records = self.uplinks.iter().chain(&self.deliveries);
        records.chain([&self.meta, &self.index]).any(|k| k.sealed_memtable_count() > 0)
    }

    /// The last record of a partition.
    pub fn last(&self, topic: Topic, partition: PartitionId) -> Result<Option<(Record, Running)>, StoreError> {
        let Some(guard) = self.keyspace(topic, partition).last_key_value() else { return Ok(None) };
        let mut last = None;
        for record in read_from(guard, Offset::ZERO)? {
            last = Some(record?);
        }
        Ok(last)
    }

    /// The first offset of the batch that holds this one.
    fn base_of(&self, topic: Topic, partition: PartitionId, offset: Offset) -> Result<Option<Offset>, StoreError> {
        let before = self.keyspace(topic, partition).range(..keys::offset_key(offset.next())).next_back();
        let Some(guard) = before else { return Ok(None) };
        let span = batch::span(&guard.key()?).ok_or_else(damaged_batch)?;
        Ok(span.contains(&offset.0).then_some(Offset(span.start)))
    }

    /// The first offset of a partition at or beyond `from`.
    pub fn first_from(&self, topic: Topic, partition: PartitionId, from: Offset) -> Result<Option<Offset>, StoreError> {
        if self.base_of(topic, partition, from)?.is_some() {
            return Ok(Some(from));
        }
        let first = self.keyspace(topic, partition).range(keys::offset_key(from)..).next();
        let Some(first) = first else { return Ok(None) };
        let span = batch::span(&first.key()?).ok_or_else(damaged_batch)?;
        Ok(Some(Offset(span.start)))
    }

    /// One record.
    pub fn get(
        &self,
        topic: Topic,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<(Record, Running)>, StoreError> {
        Ok(self.batch_of(topic, partition, offset)?.and_then(|mut batch| batch.next()).transpose()?)
    }

    /// The batch that holds this record, from it on.
    fn batch_of(
        &self,
        topic: Topic,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<RecordBatch>, StoreError> {
        let before = self.keyspace(topic, partition).range(..keys::offset_key(offset.next())).next_back();
        let Some(guard) = before else { return Ok(None) };
        let batch = read_from(guard, offset)?;
        Ok(batch.holds(offset).then_some(batch))
    }

    /// The records in `[from, end)`.
    fn records(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        end: Offset,
    ) -> Result<impl Iterator<Item = Result<(Record, Running), StoreError>> + use<>, StoreError> {
        let first = self.base_of(topic, partition, from)?.unwrap_or(from);
        let entries = self.keyspace(topic, partition).range(keys::offset_key(first)..keys::offset_key(end.max(first)));
        let records = entries.flat_map(move |entry| {
            let (batch, failed) = match read_from(entry, from) {
                Ok(batch) => (Some(batch), None),
                Err(error) => (None, Some(Err(error))),
            };
            batch.into_iter().flatten().map(|record| Ok(record?)).chain(failed)
        });
        Ok(records.take_while(move |record| !matches!(record, Ok((record, _)) if record.offset >= end)))
    }

    /// Reads `[from, end)`.
    pub fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        end: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, StoreError> {
        let mut taken = Taken::new(limit);
        for record in self.records(topic, partition, from, end)? {
            let (record, _) = record?;
            if !taken.take(record.num_bytes(), || record) {
                break;
            }
        }
        Ok(taken.into_batch(end))
    }

    /// The first offset in `[start, end)` for which `is_there` holds, given that it holds from there on; else `end`.
    pub fn partition_point(
        &self,
        topic: Topic,
        partition: PartitionId,
        (start, end): (Offset, Offset),
        is_there: impl Fn(&Record, Running) -> bool,
    ) -> Result<Offset, StoreError> {
        let (mut low, mut high) = (start.0, end.0);
        while low < high {
            let middle = low + (high - low) / 2;
            // A record that was trimmed meanwhile lies before anything that is looked for.
            let found = self.get(topic, partition, Offset(middle))?;
            if found.is_some_and(|(record, running)| is_there(&record, running)) {
                high = middle
            } else {
                low = middle + 1
            }
        }
        Ok(Offset(low))
    }

    /// The first record in `[start, end)` at or after `at_ms`. The running maximum finds it although timestamps may go back;
    /// only where a trimmed record had the maximum, a few more have to be looked at.
    pub fn offset_at(
        &self,
        topic: Topic,
        partition: PartitionId,
        (start, end): (Offset, Offset),
        at_ms: i64,
    ) -> Result<Offset, StoreError> {
        let found =
            self.partition_point(topic, partition, (start, end), |_, running| running.max_timestamp_ms >= at_ms)?;
        for record in self.records(topic, partition, found, end)? {
            let (record, _) = record?;
            if record.timestamp_ms >= at_ms {
                return Ok(record.offset);
            }
        }
        Ok(end)
    }

    /// The index entry of a target with the largest first offset below `until`.
    pub fn last_postings(
        &self,
        partition: PartitionId,
        target: TargetId,
        until: Offset,
    ) -> Result<Option<Postings>, StoreError> {
        let range = postings::key(partition, target, Offset::ZERO)..postings::key(partition, target, until);
        self.index.range(range).next_back().map(|entry| decode_postings(entry.into_inner()?)).transpose()
    }

    /// Index entries of a target that may hold offsets at or beyond `from`, below `until`.
    fn postings_from(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<impl Iterator<Item = Result<Postings, StoreError>> + use<>, StoreError> {
        let straddling = self.last_postings(partition, target, from)?;
        let range = postings::key(partition, target, from)..postings::key(partition, target, until.max(from));
        let rest = self.index.range(range).map(|entry| decode_postings(entry.into_inner()?));
        Ok(straddling.map(Ok).into_iter().chain(rest))
    }

    /// Reads one target's records in `[from, end)`.
    pub fn read_target(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        end: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, StoreError> {
        let mut taken = Taken::new(limit);
        for postings in self.postings_from(partition, target, from, end)? {
            let offsets = postings?.offsets;
            let offsets: Vec<u64> = offsets.into_iter().filter(|o| *o >= from.0 && *o < end.0).collect();
            self.take_all(partition, target, &offsets, &mut taken)?;
            if taken.is_full() {
                break;
            }
        }
        Ok(taken.into_batch(end))
    }

    /// Reads these offsets: by one scan where they lie close, one by one where others' records lie between.
    fn take_all(
        &self,
        partition: PartitionId,
        target: TargetId,
        offsets: &[u64],
        taken: &mut Taken,
    ) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return Ok(()) };
        if last - first < SCAN_RATIO * offsets.len() as u64 {
            for record in self.records(Topic::Deliveries, partition, Offset(*first), Offset(*last).next())? {
                let (record, _) = record?;
                if record.key == target.0 && !taken.take(record.num_bytes(), || record) {
                    break;
                }
            }
            return Ok(());
        }
        let mut batch: Option<RecordBatch> = None;
        for offset in offsets.iter().copied().map(Offset) {
            let mut within = batch.take().filter(|batch| batch.holds(offset));
            match &mut within {
                Some(batch) => batch.skip_to(offset)?,
                None => within = self.batch_of(Topic::Deliveries, partition, offset)?,
            }
            // Trimmed meanwhile: the caller's next look at the start says so.
            let Some(mut within) = within else { continue };
            let Some((record, _)) = within.next().transpose()? else { continue };
            batch = Some(within);
            if !taken.take(record.num_bytes(), || record) {
                break;
            }
        }
        Ok(())
    }

    /// Counts one target's records in `[from, until)`: two look-ups, however many lie between.
    pub fn backlog(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, StoreError> {
        let ordinal_at = |postings: &Postings, offset: Offset| {
            let num_before = postings.offsets.partition_point(|o| *o < offset.0);
            (postings.ordinal + num_before as u64, postings.offsets.get(num_before).copied())
        };
        let mut first = None;
        for postings in self.postings_from(partition, target, from, until)? {
            if let (ordinal, Some(offset)) = ordinal_at(&postings?, from) {
                first = Some((ordinal, Offset(offset))).filter(|_| offset < until.0);
                break;
            }
        }
        let Some((ordinal, first)) = first else { return Ok(TargetBacklog::default()) };
        let last = self.last_postings(partition, target, until)?;
        let next_ordinal = last.map_or(ordinal, |postings| ordinal_at(&postings, until).0);
        let record = self.get(Topic::Deliveries, partition, first)?;
        let Some((record, _)) = record else {
            return Err(StoreError::Damaged(format!("the index of target {target} at {first}")));
        };
        Ok(TargetBacklog {
            num_records: next_ordinal.saturating_sub(ordinal),
            first: Some((first, record.timestamp_ms)),
        })
    }

    /// Drops the tables that hold nothing at or beyond `start`, whose batch may begin before it.
    pub fn drop_below(&self, topic: Topic, partition: PartitionId, start: Offset) -> Result<(), StoreError> {
        let start = self.base_of(topic, partition, start)?.unwrap_or(start);
        let tree = &self.keyspace(topic, partition).tree;
        Ok(tree.drop_range(..keys::offset_key(start)).map_err(fjall::Error::from)?)
    }
}

fn damaged_batch() -> StoreError {
    StoreError::Damaged("a batch of records".into())
}

impl From<Damaged> for StoreError {
    fn from(_: Damaged) -> Self {
        damaged_batch()
    }
}

/// An entry's records at or beyond `from`.
fn read_from(entry: fjall::Guard, from: Offset) -> Result<RecordBatch, StoreError> {
    let (key, value) = entry.into_inner()?;
    let mut batch = RecordBatch::read(&key, Bytes::from(value))?;
    batch.skip_to(from)?;
    Ok(batch)
}

fn decode_postings((key, value): fjall::KvPair) -> Result<Postings, StoreError> {
    let postings = postings::parse_key(&key).and_then(|(_, _, first)| Postings::decode(first, &value));
    postings.ok_or_else(|| StoreError::Damaged("an entry of the index by target".into()))
}
