//! A stretch of a partition in memory, filled at its end by one reader of Kafka and read by many. Pure: no clock, no Kafka.
//!
//! Every record of `[from, next)` that the partition holds is in it. Limits: [`Limits`]. Beyond what may be unread it has no room until it is
//! read on; of what was read the newest stays, for those who are a little behind.

use std::collections::VecDeque;

use sluse_schema::port::log::ReadLimit;
use sluse_schema::record::{Offset, Record};

/// How much may be in memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Not read yet. It is asked before records are put in: the last that are put in together may go beyond it.
    pub num_unread_bytes_max: usize,
    /// Read by somebody. Whoever reads it only now saves a fetch; whoever writes next has colder memory for it.
    pub num_read_bytes_max: usize,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Reel {
    from: Offset,
    next: Offset,
    records: VecDeque<Record>,
    num_bytes: usize,
    /// Everything below it was read by somebody, and what lies beyond it in bytes.
    read_to: Offset,
    num_bytes_ahead: usize,
    limits: Limits,
}

impl Reel {
    /// An empty stretch at `from`.
    pub fn new(from: Offset, limits: Limits) -> Self {
        Self { from, next: from, records: VecDeque::new(), num_bytes: 0, read_to: from, num_bytes_ahead: 0, limits }
    }

    /// Where it ends.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Whether a read at `from` can be answered from here, be it with nothing.
    pub fn covers(&self, from: Offset) -> bool {
        self.from <= from && from <= self.next
    }

    /// Whether more may be put in.
    pub fn has_room(&self) -> bool {
        self.num_bytes_ahead < self.limits.num_unread_bytes_max.max(1)
    }

    /// Puts the next record in.
    pub fn push(&mut self, record: Record) {
        debug_assert!(record.offset >= self.next, "{} after {}", record.offset, self.next);
        self.next = record.offset.next();
        self.num_bytes += record.num_bytes();
        self.num_bytes_ahead += record.num_bytes();
        self.records.push_back(record);
        self.drop_oldest();
    }

    /// Puts what comes next in; `records` is empty then. Up to `passed` nothing more stands.
    pub fn extend(&mut self, records: &mut Vec<Record>, passed: Option<Offset>) {
        for record in records.drain(..) {
            self.push(record);
        }
        if let Some(passed) = passed {
            self.pass(passed);
        }
    }

    /// Nothing more stands below `next`.
    pub fn pass(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// Nothing below `start` is kept any more.
    pub fn trim(&mut self, start: Offset) {
        while self.records.front().is_some_and(|oldest| oldest.offset < start) {
            self.pop_oldest();
        }
        self.from = self.from.max(start);
        self.next = self.next.max(start);
        self.read_to = self.read_to.max(start);
    }

    fn drop_oldest(&mut self) {
        while self.num_bytes - self.num_bytes_ahead > self.limits.num_read_bytes_max
            && self.records.front().is_some_and(|oldest| oldest.offset < self.read_to)
        {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(oldest) = self.records.pop_front() {
            self.num_bytes -= oldest.num_bytes();
            if oldest.offset >= self.read_to {
                self.num_bytes_ahead -= oldest.num_bytes();
            }
            self.from = oldest.offset.next();
        }
    }

    /// The records from `from` on, with `key` only those that have it, and where the next read goes on. `from` must be covered.
    /// At least one record is brought even when it alone is larger than the limit.
    pub fn read(&mut self, from: Offset, limit: ReadLimit, key: Option<i64>) -> (Vec<Record>, Offset) {
        let first = self.records.partition_point(|record| record.offset < from);
        let (mut taken, mut num_bytes) = (Vec::new(), 0);
        let mut next = self.next;
        for record in self.records.range(first..).filter(|record| key.is_none_or(|key| record.key == key)) {
            let is_full = taken.len() >= limit.num_records_max || num_bytes + record.num_bytes() > limit.num_bytes_max;
            if is_full && !taken.is_empty() {
                next = record.offset;
                break;
            }
            num_bytes += record.num_bytes();
            taken.push(record.clone());
        }
        self.mark_read(next);
        (taken, next)
    }

    /// Everything below `next` was read.
    fn mark_read(&mut self, next: Offset) {
        if next <= self.read_to {
            return;
        }
        let first = self.records.partition_point(|record| record.offset < self.read_to);
        let unread = self.records.range(first..).take_while(|record| record.offset < next);
        let num_bytes: usize = unread.map(Record::num_bytes).sum();
        self.num_bytes_ahead -= num_bytes;
        self.read_to = next;
        self.drop_oldest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use sluse_schema::record::Headers;

    fn record(offset: u64, key: i64, len: usize) -> Record {
        let value = Bytes::from(vec![0; len]);
        Record { offset: Offset(offset), key, timestamp_ms: 0, headers: Headers::default(), value }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Push { gap: u64, key: i64, len: usize },
        Pass(u64),
        Trim(u64),
        Read { back: u64, num_records_max: usize, num_bytes_max: usize, key: Option<i64> },
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0u64..3, 0i64..3, 0usize..60).prop_map(|(gap, key, len)| Act::Push { gap, key, len }),
            1 => (0u64..4).prop_map(Act::Pass),
            1 => (0u64..80).prop_map(Act::Trim),
            3 => (0u64..12, 1usize..5, 1usize..200, proptest::option::of(0i64..3)).prop_map(
                |(back, num_records_max, num_bytes_max, key)| Act::Read { back, num_records_max, num_bytes_max, key }
            ),
        ]
    }

    proptest! {
        /// Against everything that was ever pushed: a read brings exactly what a naive one would, and memory stays bounded.
        #[test]
        fn reads_bring_what_was_put_in(acts in proptest::collection::vec(act(), 0..80)) {
            let limits = Limits { num_unread_bytes_max: 200, num_read_bytes_max: 150 };
            let mut reel = Reel::new(Offset::ZERO, limits);
            let mut all: Vec<Record> = Vec::new();
            for act in acts {
                match act {
                    Act::Push { gap, key, len } if reel.has_room() => {
                        let new = record(reel.next().0 + gap, key, len);
                        all.push(new.clone());
                        reel.push(new);
                    }
                    Act::Push { .. } => {}
                    Act::Pass(gap) => reel.pass(Offset(reel.next().0 + gap)),
                    Act::Trim(start) => reel.trim(Offset(start)),
                    Act::Read { back, num_records_max, num_bytes_max, key } => {
                        let from = Offset(reel.next().0.saturating_sub(back));
                        if !reel.covers(from) {
                            continue;
                        }
                        let (taken, next) = reel.read(from, ReadLimit { num_records_max, num_bytes_max }, key);
                        let naive: Vec<Offset> = all.iter()
                            .filter(|r| r.offset >= from && r.offset < next && key.is_none_or(|key| r.key == key))
                            .map(|r| r.offset)
                            .collect();
                        prop_assert_eq!(taken.iter().map(|r| r.offset).collect::<Vec<_>>(), naive);
                        prop_assert!(taken.len() <= num_records_max);
                        prop_assert!(next > from || reel.next() == from);
                    }
                }
                let largest = 60 + 24;
                let ahead: usize = reel.records.iter().filter(|r| r.offset >= reel.read_to).map(Record::num_bytes).sum();
                prop_assert_eq!(ahead, reel.num_bytes_ahead);
                prop_assert!(ahead < limits.num_unread_bytes_max + largest);
                prop_assert!(reel.num_bytes - ahead <= limits.num_read_bytes_max);
            }
        }
    }
}
