//! Live or lagging: where a target's records come from. Pure.
//!
//! A live target is fed by the partition's consumer, a lagging one reads from its cursor through the partition's sweep. The
//! switch is one message to the consumer, which answers with its next offset Y; the target reads [cursor, Y) before it takes
//! anything from Y on, in both directions: leaving, all below Y was offered before the answer and what was refused is read again;
//! joining, what the consumer offers from Y on is held (bounded) until the sweep has brought the rest below Y.
//! Every feed has an id, so that an offer or answer of an earlier one is recognised.

use std::collections::VecDeque;

use sluse_schema::delivery::{DeliveryKind, DeliveryMeta};
use sluse_schema::record::{Offset, Record};
use sluse_schema::target::BreakerState;

use super::cursor::{Ending, Taken};
use super::input::{Effect, Ended, Now};
use super::machine::{Item, Origin, TargetMachine};

/// What a target whose breaker is not closed may have in memory: something to probe with, of several devices.
const NUM_PROBES_LOADED_MAX: usize = 32;
/// One read of the sweep for one target, at most.
const SWEEP_RECORDS_MAX: usize = 256;
const SWEEP_BYTES_MAX: usize = 1 << 20;
/// A target that has read everything but cannot go live looks again after this long.
const LOOK_AGAIN_MS: i64 = 250;

/// Where records come from.
#[derive(Debug)]
pub(super) enum Feeding {
    /// From the consumer.
    Live { feed: u64 },
    /// The consumer offers from `until` on; below it the sweep reads.
    Joining { feed: u64, until: Offset, held: VecDeque<Record>, num_held_bytes: usize, held_next: Offset },
    /// From the sweep.
    Lagging {
        /// The consumer was told to stop this feed and has not answered.
        leaving: Option<u64>,
        /// The consumer was asked to start this feed and has not answered.
        asking: Option<u64>,
        /// The last read ended at the log's end.
        is_caught_up: bool,
    },
}

impl Feeding {
    pub(super) fn lagging() -> Self {
        Self::Lagging { leaving: None, asking: None, is_caught_up: false }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }

    pub(super) fn is_fed_by(&self, id: u64) -> bool {
        matches!(self, Self::Live { feed } | Self::Joining { feed, .. } if *feed == id)
    }

    pub(super) fn num_held(&self) -> usize {
        if let Self::Joining { held, .. } = self { held.len() } else { 0 }
    }

    pub(super) fn num_held_bytes(&self) -> usize {
        if let Self::Joining { num_held_bytes, .. } = self { *num_held_bytes } else { 0 }
    }
}

/// The one read that may be under way, and when the next one makes sense.
#[derive(Debug, Default)]
pub(super) struct Demanding {
    pub(super) current: Option<u64>,
    pub(super) not_before_ms: Option<i64>,
}

impl TargetMachine {
    pub(super) fn on_offer(
        &mut self,
        feed: u64,
        since: Offset,
        records: Vec<Record>,
        next: Offset,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        // The first offer may overtake the answer that announces it.
        if matches!(self.feeding, Feeding::Lagging { asking: Some(asked), .. } if asked == feed) {
            self.on_joined(feed, since, now, fx);
        }
        let (num_held_max, num_held_bytes_max) = (self.bounds.num_lagging_max, self.bounds.num_bytes_max);
        match &mut self.feeding {
            Feeding::Live { feed: ours } if *ours == feed => {
                for record in records {
                    if self.take(record, self.bounds.num_loaded_max, now, fx) == Taken::Full {
                        // The consumer sees by the answer to its offer that this feed is over.
                        self.unload_idle();
                        self.feeding = Feeding::lagging();
                        return;
                    }
                }
                self.cursor.pass(next);
            }
            Feeding::Joining { feed: ours, held, num_held_bytes, held_next, .. } if *ours == feed => {
                let num_bytes: usize = records.iter().map(Record::num_bytes).sum();
                if held.len() + records.len() > num_held_max || *num_held_bytes + num_bytes > num_held_bytes_max {
                    self.feeding = Feeding::lagging();
                } else {
                    held.extend(records);
                    *num_held_bytes += num_bytes;
                    *held_next = next;
                }
            }
            // Refused: what the consumer offered is read again from the cursor, so its answer must not move that.
            Feeding::Lagging { leaving, .. } if *leaving == Some(feed) => *leaving = None,
            _ => {}
        }
    }

