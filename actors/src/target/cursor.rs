//! How far a target is: the offset read up to, the unfinished ones below it (holes), and every way a record can go, counted
//! by itself. Pure: no clock, no actix.
//!
//! Limits: at most `num_holes_max` records are unfinished at once; when they are, nothing further is taken until one ends.
//! A hole is *loaded* when its bytes are in memory, otherwise it is read again from the log, lowest first, before anything new
//! is taken; so the records of a device always come in log order.
//!
//! Conservation (asserted after every change in tests, at every snapshot otherwise):
//! `accepted + offered again = delivered + dead + expired + discarded + holes + replaying`.
//! What was counted in the log beyond the position (`ahead`) is in the stored row's `accepted`, so that the row's balance is
//! everything that still has to be finished, and a count that fell out of the log while nobody ran is not forgotten.

use std::collections::{BTreeMap, BTreeSet};

use sluse_schema::id::TargetId;
use sluse_schema::record::{Offset, Position};
use sluse_schema::target::{TargetCounters, TargetCursor};

/// How a record ended (I4). Expired ones never get this far: see [`Cursor::expire_below`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The receiver has it.
    Delivered,
    /// It became a dead letter.
    Dead,
    /// Its target is gone or belongs to another tenant now.
    Discarded,
}

/// What became of a record that was put before the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new: counted as accepted, and a loaded hole now.
    New,
    /// It was an unloaded hole, and is a loaded one now.
    Reloaded,
    /// It is finished, or in memory already: nothing is to be done.
    Known,
    /// There is no room, or holes have to be loaded first: it has to be offered again later.
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    accepted_at_ms: i64,
    /// Unix milliseconds; unknown until a restored hole is read again.
    received_at_ms: Option<i64>,
    has_failed: bool,
}

/// Records counted in the log but not read: `num` of them stand in `[position, until)`.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    until: Offset,
    num: u64,
}

/// The cursor of one target.
#[derive(Debug)]
pub struct Cursor {
    position: Offset,
    holes: BTreeMap<u64, Hole>,
    unloaded: BTreeSet<u64>,
    ahead: Ahead,
    counters: TargetCounters,
    rewind_epoch: u64,
    is_tombstone: bool,
    num_holes_max: usize,
}

impl Cursor {
    /// A cursor of a target that nothing was ever counted for.
    pub fn new(position: Offset, num_holes_max: usize) -> Self {
        assert!(num_holes_max > 0, "a cursor without room never makes progress");
        Self {
            position,
            holes: BTreeMap::new(),
            unloaded: BTreeSet::new(),
            ahead: Ahead { until: position, num: 0 },
            counters: TargetCounters::default(),
            rewind_epoch: 0,
            is_tombstone: false,
            num_holes_max,
        }
    }

    /// A cursor from its row, put at `position` (its own, resolved against the log, or its partition's).
    ///
    /// `start` is the first offset that the log still has, and `num_left` what stands for this target from there to the
    /// log's end: holes that are gone, and counted records that are gone unread, are expired. The second value says how many.
    pub fn restore(
        row: &TargetCursor,
        position: Offset,
        start: Offset,
        num_left: u64,
        num_holes_max: usize,
    ) -> (Self, u64) {
        let mut cursor = Self::new(position.max(start), num_holes_max);
        cursor.counters = row.counters;
        cursor.rewind_epoch = row.rewind_epoch;
        cursor.is_tombstone = row.is_tombstone;
        let num_holes = row.holes.len() as u64;
        let num_ahead = u64::try_from(row.counters.pending_by_balance()).unwrap_or(0).saturating_sub(num_holes);
        cursor.counters.accepted = cursor.counters.accepted.saturating_sub(num_ahead);
        let mut num_expired = 0;
        for hole in &row.holes {
            if *hole >= start && *hole < position {
                cursor.holes.insert(hole.0, Hole { accepted_at_ms: i64::MIN, received_at_ms: None, has_failed: true });
                cursor.unloaded.insert(hole.0);
            } else {
                num_expired += 1;
            }
        }
        cursor.counters.expired += num_expired;
        if position < start {
            let num_unread = num_ahead.saturating_sub(num_left);
            cursor.counters.accepted += num_unread;
            cursor.counters.expired += num_unread;
            num_expired += num_unread;
        }
        (cursor, num_expired)
    }

