//! What is dropped, and when: by age, by bytes, never at or beyond a floor; and whether the disk has room for more.
//!
//! A trim moves the start first (synced, so that a power cut cannot give an empty partition its old offsets again), then drops
//! whole tables and index entries below it. Limits: a tick trims at most `NUM_SLICES_MAX` slices of `NUM_RECORDS_MAX` records, and
//! nothing before it is overdue by a 64th of the retention, so that records go in runs.

use fjall::PersistMode;
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{Offset, Topic};

use super::keys;
use super::metrics;
use super::postings::{self, Postings};
use super::shared::Shared;
use super::store::{Store, StoreError};

const NUM_SLICES_MAX: usize = 8;
const NUM_RECORDS_MAX: u64 = 100_000;
/// Share of the byte limit that one slice frees at most, so that the oldest of several partitions take turns.
const BYTES_SHARE: u64 = 64;
/// Index entries dropped per batch.
const NUM_ENTRIES_MAX: usize = 10_000;
/// How much more than the reserve must be free before appends are taken again: a sixteenth.
const ROOM_SHARE: u64 = 16;

/// The oldest records of a partition that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Oldest {
    topic: Topic,
    partition: PartitionId,
    start: Offset,
    /// No further than here: the floor or the end.
    until: Offset,
    /// The running maximum: it rises along the partition, so that one record with an early clock holds nothing up.
    max_timestamp_ms: i64,
    bytes_before: u64,
}

/// Retention's memory between ticks.
#[derive(Debug, Default)]
pub struct Retention {
    /// What the log held when it was last counted.
    num_bytes: u64,
}

impl Retention {
    /// Trims what is too old or too much, a bounded amount.
    pub fn trim_due(&mut self, shared: &Shared, store: &Store, now_ms: i64) -> Result<(), StoreError> {
        for _ in 0..NUM_SLICES_MAX {
            let mut oldest = self.survey(shared, store)?;
            oldest.sort_by_key(|o| o.max_timestamp_ms);
            let Some(oldest) = oldest.first().copied() else { return Ok(()) };
            let Some(before) = self.due(shared, store, oldest, now_ms)? else { return Ok(()) };
            self.trim_to(shared, store, oldest.topic, oldest.partition, before)?;
        }
        Ok(())
    }

    /// Counts what the log holds, and lists the partitions whose oldest records are not held by a floor.
    fn survey(&mut self, shared: &Shared, store: &Store) -> Result<Vec<Oldest>, StoreError> {
        let mut trimmable = Vec::new();
        self.num_bytes = 0;
        for (topic, partition) in shared.partitions() {
            let Ok((start, end)) = shared.tail(topic, partition).map(|t| t.bounds()) else { continue };
            if start == end {
                continue;
            }
            let first = store.get(topic, partition, start)?;
            let last = store.get(topic, partition, Offset(end.0 - 1))?;
            let (Some((_, at_first)), Some((last, at_last))) = (first, last) else { continue };
            self.num_bytes += at_last.bytes_before + last.num_bytes() as u64 - at_first.bytes_before;
            let until = end.min(shared.floor(topic, partition));
            if start < until {
                trimmable.push(Oldest {
                    topic,
                    partition,
                    start,
                    until,
                    max_timestamp_ms: at_first.max_timestamp_ms,
                    bytes_before: at_first.bytes_before,
                });
            }
        }
        Ok(trimmable)
    }

    /// Where this partition should start instead, if anything of it is due.
    fn due(&self, shared: &Shared, store: &Store, o: Oldest, now_ms: i64) -> Result<Option<Offset>, StoreError> {
        let slice_end = o.until.min(Offset(o.start.0 + NUM_RECORDS_MAX));
        let bounds = (o.start, slice_end);
        if let Some(cutoff_ms) = overdue_since(o.max_timestamp_ms, now_ms, shared.config.retention_ms) {
            let is_young = |_: &_, running: keys::Running| running.max_timestamp_ms >= cutoff_ms;
            return Ok(Some(store.partition_point(o.topic, o.partition, bounds, is_young)?));
        }
        let bytes_max = shared.config.retention_bytes_max;
        let Some(excess) = self.num_bytes.checked_sub(bytes_max).filter(|excess| *excess > 0) else { return Ok(None) };
        let until_bytes = o.bytes_before + excess.min(bytes_max / BYTES_SHARE + 1);
        let is_enough = |_: &_, running: keys::Running| running.bytes_before >= until_bytes;
        Ok(Some(store.partition_point(o.topic, o.partition, bounds, is_enough)?))
    }