    pub(super) fn on_joined(&mut self, feed: u64, next: Offset, now: Now, fx: &mut Vec<Effect>) {
        if !matches!(self.feeding, Feeding::Lagging { asking: Some(asked), .. } if asked == feed) {
            return;
        }
        self.feeding =
            Feeding::Joining { feed, until: next, held: VecDeque::new(), num_held_bytes: 0, held_next: next };
        self.demanding.not_before_ms = None;
        self.try_to_join(now, fx);
    }

    /// Goes live when everything below Y was read.
    fn try_to_join(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let Feeding::Joining { feed, until, held, held_next, .. } = &mut self.feeding else { return };
        if self.cursor.position() < *until || self.cursor.num_unloaded() > 0 {
            return;
        }
        let (feed, held, held_next) = (*feed, std::mem::take(held), *held_next);
        self.feeding = Feeding::Live { feed };
        for record in held {
            if self.take(record, self.bounds.num_loaded_max, now, fx) == Taken::Full {
                self.go_lagging(fx);
                // What was held is refused: the consumer's answer must not move the cursor beyond it.
                self.feeding = Feeding::lagging();
                return;
            }
        }
        self.cursor.pass(held_next);
    }

    pub(super) fn on_left(&mut self, feed: u64, next: Offset) {
        if let Feeding::Lagging { leaving, .. } = &mut self.feeding
            && *leaving == Some(feed)
        {
            *leaving = None;
            self.cursor.pass(next);
        }
    }

    pub(super) fn on_ask_failed(&mut self, feed: u64) {
        if let Feeding::Lagging { leaving, asking, .. } = &mut self.feeding {
            *leaving = leaving.filter(|id| *id != feed);
            *asking = asking.filter(|id| *id != feed);
        }
    }

    /// Stops being fed: what is not in flight leaves memory at once, and is read again when there is room.
    pub(super) fn go_lagging(&mut self, fx: &mut Vec<Effect>) {
        let (feed, leaving) = match &self.feeding {
            Feeding::Live { feed } => (*feed, Some(*feed)),
            // What is held was offered but not taken: as if refused.
            Feeding::Joining { feed, .. } => (*feed, None),
            Feeding::Lagging { .. } => return,
        };
        self.unload_idle();
        self.feeding = Feeding::Lagging { leaving, asking: None, is_caught_up: false };
        fx.push(Effect::GoLagging { feed });
    }

    fn unload_idle(&mut self) {
        let (cursor, retries, num_bytes) = (&mut self.cursor, &mut self.retries, &mut self.num_bytes);
        self.lanes.remove(
            false,
            |item| matches!(item.origin, Origin::Log(_)),
            |item, _| {
                *num_bytes -= item.num_bytes();
                let offset = item.origin.offset();
                cursor.unload(offset);
                if item.retry.num_attempts > 0 {
                    retries.insert(offset.0, item.retry);
                }
            },
        );
    }

