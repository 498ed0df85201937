//! What readers see of one partition: where it starts and ends, and its newest records in memory.
//!
//! The end moves only after the sync, together with the records, so nobody sees what a power cut could take. Limit: the cache
//! holds at most `bytes_max`; it is a run without gaps that ends at the end, or it is empty.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluse_schema::port::log::{ReadBatch, ReadLimit};
use sluse_schema::record::{Offset, Record};
use tokio::sync::watch;

#[derive(Debug)]
struct Inner {
    start: Offset,
    end: Offset,
    cached: VecDeque<Record>,
    num_bytes: usize,
}

/// One partition as readers see it.
#[derive(Debug)]
pub struct Tail {
    inner: Mutex<Inner>,
    ends: watch::Sender<Offset>,
    bytes_max: usize,
}

/// Where a read has to go.
#[derive(Debug)]
pub enum Lookup {
    /// It was all in memory.
    Cached(ReadBatch),
    /// To the store, for offsets below this end.
    InStore { end: Offset },
    /// Nowhere: the log starts later.
    Gone { start: Offset },
}

impl Tail {
    /// An empty partition with room for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        let inner = Inner { start: Offset::ZERO, end: Offset::ZERO, cached: VecDeque::new(), num_bytes: 0 };
        Self { inner: Mutex::new(inner), ends: watch::Sender::new(Offset::ZERO), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First kept offset and the end.
    pub fn bounds(&self) -> (Offset, Offset) {
        let inner = self.lock();
        (inner.start, inner.end)
    }

    /// Takes over what a store holds; the cache starts again empty.
    pub fn reset(&self, start: Offset, end: Offset) {
        let mut inner = self.lock();
        (inner.start, inner.end, inner.num_bytes) = (start, end, 0);
        inner.cached.clear();
        drop(inner);
        self.ends.send_replace(end);
    }

    /// Shows records that are synced now. They follow the end without a gap.
    pub fn publish(&self, records: Vec<Record>) {
        let Some(end) = records.last().map(|r| r.offset.next()) else { return };
        let mut inner = self.lock();
        for record in records {
            inner.num_bytes += record.num_bytes();
            inner.cached.push_back(record);
        }
        while inner.num_bytes > self.bytes_max
            && let Some(oldest) = inner.cached.pop_front()
        {
            inner.num_bytes -= oldest.num_bytes();
        }
        inner.end = end;
        drop(inner);
        self.ends.send_replace(end);
    }

    /// The log starts here from now on.
    pub fn trim(&self, start: Offset) {
        let mut inner = self.lock();
        inner.start = start;
        while inner.cached.front().is_some_and(|oldest| oldest.offset < start)
            && let Some(oldest) = inner.cached.pop_front()
        {
            inner.num_bytes -= oldest.num_bytes();
        }
    }

    /// Reads from memory, if `from` is held there. With `key`, only the records that have it.
    pub fn read(&self, from: Offset, limit: ReadLimit, key: Option<i64>) -> Lookup {
        let inner = self.lock();
        let end = inner.end;
        if from < inner.start {
            return Lookup::Gone { start: inner.start };
        }
        if from >= end {
            return Lookup::Cached(ReadBatch { records: Vec::new(), next: from, end });
        }
        let Some(oldest) = inner.cached.front().map(|r| r.offset).filter(|oldest| from >= *oldest) else {
            return Lookup::InStore { end };
        };
        let mut taken = Taken::new(limit);
        for record in inner.cached.range((from.0 - oldest.0) as usize..) {
            if key.is_none_or(|key| record.key == key) && !taken.take(record.num_bytes(), || record.clone()) {
                break;
            }
        }
        Lookup::Cached(taken.into_batch(end))
    }

    /// Completes when the end lies beyond `offset`, or the log is gone.
    pub async fn wait_for(&self, offset: Offset) {
        self.ends.subscribe().wait_for(|end| *end > offset).await.ok();
    }
}

/// Records of one read, within its limit.
#[derive(Debug)]
pub struct Taken {
    records: Vec<Record>,
    num_bytes: usize,
    limit: ReadLimit,
    is_full: bool,
}

impl Taken {
    /// Nothing yet.
    pub fn new(limit: ReadLimit) -> Self {
        Self { records: Vec::new(), num_bytes: 0, limit, is_full: false }
    }

