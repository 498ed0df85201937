//! What this node wrote itself, put into a partition's live stretch as soon as it is durable (committed, for deliveries): nobody has to
//! fetch it back. Pure: no clock, no Kafka.
//!
//! That is right only where nothing of anybody else can stand between the stretch's end and the first of the records: there lies nothing,
//! or one offset, and that is the mark Kafka wrote at the end of this node's last transaction (it is written before the next transaction
//! of the same producer may begin). What a run does not follow is fetched, as everything is that others write.
//!
//! While all that was written to the partition for some time is this node's own, the reader rests. It goes on when a run shows a gap, or when
//! nothing came for a while: so what another node writes meanwhile is seen within about twice [`SILENT_AFTER`].

use std::time::{Duration, Instant};

use sluse_schema::record::{NewRecord, Offset, Record};

use super::reel::Reel;

/// The reader rests when all that came for this long was this node's own.
const REST_AFTER: Duration = Duration::from_secs(2);
/// It goes on when none came for this long: longer than from one moment of appends to the next, or it would never rest.
pub const SILENT_AFTER: Duration = Duration::from_millis(200);

/// Records of this node that stand one behind the other in one partition, with nothing between them.
#[derive(Clone, Debug)]
pub struct Run {
    pub first: Offset,
    pub records: Vec<NewRecord>,
    /// Whether they were a transaction, behind which a mark stands.
    pub is_transaction: bool,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    first: Offset,
    /// The offset behind the last record.
    next: Offset,
    is_transaction: bool,
}

impl Run {
    /// Where it stands.
    pub fn span(&self) -> Span {
        let next = Offset(self.first.0 + self.records.len() as u64);
        Span { first: self.first, next, is_transaction: self.is_transaction }
    }
}

/// The runs of one partition so far, as far as each followed the one before.
#[derive(Debug, Default)]
pub struct OwnRuns {
    /// Behind the last one.
    next: Option<Offset>,
    /// Whether a mark follows it.
    has_mark: bool,
    /// When the first and the last of them came.
    since: Option<Instant>,
    last_at: Option<Instant>,
}

impl OwnRuns {
    /// A run came.
    pub fn note(&mut self, run: Span, now: Instant) {
        if !self.next.is_some_and(|next| self.follows(next, run.first)) {
            self.since = None;
        }
        self.since.get_or_insert(now);
        self.last_at = Some(now);
        (self.next, self.has_mark) = (Some(run.next), run.is_transaction);
    }

    /// This node wrote something of which it does not know where it stands.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing of anybody else stands in `[end, first)`.
    fn follows(&self, end: Offset, first: Offset) -> bool {
        first == end || (first == end.next() && self.has_mark && self.next == Some(end))
    }

    /// The records of a run that the stretch does not have yet, if they follow its end and there is room. To be asked before the run is
    /// noted.
    pub fn new_records(&self, run: Run, reel: &Reel) -> Vec<Record> {
        let end = reel.next();
        let num_known = usize::try_from(end.0.saturating_sub(run.first.0)).unwrap_or(usize::MAX);
        let begins_at = run.first.max(end);
        if !reel.has_room() || num_known >= run.records.len() || !self.follows(end, begins_at) {
            return Vec::new();
        }
        let places = (begins_at.0..).map(Offset);
        run.records.into_iter().skip(num_known).zip(places).map(|(new, offset)| new.at(offset)).collect()
    }

    /// Whether the stretch, which ends at `end`, needs no reader: this node's own records come, and all of them were put in.
    pub fn suffice(&self, end: Offset, now: Instant) -> bool {
        let is_long = self.since.is_some_and(|since| now.duration_since(since) >= REST_AFTER);
        let is_recent = self.last_at.is_some_and(|at| now.duration_since(at) < SILENT_AFTER);
        is_long && is_recent && self.next.is_some_and(|next| next <= end)
    }