    /// A cursor from a row whose position counts in another log: what was open there cannot be read any more, and is expired.
    pub fn restore_elsewhere(row: &TargetCursor, start: Offset, num_holes_max: usize) -> (Self, u64) {
        let mut cursor = Self::new(start, num_holes_max);
        let num_expired = u64::try_from(row.counters.pending_by_balance()).unwrap_or(0);
        cursor.counters = row.counters;
        cursor.counters.expired += num_expired;
        cursor.rewind_epoch = row.rewind_epoch;
        cursor.is_tombstone = row.is_tombstone;
        (cursor, num_expired)
    }

    /// Puts a record before the cursor.
    pub fn take(&mut self, offset: Offset, received_at_ms: i64, now_ms: i64) -> Taken {
        if offset < self.position {
            if !self.unloaded.contains(&offset.0) {
                return Taken::Known;
            }
            // A read that was asked for before lower records lost their bytes: theirs come first.
            if self.read_from() < offset {
                return Taken::Full;
            }
            self.unloaded.remove(&offset.0);
            if let Some(hole) = self.holes.get_mut(&offset.0) {
                hole.received_at_ms = Some(received_at_ms);
            }
            return Taken::Reloaded;
        }
        if !self.unloaded.is_empty() || self.holes.len() >= self.num_holes_max {
            return Taken::Full;
        }
        let hole = Hole { accepted_at_ms: now_ms, received_at_ms: Some(received_at_ms), has_failed: false };
        self.holes.insert(offset.0, hole);
        self.counters.accepted += 1;
        if offset < self.ahead.until {
            self.ahead.num = self.ahead.num.saturating_sub(1);
        }
        self.move_to(offset.next());
        Taken::New
    }

    /// Everything below `next` was looked at, and what was there for this target was taken.
    pub fn pass(&mut self, next: Offset) {
        self.move_to(self.position.max(next));
    }

    fn move_to(&mut self, position: Offset) {
        self.position = position;
        if position >= self.ahead.until {
            self.ahead = Ahead { until: position, num: 0 };
        }
    }

    /// A loaded record ended.
    ///
    /// # Panics
    /// When the record was not open: it would be counted twice.
    pub fn finish(&mut self, offset: Offset, ending: Ending) {
        assert!(self.holes.remove(&offset.0).is_some(), "offset {offset} was not open");
        self.unloaded.remove(&offset.0);
        self.count(ending);
    }

    /// Counts an ending of something that is not in the log's order: a replayed dead letter.
    pub fn count(&mut self, ending: Ending) {
        match ending {
            Ending::Delivered => self.counters.delivered += 1,
            Ending::Dead => self.counters.dead += 1,
            Ending::Discarded => self.counters.discarded += 1,
        }
    }

    /// A dead letter is offered again.
    pub fn count_replayed(&mut self) {
        self.counters.offered_again += 1;
    }

    /// The bytes of an open record were dropped; it will be read again.
    pub fn unload(&mut self, offset: Offset) {
        debug_assert!(self.holes.contains_key(&offset.0), "offset {offset} is not open");
        self.unloaded.insert(offset.0);
    }

    /// A try of this record failed: its age says nothing about the receiver's speed any more.
    pub fn mark_failed(&mut self, offset: Offset) {
        if let Some(hole) = self.holes.get_mut(&offset.0) {
            hole.has_failed = true;
        }
    }

    /// Unloaded holes in `[from, next)` that a read did not bring: the log has them no more. Answers how many.
    pub fn expire_unloaded(&mut self, from: Offset, next: Offset) -> u64 {
        let gone: Vec<u64> = self.unloaded.range(from.0..next.0.max(from.0)).copied().collect();
        for offset in &gone {
            self.unloaded.remove(offset);
            self.holes.remove(offset);
        }
        self.counters.expired += gone.len() as u64;
        gone.len() as u64
    }

    /// The log starts at `start` now; of the records counted ahead, `num_left` still stand in `[start, until)`.
    /// Answers how many records expired.
    pub fn expire_below(&mut self, start: Offset, num_left: u64) -> u64 {
        let mut num_expired = self.expire_unloaded(Offset::ZERO, start);
        if self.position < start {
            let num_unread = self.ahead.num.saturating_sub(num_left);
            self.counters.accepted += num_unread;
            self.counters.expired += num_unread;
            num_expired += num_unread;
            self.ahead.num -= num_unread;
            self.move_to(start);
        }
        num_expired
    }