    /// Takes a record of this size, unless the limit is reached. The first one is always taken.
    pub fn take(&mut self, num_bytes: usize, record: impl FnOnce() -> Record) -> bool {
        let is_over = self.records.len() >= self.limit.num_records_max.max(1)
            || self.num_bytes + num_bytes > self.limit.num_bytes_max;
        self.is_full = is_over && !self.records.is_empty();
        if !self.is_full {
            self.num_bytes += num_bytes;
            self.records.push(record());
        }
        !self.is_full
    }

    /// Whether no further record can fit, whatever its size.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// The batch, when everything below `end` that is not in it is either of no interest or beyond the limit.
    pub fn into_batch(self, end: Offset) -> ReadBatch {
        let last = self.records.last().map(|r| r.offset.next());
        let next = last.filter(|_| self.is_full).unwrap_or(end);
        ReadBatch { records: self.records, next, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sluse_schema::record::Headers;

    const LIMIT: ReadLimit = ReadLimit { num_records_max: 100, num_bytes_max: 1 << 20 };

    fn records(offsets: std::ops::Range<u64>) -> Vec<Record> {
        let record = |o| Record {
            offset: Offset(o),
            key: (o % 3) as i64,
            timestamp_ms: 0,
            headers: Headers::default(),
            value: Bytes::from(vec![0; 76]),
        };
        offsets.map(record).collect()
    }

    fn offsets(lookup: Lookup) -> Vec<u64> {
        let Lookup::Cached(batch) = lookup else { panic!("{lookup:?}") };
        batch.records.iter().map(|r| r.offset.0).collect()
    }

    #[test]
    fn the_cache_keeps_the_newest_within_its_bytes() {
        let tail = Tail::new(1_000);
        tail.publish(records(0..15));
        assert_eq!(tail.bounds(), (Offset(0), Offset(15)));
        assert!(matches!(tail.read(Offset(4), LIMIT, None), Lookup::InStore { end: Offset(15) }));
        assert_eq!(offsets(tail.read(Offset(5), LIMIT, None)), (5..15).collect::<Vec<_>>());
        assert_eq!(offsets(tail.read(Offset(5), LIMIT, Some(0))), [6, 9, 12]);
        assert_eq!(offsets(tail.read(Offset(15), LIMIT, None)), [0u64; 0]);
    }

    #[test]
    fn a_trimmed_start_is_gone_and_a_reset_forgets_the_cache() {
        let tail = Tail::new(10_000);
        tail.publish(records(0..10));
        tail.trim(Offset(7));
        assert!(matches!(tail.read(Offset(6), LIMIT, None), Lookup::Gone { start: Offset(7) }));
        assert_eq!(offsets(tail.read(Offset(7), LIMIT, None)), [7, 8, 9]);
        tail.reset(Offset(7), Offset(9));
        assert!(matches!(tail.read(Offset(7), LIMIT, None), Lookup::InStore { end: Offset(9) }));
    }

    #[test]
    fn a_batch_that_is_cut_goes_on_behind_its_last_record_and_another_at_the_end() {
        let tail = Tail::new(10_000);
        tail.publish(records(0..10));
        let limit = ReadLimit { num_records_max: 2, num_bytes_max: 1 << 20 };
        let Lookup::Cached(batch) = tail.read(Offset(0), limit, Some(1)) else { panic!() };
        assert_eq!((batch.records.len(), batch.next), (2, Offset(5)));
        let Lookup::Cached(batch) = tail.read(Offset(5), limit, Some(1)) else { panic!() };
        assert_eq!((batch.records.len(), batch.next), (1, Offset(10)));
    }
}
