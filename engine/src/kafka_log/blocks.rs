//! The block index of one deliveries partition: per 4 096 offsets, which targets have how many records there, and their first. Pure.
//!
//! It is filled by everything that is read in order, and lets a lagging target pass what concerns others, and a backlog be counted
//! without reading it again. Newest blocks also keep where each record stands, so that parts of them can be counted.
//! Limits: in memory only; `num_postings_max` pairs of block and target, `num_places_max` records with their place. Beyond them the oldest
//! are forgotten, and read again when they are asked for.

use std::collections::{BTreeMap, HashMap};

use sluse_schema::port::log::TargetBacklog;
use sluse_schema::record::{Offset, Record};

/// Offsets of one block.
pub const BLOCK: u64 = 4_096;

/// Records of one target in one block.
#[derive(Clone, Copy, Debug)]
struct Posting {
    num_records: u32,
    first: Offset,
    first_at_ms: i64,
}

/// What is known of one block: everything of `[from, next)`.
#[derive(Debug)]
struct Block {
    from: Offset,
    next: Offset,
    postings: HashMap<i64, Posting>,
    /// Offset, target and timestamp of every record; `None` when forgotten.
    places: Option<Vec<(Offset, i64, i64)>>,
}

/// See the head of this file.
#[derive(Debug)]
pub struct BlockIndex {
    blocks: BTreeMap<u64, Block>,
    num_postings: usize,
    num_places: usize,
    num_postings_max: usize,
    num_places_max: usize,
}

/// What the index says of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Up to here it is counted, and this is the count.
    Upto(Offset, TargetBacklog),
    /// It does not know the stretch that begins here and ends at the latest there: it has to be read.
    Unknown(Offset),
}

const fn block_of(offset: Offset) -> u64 {
    offset.0 / BLOCK
}

const fn start_of(block: u64) -> Offset {
    Offset(block * BLOCK)
}

impl BlockIndex {
    /// Knows nothing.
    pub fn new(num_postings_max: usize, num_places_max: usize) -> Self {
        Self { blocks: BTreeMap::new(), num_postings: 0, num_places: 0, num_postings_max, num_places_max }
    }

    /// Blocks of which something is known.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// `records` are all that stands in `[from, next)`.
    pub fn observe(&mut self, from: Offset, next: Offset, records: &[Record]) {
        let (mut at, mut rest) = (from, records);
        while at < next {
            let number = block_of(at);
            let until = next.min(start_of(number + 1));
            let num = rest.partition_point(|record| record.offset < until);
            let (mine, others) = rest.split_at(num);
            self.observe_in_block(number, at, until, mine);
            (at, rest) = (until, others);
        }
        self.forget_oldest();
    }

    fn observe_in_block(&mut self, number: u64, from: Offset, until: Offset, records: &[Record]) {
        if let Some(block) = self.blocks.get(&number) {
            // From its beginning is better than from somewhere; anything else that does not join up says nothing new.
            let is_better = from == start_of(number) && block.from > from;
            let joins = block.from <= from && from <= block.next && block.next < until;
            if is_better {
                self.forget(number);
            } else if !joins {
                return;
            }
        }
        let block = self.blocks.entry(number).or_insert_with(|| Block {
            from,
            next: from,
            postings: HashMap::new(),
            places: Some(Vec::new()),
        });
        let (known, num_postings_before) = (block.next, block.postings.len());
        for record in records.iter().filter(|record| record.offset >= known) {
            let posting = block.postings.entry(record.key).or_insert(Posting {
                num_records: 0,
                first: record.offset,
                first_at_ms: record.timestamp_ms,
            });
            posting.num_records += 1;
            if let Some(places) = &mut block.places {
                places.push((record.offset, record.key, record.timestamp_ms));
                self.num_places += 1;
            }
        }
        block.next = until;
        self.num_postings += block.postings.len() - num_postings_before;
    }