    /// Lets a partition start at `before`, but never beyond its floor or its end.
    pub fn trim_to(
        &mut self,
        shared: &Shared,
        store: &Store,
        topic: Topic,
        partition: PartitionId,
        before: Offset,
    ) -> Result<(), StoreError> {
        let Ok(tail) = shared.tail(topic, partition) else { return Ok(()) };
        let (old_start, end) = tail.bounds();
        let start = before.min(end).min(shared.floor(topic, partition));
        if start <= old_start {
            return Ok(());
        }
        let mut batch = store.batch(Some(PersistMode::SyncData));
        batch.insert(&store.meta, keys::start_key(topic, partition), start.0.to_be_bytes());
        batch.commit()?;
        tail.trim(start);
        store.drop_below(topic, partition, start)?;
        if topic == Topic::Deliveries {
            drop_index_below(store, partition, start)?;
        }
        ::metrics::counter!(metrics::RECORDS_TRIMMED, "topic" => topic.name()).increment(start.0 - old_start.0);
        tracing::debug!(topic = topic.name(), %partition, %start, "records were dropped by retention");
        Ok(())
    }
}

/// The age limit as a timestamp, once the oldest record is overdue by a 64th of it.
fn overdue_since(oldest_ms: i64, now_ms: i64, retention_ms: u64) -> Option<i64> {
    let retention_ms = i64::try_from(retention_ms).unwrap_or(i64::MAX);
    let cutoff_ms = now_ms.saturating_sub(retention_ms);
    (oldest_ms < cutoff_ms.saturating_sub(retention_ms / 64)).then_some(cutoff_ms)
}

/// Drops the index entries that name nothing at or beyond `start`, target by target, without reading the others.
fn drop_index_below(store: &Store, partition: PartitionId, start: Offset) -> Result<(), StoreError> {
    let damaged = || StoreError::Damaged("an entry of the index by target".into());
    let mut target = TargetId(i64::MIN);
    let last_of_partition = postings::key(partition, TargetId(i64::MAX), Offset(u64::MAX));
    let mut batch = store.batch(None);
    loop {
        let mut kept = None;
        for entry in store.index.range(postings::key(partition, target, Offset::ZERO)..=last_of_partition) {
            let (key, value) = entry.into_inner()?;
            if Postings::last_of(&value).ok_or_else(damaged)? >= start {
                kept = Some(postings::parse_key(&key).ok_or_else(damaged)?.1);
                break;
            }
            batch.remove(&store.index, key);
            if batch.len() >= NUM_ENTRIES_MAX {
                std::mem::replace(&mut batch, store.batch(None)).commit()?;
            }
        }
        // The rest of a target's entries lies higher still: on to the next target.
        match kept.and_then(|kept| kept.0.checked_add(1)) {
            Some(next) => target = TargetId(next),
            None => break,
        }
    }
    Ok(batch.commit()?)
}

/// Looks at the free disk; below the reserve the log takes no appends until there is room again.
pub fn check_free_space(shared: &Shared) {
    let faked = shared.faults.free_bytes.load(std::sync::atomic::Ordering::Relaxed);
    let free_bytes = match faked {
        0 => match rustix::fs::statvfs(&shared.config.dir) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(error) => return tracing::warn!(%error, "the free disk under the log cannot be read"),
        },
        faked => faked,
    };
    let was_full = shared.is_full();
    let is_full = is_full(free_bytes, shared.config.free_space_reserve_bytes, was_full);
    shared.set_free_bytes(free_bytes, is_full);
    ::metrics::gauge!(metrics::FREE_BYTES).set(free_bytes as f64);
    if is_full && !was_full {
        tracing::error!(free_bytes, "the disk under the log is full, sources are told to come back later");
    } else if was_full && !is_full {
        tracing::info!(free_bytes, "the disk under the log has room again");
    }
}

fn is_full(free_bytes: u64, reserve_bytes: u64, was_full: bool) -> bool {
    let needed = if was_full { reserve_bytes.saturating_add(reserve_bytes / ROOM_SHARE) } else { reserve_bytes };
    free_bytes < needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_overdue_in_runs() {
        assert_eq!(overdue_since(1_000, 7_400, 6_400), None);
        assert_eq!(overdue_since(1_000, 7_500, 6_400), None, "not yet by a 64th");
        assert_eq!(overdue_since(1_000, 7_501, 6_400), Some(1_101));
        assert_eq!(overdue_since(i64::MIN, 0, u64::MAX), None, "without a limit nothing is ever overdue");
    }

    #[test]
    fn a_full_disk_is_full_until_there_is_clearly_room() {
        assert!(!is_full(1_600, 1_600, false));
        assert!(is_full(1_599, 1_600, false));
        assert!(is_full(1_699, 1_600, true));
        assert!(!is_full(1_700, 1_600, true));
        assert!(!is_full(0, 0, true));
    }
}