    pub(super) fn on_swept(
        &mut self,
        demand: u64,
        from: Offset,
        records: Vec<Record>,
        (next, end): (Offset, Offset),
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        if self.demanding.current != Some(demand) {
            return;
        }
        self.demanding.current = None;
        let until = if let Feeding::Joining { until, .. } = &self.feeding { *until } else { Offset(u64::MAX) };
        let has_moved = next > from;
        let mut passed = next.min(until);
        let mut is_full = false;
        for record in records {
            let offset = record.offset;
            if offset >= until {
                break;
            }
            if self.take(record, self.bounds.num_lagging_max, now, fx) == Taken::Full {
                passed = offset;
                is_full = true;
                break;
            }
        }
        let num_gone = self.cursor.expire_unloaded(from, passed);
        if num_gone > 0 {
            self.retries.retain(|offset, _| *offset >= passed.0);
            fx.push(Effect::Ended(Ended::Expired { num: num_gone }));
        }
        self.cursor.pass(passed);
        let has_read_all = !is_full && self.cursor.num_unloaded() == 0 && (next >= end || !has_moved);
        if let Feeding::Lagging { is_caught_up, .. } = &mut self.feeding {
            *is_caught_up = has_read_all;
        }
        if has_read_all {
            self.demanding.not_before_ms = Some(now.at_ms + LOOK_AGAIN_MS);
        }
        self.try_to_join(now, fx);
    }

    pub(super) fn on_demand_failed(&mut self, demand: u64, now: Now) {
        if self.demanding.current == Some(demand) {
            self.demanding.current = None;
            self.demanding.not_before_ms = Some(now.at_ms + LOOK_AGAIN_MS);
        }
    }

    pub(super) fn on_fell_out(&mut self, start: Offset, num_left: u64, fx: &mut Vec<Effect>) {
        let num = self.cursor.expire_below(start, num_left);
        let cursor = &self.cursor;
        self.retries.retain(|offset, _| *offset >= start.0 || cursor.read_from().0 <= *offset);
        if num > 0 {
            fx.push(Effect::Ended(Ended::Expired { num }));
        }
    }

    /// Takes one record into memory.
    fn take(&mut self, record: Record, num_loaded_max: usize, now: Now, fx: &mut Vec<Effect>) -> Taken {
        let is_new = record.offset >= self.cursor.position();
        let has_room = self.lanes.is_empty()
            || (self.lanes.len() < num_loaded_max && self.num_bytes + record.num_bytes() <= self.bounds.num_bytes_max);
        if is_new && !has_room {
            return Taken::Full;
        }
        if !has_room && self.cursor.is_unloaded(record.offset) {
            return Taken::Full;
        }
        let taken = self.cursor.take(record.offset, record.timestamp_ms, now.at_ms);
        if matches!(taken, Taken::New | Taken::Reloaded) {
            self.last_read_at_ms = Some(record.timestamp_ms);
            self.load_record(record, now, fx);
        }
        taken
    }

    fn load_record(&mut self, record: Record, now: Now, fx: &mut Vec<Effect>) {
        let offset = record.offset;
        let retry = self.retries.remove(&offset.0).unwrap_or_default();
        let meta = match DeliveryMeta::of_record(&record) {
            Ok(meta) => meta,
            Err(error) => {
                self.cursor.finish(offset, Ending::Discarded);
                fx.push(Effect::Malformed { offset, error: error.to_string() });
                fx.push(Effect::Ended(Ended::Discarded));
                return;
            }
        };
        let item = Item {
            origin: Origin::Log(offset),
            meta: std::sync::Arc::new(meta),
            body: record.value,
            retry,
            ticket: None,
        };
        if item.retry.num_attempts > 0 {
            self.cursor.mark_failed(offset);
        }
        // What needs no receiver ends at once, whatever the breaker says. With a store that takes no more, it waits.
        let is_undecoded = item.meta.kind == DeliveryKind::Undecoded && offset >= self.again_until;
        if self.cursor.is_tombstone() || self.is_foreign(&item) || (is_undecoded && !self.is_store_blocked) {
            self.end_unsent(item, now, fx);
            return;
        }
        self.num_bytes += item.num_bytes();
        self.lanes.push(item.meta.device, item);
    }