    fn forget(&mut self, number: u64) {
        if let Some(block) = self.blocks.remove(&number) {
            self.num_postings -= block.postings.len();
            self.num_places -= block.places.map_or(0, |places| places.len());
        }
    }

    fn forget_oldest(&mut self) {
        while self.num_postings > self.num_postings_max
            && let Some(oldest) = self.blocks.keys().next().copied()
            && self.blocks.len() > 1
        {
            self.forget(oldest);
        }
        while self.num_places > self.num_places_max
            && let Some((_, block)) = self.blocks.iter_mut().find(|(_, block)| block.places.is_some())
        {
            self.num_places -= block.places.take().map_or(0, |places| places.len());
        }
    }

    /// Nothing below `start` is kept any more.
    pub fn trim(&mut self, start: Offset) {
        while let Some(oldest) = self.blocks.keys().next().copied()
            && start_of(oldest + 1) <= start
        {
            self.forget(oldest);
        }
    }

    /// The first offset from `from` on at which a record of `target` may stand, below `until`; `until` when there is certainly none.
    pub fn skip(&self, target: i64, from: Offset, until: Offset) -> Offset {
        let mut at = from;
        while at < until {
            let Some(block) = self.blocks.get(&block_of(at)).filter(|block| block.from <= at && at < block.next) else {
                return at;
            };
            if let Some(posting) = block.postings.get(&target) {
                if posting.first >= at {
                    return posting.first.min(until);
                }
                // Some stand before `at`; whether one stands behind it only its place says.
                let Some(places) = &block.places else { return at };
                let behind = &places[places.partition_point(|(offset, _, _)| *offset < at)..];
                if let Some((offset, _, _)) = behind.iter().find(|(_, key, _)| *key == target) {
                    return (*offset).min(until);
                }
            }
            at = block.next;
        }
        until
    }

    /// Counts the records of `target` from `from` on as far as is known, at most up to `until`.
    pub fn count(&self, target: i64, from: Offset, until: Offset) -> Counted {
        let (mut at, mut backlog) = (from, TargetBacklog::default());
        while at < until {
            let number = block_of(at);
            let end = until.min(start_of(number + 1));
            let Some(part) = self.blocks.get(&number).and_then(|block| block.count(target, at, end)) else { break };
            backlog.num_records += part.num_records;
            backlog.first = backlog.first.or(part.first);
            at = end;
        }
        if at > from || from >= until {
            Counted::Upto(at, backlog)
        } else {
            Counted::Unknown(until.min(start_of(block_of(from) + 1)))
        }
    }
}

