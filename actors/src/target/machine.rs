//! The state machine of one target: `step(input, now)` changes it and says what is to be done. Pure: no clock, no actix.
//!
//! This file holds the state and what is seen of it; [`super::feeding`] decides where records come from (live or lagging),
//! [`super::dispatch`] what is tried when and how it ends, [`super::again`] rewinds, replays and deletion.
//!
//! Limits: see [`Bounds`]. After every step all that can go on has been started, and [`TargetMachine::next_wake_at_ms`] says
//! when time alone changes something.

use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sluse_schema::delivery::DeliveryMeta;
use sluse_schema::id::{DeadLetterId, DeviceId, TargetId};
use sluse_schema::record::{LogIdentity, Offset, Position};
use sluse_schema::target::{BreakerState, Feed, TargetCursor, TargetStatus};

use super::breaker::Breaker;
use super::cursor::Cursor;
use super::feeding::{Demanding, Feeding};
use super::input::{Bounds, Effect, Input, Now, Outbox, Settings};
use super::limiter::Limiter;
use super::order::Lanes;
use super::rate::RateLimit;
use super::retry::RetryState;
use crate::table::HashMap;

/// Where a delivery in memory came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The deliveries log.
    Log(Offset),
    /// A dead letter that is replayed, and where it stood in the log.
    Replay { letter: DeadLetterId, offset: Offset },
}

impl Origin {
    pub(super) fn offset(self) -> Offset {
        match self {
            Self::Log(offset) | Self::Replay { offset, .. } => offset,
        }
    }
}

/// A delivery in memory.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) origin: Origin,
    pub(super) meta: Arc<DeliveryMeta>,
    pub(super) body: Bytes,
    pub(super) retry: RetryState,
    pub(super) ticket: Option<u64>,
}

impl Item {
    /// What counts against the bound of bytes.
    pub(super) fn num_bytes(&self) -> usize {
        self.body.len() + 256
    }
}

/// Something in flight.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) device: DeviceId,
    pub(super) started_at_ms: i64,
    pub(super) is_probe: bool,
}

/// The machine of one target.
#[derive(Debug)]
pub struct TargetMachine {
    pub(super) target: TargetId,
    pub(super) bounds: Bounds,
    pub(super) settings: Option<Settings>,
    pub(super) cursor: Cursor,
    pub(super) lanes: Lanes<Item>,
    pub(super) num_bytes: usize,
    pub(super) num_replaying: usize,
    /// Tries of open records whose bytes are not in memory.
    pub(super) retries: HashMap<u64, RetryState>,
    pub(super) flights: HashMap<u64, Flight>,
    pub(super) next_id: u64,
    pub(super) breaker: Breaker,
    pub(super) limiter: Limiter,
    pub(super) rate: RateLimit,
    pub(super) rate_at_ms: Option<i64>,
    pub(super) rng: StdRng,
    pub(super) feeding: Feeding,
    pub(super) demanding: Demanding,
    /// Records below it were read before a rewind: what is `undecoded` among them is decoded first.
    pub(super) again_until: Offset,
    pub(super) is_rewinding: bool,
    pub(super) is_store_blocked: bool,
    pub(super) is_draining: bool,
    pub(super) num_successes: u64,
    pub(super) was_error: bool,
    pub(super) last_error: Option<String>,
    pub(super) last_delivered_at_ms: Option<i64>,
    /// Received-at of the last record that was read, and of the first that was counted ahead.
    pub(super) last_read_at_ms: Option<i64>,
    pub(super) ahead_first_at_ms: Option<i64>,
    pub(super) outbox: Outbox,
}