    /// After every step: switch over when it is due, and ask for what there is room for.
    pub(super) fn feed(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.demanding.not_before_ms = self.demanding.not_before_ms.filter(|at| *at > now.at_ms);
        if self.is_draining || self.is_rewinding {
            return;
        }
        let is_open = !self.cursor.is_tombstone()
            && (self.trouble().is_some() || self.breaker.state() == BreakerState::Open || self.is_store_blocked);
        let is_slow = self.cursor.oldest_untried_at_ms().is_some_and(|at| now.at_ms - at >= self.bounds.lag_after_ms);
        if !matches!(self.feeding, Feeding::Lagging { .. }) && (is_open || is_slow) {
            self.go_lagging(fx);
        }
        if let Feeding::Lagging { leaving: None, asking: asking @ None, is_caught_up: true } = &mut self.feeding
            && !is_open
            && !is_slow
            && self.lanes.len() <= self.bounds.num_lagging_max / 2
            && self.cursor.num_unloaded() == 0
        {
            self.next_id += 1;
            *asking = Some(self.next_id);
            fx.push(Effect::AskLive { feed: self.next_id });
        }
        let wants_records = match &self.feeding {
            Feeding::Live { .. } => false,
            Feeding::Joining { .. } => true,
            Feeding::Lagging { leaving, asking, .. } => leaving.is_none() && asking.is_none(),
        };
        if wants_records {
            self.demand(now, fx);
        }
    }

    fn demand(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if self.demanding.current.is_some() || self.demanding.not_before_ms.is_some() {
            return;
        }
        let num_max = self.num_wanted_in_memory(now);
        let num_room = num_max.saturating_sub(self.lanes.len());
        // A hole is loaded whatever else is open; new records need room among the holes.
        let num_takeable = if self.cursor.num_unloaded() > 0 { usize::MAX } else { self.cursor.room() };
        let num_records_max = num_room.min(num_takeable).min(SWEEP_RECORDS_MAX);
        let is_worth_it = num_records_max > 0 && (num_records_max >= num_max / 4 || self.lanes.len() <= num_max / 2);
        let num_bytes_room = self.bounds.num_bytes_max.saturating_sub(self.num_bytes);
        if !is_worth_it || (num_bytes_room < self.bounds.num_bytes_max / 4 && !self.lanes.is_empty()) {
            return;
        }
        let demand = self.new_id();
        self.demanding.current = Some(demand);
        self.demanding.not_before_ms = None;
        fx.push(Effect::Demand {
            demand,
            from: self.cursor.read_from(),
            num_records_max,
            num_bytes_max: num_bytes_room.min(SWEEP_BYTES_MAX),
        });
    }

    fn num_wanted_in_memory(&self, now: Now) -> usize {
        if self.cursor.is_tombstone() {
            return self.bounds.num_lagging_max;
        }
        let num_probes_max = NUM_PROBES_LOADED_MAX.min(self.bounds.num_lagging_max);
        let has_age_max = self.settings.as_ref().is_some_and(|s| s.policy.age_ms_max.is_some());
        if self.is_store_blocked {
            return 0;
        }
        if self.trouble().is_some() {
            return if has_age_max { num_probes_max } else { 0 };
        }
        match self.breaker.state() {
            BreakerState::Closed => self.bounds.num_lagging_max,
            BreakerState::HalfOpen => num_probes_max,
            BreakerState::Open => {
                let is_due = self.breaker.probe_at_ms().is_none_or(|at| now.at_ms >= at);
                if is_due || has_age_max { num_probes_max } else { 0 }
            }
        }
    }

    /// When feeding changes by time alone.
    pub(super) fn feed_wake_at_ms(&self) -> Option<i64> {
        match &self.feeding {
            Feeding::Live { .. } => self.cursor.oldest_untried_at_ms().map(|at| at + self.bounds.lag_after_ms),
            Feeding::Joining { .. } | Feeding::Lagging { .. } => {
                self.demanding.not_before_ms.filter(|_| self.demanding.current.is_none())
            }
        }
    }
}