impl Block {
    /// What stands in `[from, until)` of it for `target`, if that is known.
    fn count(&self, target: i64, from: Offset, until: Offset) -> Option<TargetBacklog> {
        if from < self.from || until > self.next {
            return None;
        }
        let Some(posting) = self.postings.get(&target) else { return Some(TargetBacklog::default()) };
        if from <= posting.first && until == self.next {
            let first = Some((posting.first, posting.first_at_ms));
            return Some(TargetBacklog { num_records: u64::from(posting.num_records), first });
        }
        if until <= posting.first {
            return Some(TargetBacklog::default());
        }
        let places = self.places.as_ref()?;
        let mut backlog = TargetBacklog::default();
        let first = places.partition_point(|(offset, _, _)| *offset < from);
        for (offset, _, at_ms) in
            places[first..].iter().take_while(|(offset, _, _)| *offset < until).filter(|(_, key, _)| *key == target)
        {
            backlog.num_records += 1;
            backlog.first.get_or_insert((*offset, *at_ms));
        }
        Some(backlog)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use sluse_schema::record::Headers;

    fn record(offset: u64, key: i64) -> Record {
        let at_ms = i64::try_from(offset).unwrap() + 7;
        Record { offset: Offset(offset), key, timestamp_ms: at_ms, headers: Headers::default(), value: Bytes::new() }
    }

    /// A partition with gaps over three blocks, sparse for some targets.
    fn partition(seed: u64) -> Vec<Record> {
        let keys = [1, 1, 2, 1, 2, 3];
        (0..3 * BLOCK)
            .filter(|offset| (offset * 7 + seed).is_multiple_of(61))
            .map(|offset| {
                let at = (offset / 61 + seed) as usize;
                record(offset, if at.is_multiple_of(97) { 9 } else { keys[at % keys.len()] })
            })
            .collect()
    }

    proptest! {
        /// Whatever was observed in whichever order, and however much was forgotten: what the index says is true.
        #[test]
        fn the_index_never_says_what_is_not_so(
            seed in 0u64..61,
            stretches in proptest::collection::vec((0u64..3 * BLOCK, 1u64..5_000), 1..8),
            num_postings_max in prop_oneof![Just(4usize), Just(1_000)],
            num_places_max in prop_oneof![Just(0usize), Just(60), Just(10_000)],
            questions in proptest::collection::vec((0i64..10, 0u64..3 * BLOCK, 0u64..9_000), 1..30),
        ) {
            let all = partition(seed);
            let end = 3 * BLOCK;
            let mut index = BlockIndex::new(num_postings_max, num_places_max);
            for (from, len) in stretches {
                // Now and then from the beginning of a block, as a sweep reads.
                let from = if len % 3 == 0 { from / BLOCK * BLOCK } else { from };
                let next = (from + len).min(end);
                let records: Vec<Record> =
                    all.iter().filter(|r| r.offset.0 >= from && r.offset.0 < next).cloned().collect();
                index.observe(Offset(from), Offset(next), &records);
            }
            for (target, from, len) in questions {
                let (from, until) = (Offset(from), Offset((from + len).min(end)));
                let naive = |from: Offset, until: Offset| {
                    let mut mine = all.iter().filter(|r| r.key == target && r.offset >= from && r.offset < until);
                    let first = mine.next().map(|r| (r.offset, r.timestamp_ms));
                    TargetBacklog { num_records: u64::from(first.is_some()) + mine.count() as u64, first }
                };
                match index.count(target, from, until) {
                    Counted::Upto(upto, counted) => {
                        prop_assert!(from <= upto && upto <= until.max(from));
                        prop_assert_eq!(counted, naive(from, upto));
                    }
                    Counted::Unknown(part) => prop_assert!(part > from),
                }
                let skipped = index.skip(target, from, until);
                prop_assert!(from <= skipped);
                prop_assert_eq!(naive(from, skipped.min(until)).num_records, 0);
            }
        }
    }

    #[test]
    fn what_was_read_in_order_is_counted_without_reading_and_passed_at_once() {
        let all = partition(3);
        let mut index = BlockIndex::new(1_000, 100_000);
        for chunk in all.chunks(50) {
            let from = if chunk[0].offset == all[0].offset { Offset::ZERO } else { chunk[0].offset };
            let next =
                all.iter().find(|r| r.offset > chunk[chunk.len() - 1].offset).map_or(Offset(3 * BLOCK), |r| r.offset);
            index.observe(from, next, chunk);
        }
        let num_all = all.iter().filter(|r| r.key == 1).count() as u64;
        let Counted::Upto(upto, counted) = index.count(1, Offset::ZERO, Offset(3 * BLOCK)) else { panic!() };
        assert_eq!((upto, counted.num_records), (Offset(3 * BLOCK), num_all));
        assert_eq!(index.skip(5, Offset(10), Offset(3 * BLOCK)), Offset(3 * BLOCK), "target 5 has nothing");
        let first = all.iter().find(|r| r.key == 9).unwrap().offset;
        assert_eq!(index.skip(9, Offset::ZERO, Offset(3 * BLOCK)), first);
        assert_eq!(index.num_blocks(), 3);
        index.trim(Offset(BLOCK + 5));
        assert_eq!(index.num_blocks(), 2);
    }
}
