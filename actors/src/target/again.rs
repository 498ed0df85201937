//! What is offered again, and what is offered no more: rewinds, replayed dead letters, deletion. Pure.
//!
//! A rewind is prepared first ([`super::input::Input::PrepareRewind`]): reading stands still while the records of the range are
//! counted in the log, so that `offered again` is exact. Then what is in flight in the range is cancelled, late answers find no
//! ticket, and reading goes on from there. A replayed dead letter stays in the list until it ended; its request is worked off
//! again after a restart, so unfinished replays are not in the stored counters.

use sluse_schema::delivery::DeadLetter;
use sluse_schema::id::DeadLetterId;
use sluse_schema::record::Offset;

use super::cursor::Ending;
use super::feeding::Feeding;
use super::input::{Effect, Ended};
use super::machine::{Item, Origin, TargetMachine};
use super::retry::RetryState;

impl TargetMachine {
    pub(super) fn on_prepare_rewind(&mut self, fx: &mut Vec<Effect>) {
        self.go_lagging(fx);
        self.feeding = Feeding::lagging();
        self.demanding.current = None;
        self.is_rewinding = true;
    }

    pub(super) fn on_rewind(&mut self, to: Offset, num_in_range: u64, fx: &mut Vec<Effect>) {
        self.is_rewinding = false;
        let position = self.cursor.position();
        if to >= position {
            self.cursor.rewind(to, 0, 0);
            return;
        }
        let mut removed = Vec::new();
        self.lanes.remove(true, |item| item.origin.offset() >= to, |item, _| removed.push(item));
        let mut num_replaying_in_range = 0;
        for item in removed {
            self.num_bytes -= item.num_bytes();
            self.cancel_flight(&item, fx);
            if let Origin::Replay { letter, .. } = item.origin {
                num_replaying_in_range += 1;
                fx.push(Effect::ReplayEnded { letter });
            }
        }
        self.num_replaying -= num_replaying_in_range;
        self.cursor.rewind(to, num_in_range, num_replaying_in_range as u64);
        self.retries.retain(|offset, _| *offset < to.0);
        self.again_until = self.again_until.max(position);
        self.outbox.dead_letters.retain(|letter| letter.offset < to.0);
        let superseded_from = self.outbox.superseded_from.map_or(to.0, |earlier| earlier.min(to.0));
        self.outbox.superseded_from = Some(superseded_from);
        self.feeding = Feeding::lagging();
    }

    pub(super) fn cancel_flight(&mut self, item: &Item, fx: &mut Vec<Effect>) {
        let Some(ticket) = item.ticket else { return };
        if self.flights.remove(&ticket).is_some_and(|flight| flight.is_probe) {
            self.breaker.cancel_probe();
        }
        fx.push(Effect::Cancel { ticket });
    }

    pub(super) fn on_replay(&mut self, letters: Vec<(DeadLetterId, DeadLetter)>, fx: &mut Vec<Effect>) {
        for (letter, dead) in letters {
            let is_known = self
                .lanes
                .iter()
                .any(|item| matches!(item.origin, Origin::Replay { letter: known, .. } if known == letter));
            if is_known || self.cursor.is_tombstone() {
                fx.push(Effect::ReplayEnded { letter });
                continue;
            }
            let item = Item {
                origin: Origin::Replay { letter, offset: Offset(dead.offset) },
                meta: std::sync::Arc::new(dead.meta),
                body: dead.body,
                retry: RetryState::default(),
                ticket: None,
            };
            self.cursor.count_replayed();
            self.num_replaying += 1;
            self.num_bytes += item.num_bytes();
            self.lanes.push(item.meta.device, item);
        }
    }

    /// The target is a tombstone from here on: its counters stay, what is pending and what still comes is discarded.
    pub(super) fn on_deleted(&mut self, fx: &mut Vec<Effect>) {
        if self.cursor.is_tombstone() {
            return;
        }
        let mut removed = Vec::new();
        self.lanes.remove(true, |_| true, |item, _| removed.push(item));
        let num_open = self.cursor.bury();
        for item in &removed {
            self.num_bytes -= item.num_bytes();
            self.cancel_flight(item, fx);
            if let Origin::Replay { letter, .. } = item.origin {
                self.cursor.count(Ending::Discarded);
                self.num_replaying -= 1;
                fx.push(Effect::ReplayEnded { letter });
                fx.push(Effect::Ended(Ended::Discarded));
            }
        }
        self.retries.clear();
        self.breaker.reset();
        for _ in 0..num_open {
            fx.push(Effect::Ended(Ended::Discarded));
        }
    }
}