impl TargetMachine {
    /// A machine that reads from its cursor on, lagging until it has caught up. `seed` is for jitter; `first_id` starts the ids of
    /// its tickets, feeds and demands, so that answers meant for an earlier machine are not taken for its own.
    pub fn new(target: TargetId, cursor: Cursor, bounds: Bounds, first_id: u64, seed: u64) -> Self {
        Self {
            target,
            bounds,
            settings: None,
            cursor,
            lanes: Lanes::default(),
            num_bytes: 0,
            num_replaying: 0,
            retries: HashMap::default(),
            flights: HashMap::default(),
            next_id: first_id,
            breaker: Breaker::default(),
            limiter: Limiter::new(1),
            rate: RateLimit::new(None),
            rate_at_ms: None,
            rng: StdRng::seed_from_u64(seed),
            feeding: Feeding::lagging(),
            demanding: Demanding::default(),
            again_until: Offset::ZERO,
            is_rewinding: false,
            is_store_blocked: false,
            is_draining: false,
            num_successes: 0,
            was_error: false,
            last_error: None,
            last_delivered_at_ms: None,
            last_read_at_ms: None,
            ahead_first_at_ms: None,
            outbox: Outbox::default(),
        }
    }

    /// Tells the machine something; what follows from it is pushed to `fx`.
    pub fn step(&mut self, input: Input, now: Now, fx: &mut Vec<Effect>) {
        match input {
            Input::Offer { feed, since, records, next } => self.on_offer(feed, since, records, next, now, fx),
            Input::Joined { feed, next } => self.on_joined(feed, next, now, fx),
            Input::Left { feed, next } => self.on_left(feed, next),
            Input::AskFailed { feed } => self.on_ask_failed(feed),
            Input::Swept { demand, from, records, next, end } => {
                self.on_swept(demand, from, records, (next, end), now, fx);
            }
            Input::DemandFailed { demand } => self.on_demand_failed(demand, now),
            Input::FellOut { start, num_left } => self.on_fell_out(start, num_left, fx),
            Input::Counted { from, until, num, first_at_ms } => {
                if self.cursor.num_ahead() == 0 {
                    self.ahead_first_at_ms = first_at_ms;
                }
                self.cursor.count_ahead(from, until, num);
            }
            Input::Attempted { ticket, attempt } => self.on_attempted(ticket, &attempt, now, fx),
            Input::Decoded { ticket, outcome } => self.on_decoded(ticket, outcome, now, fx),
            Input::Tick => {}
            Input::Configured(settings) => self.on_configured(settings),
            Input::Deleted => self.on_deleted(fx),
            Input::PrepareRewind => self.on_prepare_rewind(fx),
            Input::Rewind { to, num_in_range } => self.on_rewind(to, num_in_range, fx),
            Input::AbandonRewind => self.is_rewinding = false,
            Input::Replay(letters) => self.on_replay(letters, fx),
            Input::Evict => self.go_lagging(fx),
            Input::Drain => self.is_draining = true,
        }
        self.pump(now, fx);
        self.feed(now, fx);
        debug_assert!(self.cursor.is_conserved(self.num_replaying), "{:?}", self.cursor);
        debug_assert_eq!(self.num_bytes, self.lanes.iter().map(Item::num_bytes).sum::<usize>());
    }

    /// Whether the store takes no more; told with every step by who sees it.
    pub fn follow_store_blocked(&mut self, is_blocked: bool) {
        self.is_store_blocked = is_blocked;
    }