    /// Where the count of what stands ahead goes on.
    pub fn counted_until(&self) -> Offset {
        self.ahead.until
    }

    /// `num` records more were counted in `[from, until)`. A count that does not follow the last one is stale and ignored.
    pub fn count_ahead(&mut self, from: Offset, until: Offset, num: u64) {
        if from == self.ahead.until && until > from {
            self.ahead = Ahead { until, num: self.ahead.num + num };
        }
    }

    /// Goes back to `to`: `num_in_range` records stand in `[to, position)`, of which the open ones are taken back, not offered
    /// again. `num_replaying_in_range` dead letters of the range were being replayed and are superseded.
    /// Answers the offsets that were open.
    pub fn rewind(&mut self, to: Offset, num_in_range: u64, num_replaying_in_range: u64) -> Vec<Offset> {
        self.rewind_epoch += 1;
        if to >= self.position {
            return Vec::new();
        }
        let open = self.holes.split_off(&to.0);
        self.unloaded.split_off(&to.0);
        // What was never counted (a row that was lost) is accepted when it is read.
        let num_again = num_in_range.min(self.counters.accepted);
        self.counters.accepted -= num_again;
        self.counters.offered_again += num_again;
        self.counters.offered_again =
            self.counters.offered_again.saturating_sub(open.len() as u64 + num_replaying_in_range);
        self.ahead = Ahead { until: self.ahead.until.max(self.position), num: self.ahead.num + num_in_range };
        self.position = to;
        open.into_keys().map(Offset).collect()
    }

    /// The target's row is gone: everything open is discarded. Answers how many.
    pub fn bury(&mut self) -> u64 {
        self.is_tombstone = true;
        let num_open = self.holes.len() as u64;
        self.counters.discarded += num_open;
        self.holes.clear();
        self.unloaded.clear();
        num_open
    }

    /// Where reading goes on: the lowest hole whose bytes are not in memory, else the position.
    pub fn read_from(&self) -> Offset {
        self.unloaded.first().map_or(self.position, |offset| Offset(*offset))
    }

    /// Everything for this target below it was taken.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Holes that have to be read again.
    pub fn num_unloaded(&self) -> usize {
        self.unloaded.len()
    }

    /// Whether this record is open and has to be read again.
    pub fn is_unloaded(&self, offset: Offset) -> bool {
        self.unloaded.contains(&offset.0)
    }

    /// Open records below the position.
    pub fn num_open(&self) -> usize {
        self.holes.len()
    }

    /// How many new records may be taken.
    pub fn room(&self) -> usize {
        self.num_holes_max.saturating_sub(self.holes.len())
    }

    /// Counted in the log beyond the position.
    pub fn num_ahead(&self) -> u64 {
        self.ahead.num
    }

    /// When the oldest record that never failed was accepted: how long the receiver keeps us waiting, retries aside.
    pub fn oldest_untried_at_ms(&self) -> Option<i64> {
        self.holes.values().find(|hole| !hole.has_failed).map(|hole| hole.accepted_at_ms)
    }

    /// When the oldest open record was received, Unix milliseconds, if it was read since the start.
    pub fn oldest_received_at_ms(&self) -> Option<i64> {
        self.holes.values().find_map(|hole| hole.received_at_ms)
    }

    /// The counters as people see them: `accepted` holds what was counted ahead.
    pub fn counters(&self) -> TargetCounters {
        TargetCounters { accepted: self.counters.accepted + self.ahead.num, ..self.counters }
    }

    /// Whether the target is only remembered.
    pub fn is_tombstone(&self) -> bool {
        self.is_tombstone
    }

    /// Raised by every rewind.
    pub fn rewind_epoch(&self) -> u64 {
        self.rewind_epoch
    }

    /// Whether every record that came is accounted for, given how many dead letters are being replayed.
    pub fn is_conserved(&self, num_replaying: usize) -> bool {
        let pending = self.holes.len() as u64 + self.ahead.num + num_replaying as u64;
        self.counters().pending_by_balance() == i128::from(pending)
    }