    /// The reader goes on: it does not rest again before [`REST_AFTER`].
    pub fn start_over(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use sluse_schema::record::Headers;

    use crate::kafka_log::reel::Limits;

    fn new(number: usize) -> NewRecord {
        let value = Bytes::from(number.to_string());
        NewRecord { key: 1, timestamp_ms: 0, headers: Headers::default(), value }
    }

    fn run(first: u64, num: usize, is_transaction: bool) -> Run {
        Run { first: Offset(first), records: (0..num).map(new).collect(), is_transaction }
    }

    fn limits(num_bytes_max: usize) -> Limits {
        Limits { num_unread_bytes_max: num_bytes_max, num_read_bytes_max: num_bytes_max }
    }

    fn offsets(own: &OwnRuns, run: Run, end: u64) -> Vec<u64> {
        own.new_records(run, &Reel::new(Offset(end), limits(500))).iter().map(|record| record.offset.0).collect()
    }

    #[test]
    fn what_does_not_follow_is_left_to_the_reader() {
        let mut own = OwnRuns::default();
        assert_eq!(offsets(&own, run(5, 2, true), 5), [5, 6]);
        assert_eq!(offsets(&own, run(5, 2, true), 6), [6], "the reader was there first");
        assert_eq!(offsets(&own, run(5, 2, true), 7), Vec::<u64>::new());
        assert_eq!(offsets(&own, run(5, 2, true), 4), Vec::<u64>::new(), "nothing is known of 4");
        own.note(run(5, 2, true).span(), Instant::now());
        assert_eq!(offsets(&own, run(8, 1, true), 7), [8], "7 is the mark of the transaction before");
        assert_eq!(offsets(&own, run(9, 1, true), 7), Vec::<u64>::new());
        assert_eq!(offsets(&own, run(9, 1, true), 8), Vec::<u64>::new(), "8 is somebody else's");
        own.note(run(5, 2, false).span(), Instant::now());
        assert_eq!(offsets(&own, run(8, 1, false), 7), Vec::<u64>::new(), "what is no transaction has no mark");
        let mut full = Reel::new(Offset(7), limits(0));
        full.push(new(0).at(Offset(7)));
        assert!(own.new_records(run(8, 1, false), &full).is_empty(), "there is no room");
    }

    #[test]
    fn the_reader_rests_while_own_runs_follow_each_other_and_goes_on_at_a_gap_or_in_silence() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut own = OwnRuns::default();
        let mut next = 0;
        for ms in (0..2_000).step_by(50) {
            assert!(!own.suffice(Offset(next), at(ms)));
            own.note(run(next, 2, false).span(), at(ms));
            next += 2;
        }
        assert!(own.suffice(Offset(next), at(2_000)));
        assert!(!own.suffice(Offset(next - 1), at(2_000)), "the last one was not put in");
        assert!(own.suffice(Offset(next), at(2_149)));
        assert!(!own.suffice(Offset(next), at(2_150)), "silence");
        own.note(run(next + 1, 1, false).span(), at(2_000));
        assert!(!own.suffice(Offset(next + 2), at(2_000)), "a gap");
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Entry {
        /// A record, by the number of its transaction.
        Record(usize),
        Mark,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Open,
        Committed,
        Aborted,
    }

    /// A partition of Kafka with two producers, as naive as can be, and the stretch under test beside it.
    struct World {
        is_transactional: bool,
        log: Vec<Entry>,
        fates: Vec<Fate>,
        /// The transaction of somebody else that is open.
        foreign: Option<usize>,
        owes_mark: bool,
        own: OwnRuns,
        reel: Reel,
        put_in: Vec<u64>,
    }

    impl World {
        fn begin(&mut self) -> usize {
            self.fates.push(if self.is_transactional { Fate::Open } else { Fate::Committed });
            self.fates.len() - 1
        }

        fn write_foreign(&mut self) {
            let transaction = match self.foreign {
                Some(open) => open,
                None => self.begin(),
            };
            self.foreign = self.is_transactional.then_some(transaction);
            self.log.push(Entry::Record(transaction));
        }

        fn end_foreign(&mut self, fate: Fate) {
            if let Some(open) = self.foreign.take() {
                self.fates[open] = fate;
                self.log.push(Entry::Mark);
            }
        }

        fn mark(&mut self) {
            if std::mem::take(&mut self.owes_mark) {
                self.log.push(Entry::Mark);
            }
        }

        /// A run, before each of whose records so many of somebody else's come.
        fn write_own(&mut self, others_before: &[usize], fate: Fate, is_told: bool) {
            // Kafka lets a producer's next transaction begin when the marks of the one before are written.
            self.mark();
            let transaction = self.begin();
            let mut places = Vec::new();
            for num in others_before {
                (0..*num).for_each(|_| self.write_foreign());
                places.push(self.log.len() as u64);
                self.log.push(Entry::Record(transaction));
            }
            self.owes_mark = self.is_transactional;
            if self.is_transactional {
                self.fates[transaction] = fate;
            }
            if !self.is_transactional || fate == Fate::Committed {
                let (first, num) = (places[0], places.len());
                let is_contiguous = places[num - 1] - first + 1 == num as u64;
                if !is_told || !is_contiguous {
                    self.own.lose();
                    return;
                }
                let run = run(first, num, self.is_transactional);
                let span = run.span();
                for record in self.own.new_records(run, &self.reel) {
                    self.put_in.push(record.offset.0);
                    self.reel.push(record);
                }
                self.own.note(span, Instant::now());
            }
        }

        /// What a reader sees that is shown only what was committed.
        fn fetch(&mut self, num: usize) {
            let open = |entry: &Entry| matches!(entry, Entry::Record(t) if self.fates[*t] == Fate::Open);
            let stable = self.log.iter().position(open).unwrap_or(self.log.len());
            let from = self.reel.next().0 as usize;
            for place in (from..stable).take(num) {
                match self.log[place] {
                    Entry::Record(t) if self.fates[t] == Fate::Committed => {
                        self.put_in.push(place as u64);
                        self.reel.push(new(0).at(Offset(place as u64)));
                    }
                    _ => self.reel.pass(Offset(place as u64 + 1)),
                }
            }
        }

        /// Exactly what was committed stands in the stretch, as far as it reaches.
        fn check(&self) -> Result<(), TestCaseError> {
            let is_committed = |entry: &Entry| matches!(entry, Entry::Record(t) if self.fates[*t] == Fate::Committed);
            let places =
                (0u64..).zip(&self.log).filter(|(place, entry)| *place < self.reel.next().0 && is_committed(entry));
            let expected: Vec<u64> = places.map(|(place, _)| place).collect();
            prop_assert_eq!(&self.put_in, &expected);
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn with_other_producers_between_the_stretch_holds_exactly_what_was_committed(
            is_transactional in any::<bool>(),
            acts in proptest::collection::vec((0u8..9, proptest::collection::vec(0usize..12, 1..4), any::<bool>()), 1..60),
        ) {
            let mut world = World {
                is_transactional,
                log: Vec::new(),
                fates: Vec::new(),
                foreign: None,
                owes_mark: false,
                own: OwnRuns::default(),
                reel: Reel::new(Offset::ZERO, limits(1 << 19)),
                put_in: Vec::new(),
            };
            for (act, numbers, coin) in acts {
                // Somebody else seldom comes between.
                let others: Vec<usize> = numbers.iter().map(|n| n.saturating_sub(10)).collect();
                match act {
                    0..=3 => world.write_own(&others, Fate::Committed, numbers[0] > 0),
                    4 => world.write_own(&others, if coin { Fate::Committed } else { Fate::Aborted }, true),
                    5 => world.mark(),
                    6 if coin => world.write_foreign(),
                    7 => world.end_foreign(if coin { Fate::Committed } else { Fate::Aborted }),
                    _ => world.fetch(numbers[0]),
                }
                world.check()?;
            }
            world.end_foreign(Fate::Committed);
            world.mark();
            world.fetch(usize::MAX);
            world.check()?;
            prop_assert_eq!(world.reel.next().0, world.log.len() as u64);
        }
    }
}