    fn on_configured(&mut self, settings: Settings) {
        if self.settings.as_ref() == Some(&settings) {
            // The sender may be another one all the same: what the breaker learnt holds no more.
            self.breaker.reset();
            return;
        }
        self.limiter.set_max(settings.policy.num_in_flight_max);
        if self.settings.is_none() {
            self.limiter = Limiter::new(settings.policy.num_in_flight_max);
        }
        let rate = settings.policy.rate_per_second;
        if self.settings.as_ref().is_none_or(|old| old.policy.rate_per_second != rate) {
            self.rate = RateLimit::new(rate);
            self.rate_at_ms = None;
        }
        self.breaker.reset();
        self.settings = Some(settings);
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Why nothing can be sent at all, whatever the receiver says.
    pub(super) fn trouble(&self) -> Option<&str> {
        match &self.settings {
            None => Some("the target's configuration is not loaded yet"),
            Some(settings) => settings.trouble.as_deref(),
        }
    }

    /// When time alone changes something; `None`: only an input does.
    pub fn next_wake_at_ms(&self, now: Now) -> Option<i64> {
        if self.is_draining {
            return None;
        }
        let has_old = self.settings.as_ref().is_some_and(|s| s.policy.age_ms_max.is_some()) && !self.lanes.is_empty();
        [
            self.lanes.next_due_at_ms().filter(|at| *at > now.at_ms),
            self.breaker.probe_at_ms(),
            self.rate_at_ms,
            self.feed_wake_at_ms(),
            self.is_store_blocked.then_some(now.at_ms + 1_000),
            has_old.then_some(now.at_ms + 5_000),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the consumer of this feed should go on offering.
    pub fn is_fed_by(&self, feed: u64) -> bool {
        self.feeding.is_fed_by(feed)
    }

    /// Whether nothing is in flight.
    pub fn is_quiet(&self) -> bool {
        self.flights.is_empty()
    }

    /// The cursor, to look at.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Whether reading stands still for a rewind.
    pub fn is_rewinding(&self) -> bool {
        self.is_rewinding
    }

    /// Records in memory and their bytes.
    pub fn load(&self) -> (usize, usize) {
        (self.lanes.len() + self.feeding.num_held(), self.num_bytes + self.feeding.num_held_bytes())
    }

    /// How the target is fed.
    pub fn fed(&self) -> Feed {
        if self.feeding.is_live() { Feed::Live } else { Feed::Lagging }
    }

    /// What waits to be written; the caller writes it together with [`TargetMachine::to_row`].
    pub fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    /// Whether this target follows its partition's position once that is at `partition_next`: live, everything below it ended.
    pub fn follows(&self, partition_next: Offset) -> bool {
        self.feeding.is_live()
            && self.cursor.num_open() == 0
            && self.cursor.num_ahead() == 0
            && self.cursor.position() <= partition_next
    }

    /// The row to write when the partition's position is written as `partition_next`.
    pub fn to_row(&self, log: &LogIdentity, partition_next: Offset) -> TargetCursor {
        let position =
            (!self.follows(partition_next)).then(|| Position { log: log.clone(), offset: self.cursor.position() });
        self.cursor.to_row(self.target, position, self.num_replaying)
    }

    /// How the target looks now.
    pub fn status(&self, now: Now) -> TargetStatus {
        let pending = self.cursor.num_open() as u64 + self.cursor.num_ahead() + self.num_replaying as u64;
        let trouble = self.trouble().filter(|_| !self.cursor.is_tombstone());
        let ahead_at_ms =
            (self.cursor.num_ahead() > 0).then_some(self.last_read_at_ms.max(self.ahead_first_at_ms)).flatten();
        let oldest_at_ms = self.cursor.oldest_received_at_ms().or(ahead_at_ms);
        TargetStatus {
            target_id: self.target,
            feed: self.fed(),
            breaker: if trouble.is_some() { BreakerState::Open } else { self.breaker.state() },
            breaker_reason: trouble.or(self.breaker.reason()).map(str::to_owned),
            next_probe_at_ms: self.breaker.probe_at_ms().map(|at| now.unix_ms + (at - now.at_ms)),
            lag_records: pending,
            lag_seconds: oldest_at_ms.map_or(0.0, |at| (now.unix_ms - at).max(0) as f64 / 1e3),
            num_in_flight: u32::try_from(self.flights.len()).unwrap_or(u32::MAX),
            in_flight_limit: u32::try_from(self.limiter.limit()).unwrap_or(u32::MAX),
            counters: self.cursor.counters(),
            pending,
            last_error: self.last_error.clone(),
            last_delivered_at_ms: self.last_delivered_at_ms,
            as_of_ms: now.unix_ms,
        }
    }

    /// Whether every record is accounted for.
    pub fn is_conserved(&self) -> bool {
        self.cursor.is_conserved(self.num_replaying)
    }
}