    /// The row. Replays that are not finished are not in it: their request is worked off again after a restart.
    /// `position` is `None` for a target that follows its partition.
    pub fn to_row(&self, target: TargetId, position: Option<Position>, num_replaying: usize) -> TargetCursor {
        let mut counters = self.counters();
        counters.offered_again = counters.offered_again.saturating_sub(num_replaying as u64);
        TargetCursor {
            target,
            position,
            holes: self.holes.keys().copied().map(Offset).collect(),
            counters,
            rewind_epoch: self.rewind_epoch,
            is_tombstone: self.is_tombstone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn row_of(cursor: &Cursor) -> TargetCursor {
        cursor.to_row(TargetId(1), None, 0)
    }

    #[test]
    fn nothing_new_is_taken_before_the_holes_are_loaded() {
        let mut cursor = Cursor::new(Offset(0), 4);
        assert_eq!(cursor.take(Offset(3), 0, 0), Taken::New);
        assert_eq!(cursor.take(Offset(5), 0, 0), Taken::New);
        cursor.unload(Offset(3));
        assert_eq!(cursor.read_from(), Offset(3));
        assert_eq!(cursor.take(Offset(7), 0, 0), Taken::Full);
        assert_eq!(cursor.take(Offset(3), 0, 0), Taken::Reloaded);
        assert_eq!(cursor.take(Offset(5), 0, 0), Taken::Known);
        assert_eq!(cursor.take(Offset(7), 0, 0), Taken::New);
    }

    #[test]
    fn a_hole_is_not_loaded_before_a_lower_one() {
        let mut cursor = Cursor::new(Offset(0), 4);
        assert_eq!([3, 5].map(|offset| cursor.take(Offset(offset), 0, 0)), [Taken::New; 2]);
        cursor.unload(Offset(3));
        cursor.unload(Offset(5));
        assert_eq!(cursor.take(Offset(5), 0, 0), Taken::Full);
        assert_eq!(cursor.take(Offset(3), 0, 0), Taken::Reloaded);
        assert_eq!(cursor.take(Offset(5), 0, 0), Taken::Reloaded);
    }

    #[test]
    fn holes_are_bounded() {
        let mut cursor = Cursor::new(Offset(0), 2);
        assert_eq!(cursor.take(Offset(0), 0, 0), Taken::New);
        assert_eq!(cursor.take(Offset(1), 0, 0), Taken::New);
        assert_eq!(cursor.take(Offset(2), 0, 0), Taken::Full);
        cursor.finish(Offset(0), Ending::Delivered);
        assert_eq!(cursor.take(Offset(2), 0, 0), Taken::New);
    }

    #[test]
    #[should_panic(expected = "was not open")]
    fn finishing_twice_is_a_bug() {
        let mut cursor = Cursor::new(Offset(0), 2);
        cursor.take(Offset(0), 0, 0);
        cursor.finish(Offset(0), Ending::Delivered);
        cursor.finish(Offset(0), Ending::Delivered);
    }

    #[test]
    fn what_fell_out_of_the_log_while_nobody_ran_is_counted_from_the_row() {
        let mut cursor = Cursor::new(Offset(0), 8);
        cursor.take(Offset(0), 0, 0);
        cursor.take(Offset(1), 0, 0);
        cursor.count_ahead(Offset(2), Offset(10), 5);
        let row = row_of(&cursor);
        assert_eq!(row.counters.accepted, 7);
        let (back, num_expired) = Cursor::restore(&row, Offset(2), Offset(6), 2, 8);
        // Two holes and three of the five unread ones are gone.
        assert_eq!(num_expired, 5);
        assert_eq!(back.position(), Offset(6));
        assert!(back.is_conserved(0));
        assert_eq!(back.counters().expired, 5);
    }

    #[test]
    fn a_rewind_beyond_the_position_skips_nothing() {
        let mut cursor = Cursor::new(Offset(0), 8);
        cursor.take(Offset(4), 0, 0);
        assert!(cursor.rewind(Offset(50), 0, 0).is_empty());
        assert_eq!((cursor.position(), cursor.rewind_epoch()), (Offset(5), 1));
        assert!(cursor.is_conserved(0));
    }

    /// What the cursor is measured against: sets of offsets, nothing clever.
    #[derive(Default)]
    struct Naive {
        log: BTreeSet<u64>,
        position: u64,
        open: BTreeSet<u64>,
        num_endings: u64,
        num_starts: u64,
    }

    proptest! {
        #[test]
        fn conserves_against_a_naive_model(
            offsets in proptest::collection::btree_set(0u64..200, 1..80),
            actions in proptest::collection::vec((0u8..8, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut naive = Naive { log: offsets, ..Naive::default() };
            let mut cursor = Cursor::new(Offset(0), 8);
            let mut loaded: BTreeSet<u64> = BTreeSet::new();
            for (action, pick) in actions {
                match action {
                    // Read one record from where the cursor says.
                    0 | 1 => {
                        let from = cursor.read_from().0;
                        if let Some(&offset) = naive.log.range(from..).next() {
                            match cursor.take(Offset(offset), 0, 0) {
                                Taken::New => {
                                    prop_assert!(offset >= naive.position);
                                    prop_assert!(naive.open.len() < 8);
                                    naive.open.insert(offset);
                                    naive.num_starts += 1;
                                    naive.position = offset + 1;
                                    loaded.insert(offset);
                                }
                                Taken::Reloaded => {
                                    prop_assert!(naive.open.contains(&offset) && loaded.insert(offset));
                                }
                                Taken::Known => prop_assert!(false, "a read from the cursor brought a known record"),
                                Taken::Full => prop_assert_eq!(naive.open.len(), 8),
                            }
                        }
                    }
                    2 if !loaded.is_empty() => {
                        let offset = *pick.get(&loaded.iter().copied().collect::<Vec<_>>());
                        let ending = [Ending::Delivered, Ending::Dead, Ending::Discarded][(offset % 3) as usize];
                        cursor.finish(Offset(offset), ending);
                        loaded.remove(&offset);
                        naive.open.remove(&offset);
                        naive.num_endings += 1;
                    }
                    3 if !loaded.is_empty() => {
                        let offset = *pick.get(&loaded.iter().copied().collect::<Vec<_>>());
                        cursor.unload(Offset(offset));
                        loaded.remove(&offset);
                    }
                    4 => {
                        let to = pick.index(200) as u64;
                        let in_range = naive.log.range(to..naive.position.max(to)).count() as u64;
                        let taken_back = cursor.rewind(Offset(to), in_range, 0);
                        let open_in_range: Vec<Offset> = naive.open.split_off(&to).into_iter().map(Offset).collect();
                        if to < naive.position {
                            prop_assert_eq!(&taken_back, &open_in_range);
                            naive.position = to;
                        }
                        naive.num_starts -= open_in_range.len() as u64;
                        loaded.retain(|o| *o < to);
                    }
                    5 => {
                        let row = row_of(&cursor);
                        let (back, num_expired) =
                            Cursor::restore(&row, cursor.position(), Offset(0), 0, 8);
                        prop_assert_eq!(num_expired, 0);
                        cursor = back;
                        loaded.clear();
                    }
                    6 => {
                        let (from, until) = (cursor.counted_until().0, 200);
                        let num = naive.log.range(from..until.max(from)).count() as u64;
                        cursor.count_ahead(Offset(from), Offset(until), num);
                        if until > from {
                            prop_assert_eq!(cursor.num_ahead(), naive.log.range(naive.position..).count() as u64);
                        }
                    }
                    // A late read brings any of the unloaded holes: only the lowest may be taken.
                    7 if loaded.len() < naive.open.len() => {
                        let unloaded: Vec<u64> = naive.open.difference(&loaded).copied().collect();
                        let offset = *pick.get(&unloaded);
                        let is_lowest = offset == unloaded[0];
                        let taken = cursor.take(Offset(offset), 0, 0);
                        prop_assert_eq!(taken, if is_lowest { Taken::Reloaded } else { Taken::Full });
                        loaded.extend(is_lowest.then_some(offset));
                    }
                    _ => {}
                }
                prop_assert!(cursor.is_conserved(0), "{:?}", cursor);
                prop_assert_eq!(cursor.num_open(), naive.open.len());
                prop_assert_eq!(cursor.position().0, naive.position);
                prop_assert_eq!(cursor.num_unloaded(), naive.open.len() - loaded.len());
                let ends = cursor.counters();
                prop_assert_eq!(ends.delivered + ends.dead + ends.discarded, naive.num_endings);
                prop_assert_eq!(naive.num_starts, naive.num_endings + naive.open.len() as u64);
            }
        }
    }
}
