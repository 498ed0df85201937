//! What is tried when, and how it ends. Pure.
//!
//! Before every try the delivery is looked at again: a deleted target's and another tenant's are discarded, too old ones become
//! dead letters, an `undecoded` one is a dead letter without any try unless it is offered again, in which case it is decoded
//! first. While the store takes no more, nothing is tried and nothing ends as a dead letter (I4).

use bytes::Bytes;
use rand::Rng;
use sluse_schema::delivery::{Attempt, AttemptClass, DeadLetter, DeadReason, DeliveryKind, DeliveryMeta};
use sluse_schema::id::DeviceId;

use super::breaker::{Failure, Permit};
use super::cursor::Ending;
use super::input::{DecodedAgain, Effect, Ended, Now, log_line_of};
use super::machine::{Flight, Item, Origin, TargetMachine};
use super::retry::{Retry, capped_retry_after_ms};

/// A record whose end cannot be written now, or that could not be decoded for want of its decoder, is looked at again after this.
const LATER_MS: i64 = 5_000;

/// What is to be done with a delivery whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Send,
    Decode,
    /// It ends without a try.
    End,
}

impl TargetMachine {
    /// Starts everything that may start now.
    pub(super) fn pump(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.rate_at_ms = None;
        if self.is_draining || self.is_store_blocked {
            return;
        }
        loop {
            let permit = if self.trouble().is_some() { Permit::No } else { self.breaker.permit(now.at_ms) };
            let other_than = match permit {
                Permit::Any => None,
                Permit::Probe(last) => last,
                Permit::No => break self.end_too_old(now, fx),
            };
            if !self.lanes.has_ready(now.at_ms) {
                break;
            }
            if self.flights.len() >= self.limiter.limit() {
                self.limiter.mark_reached();
                break;
            }
            let Some(device) = self.lanes.start_next(now.at_ms, other_than) else { break };
            let Some(head) = self.lanes.head(device) else { continue };
            match self.turn_of(head, now) {
                Turn::End => self.end_head_unsent(device, now, fx),
                Turn::Decode => self.start(device, Turn::Decode, now, fx),
                Turn::Send => {
                    if !self.rate.try_take(now.at_ms) {
                        self.lanes.put_back_first(device);
                        self.rate_at_ms = Some(self.rate.next_at_ms(now.at_ms).max(now.at_ms + 1));
                        break;
                    }
                    self.start(device, Turn::Send, now, fx);
                }
            }
        }
    }

    fn turn_of(&self, item: &Item, now: Now) -> Turn {
        if self.cursor.is_tombstone() || self.is_foreign(item) || self.is_too_old(item, now) {
            return Turn::End;
        }
        if item.meta.kind == DeliveryKind::Body {
            return Turn::Send;
        }
        match item.origin {
            Origin::Log(offset) if offset >= self.again_until => Turn::End,
            Origin::Log(_) | Origin::Replay { .. } => Turn::Decode,
        }
    }

    pub(super) fn is_foreign(&self, item: &Item) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.organization != item.meta.organization)
    }

    fn is_too_old(&self, item: &Item, now: Now) -> bool {
        let age_ms_max = self.settings.as_ref().and_then(|settings| settings.policy.age_ms_max);
        age_ms_max.is_some_and(|max| now.unix_ms - item.meta.received_at_ms > max)
    }

    fn start(&mut self, device: DeviceId, turn: Turn, now: Now, fx: &mut Vec<Effect>) {
        let ticket = self.new_id();
        let Some(item) = self.lanes.head_mut(device) else { return };
        item.ticket = Some(ticket);
        let (meta, body) = (item.meta.clone(), item.body.clone());
        let is_probe = turn == Turn::Send && self.breaker.start(device);
        self.flights.insert(ticket, Flight { device, started_at_ms: now.at_ms, is_probe });
        if turn == Turn::Decode {
            fx.push(Effect::Decode { ticket, meta, payload: body });
        } else {
            self.outbox.last_message_at_ms = Some(now.unix_ms);
            fx.push(Effect::Send { ticket, meta, body });
        }
    }

    pub(super) fn on_attempted(&mut self, ticket: u64, attempt: &Attempt, now: Now, fx: &mut Vec<Effect>) {
        // Cancelled, by a rewind or a deletion: late answers are ignored.
        let Some(flight) = self.flights.remove(&ticket) else { return };
        let latency_ms = now.at_ms - flight.started_at_ms;
        fx.push(Effect::Tried { class: attempt.class, latency_ms });
        self.limiter.on_answer(now.at_ms, latency_ms, attempt.class == AttemptClass::Transient);
        let Some(item) = self.lanes.head_mut(flight.device) else { return };
        item.ticket = None;
        let meta = item.meta.clone();
        if attempt.class != AttemptClass::Delivered || self.was_error {
            self.outbox.log_line(log_line_of(self.target, &meta, attempt, now));
        }
        self.was_error = attempt.class != AttemptClass::Delivered;
        if self.was_error {
            self.last_error = Some(describe(attempt));
        }
        match attempt.class {
            AttemptClass::Delivered => {
                self.breaker.on_success(flight.is_probe);
                self.num_successes += 1;
                self.last_delivered_at_ms = Some(now.unix_ms);
                let latency_ms = now.unix_ms - meta.received_at_ms;
                self.end_head(flight.device, Ending::Delivered, fx);
                fx.push(Effect::Ended(Ended::Delivered { latency_ms }));
            }
            AttemptClass::Refused => {
                self.breaker.on_success(flight.is_probe);
                item.retry.num_attempts += 1;
                self.end_head_dead(flight.device, DeadReason::Refused, attempt, now, fx);
            }
            AttemptClass::Misconfigured => {
                item.retry.on_misconfigured();
                self.mark_failed(flight.device);
                self.on_failure(&flight, attempt, now);
                self.lanes.put_back(flight.device);
            }
            AttemptClass::Transient => {
                let jitter = self.rng.random_range(0.0..1.0);
                let retry = item.retry.on_transient(now.at_ms, self.num_successes, attempt.retry_after_ms, jitter);
                self.mark_failed(flight.device);
                self.on_failure(&flight, attempt, now);
                match retry {
                    Retry::At(at_ms) => self.lanes.wait(flight.device, at_ms),
                    Retry::Exhausted => {
                        self.end_head_dead(flight.device, DeadReason::Exhausted, attempt, now, fx);
                    }
                }
            }
        }
    }

    fn on_failure(&mut self, flight: &Flight, attempt: &Attempt, now: Now) {
        let reason = describe(attempt);
        let failure = Failure {
            class: attempt.class,
            device: flight.device,
            retry_after_ms: capped_retry_after_ms(attempt.retry_after_ms),
            reason: &reason,
        };
        let jitter = self.rng.random_range(0.0..1.0);
        self.breaker.on_failure(now.at_ms, failure, flight.is_probe, jitter);
    }

    fn mark_failed(&mut self, device: DeviceId) {
        if let Some(Item { origin: Origin::Log(offset), .. }) = self.lanes.head(device) {
            self.cursor.mark_failed(*offset);
        }
    }

    pub(super) fn on_decoded(&mut self, ticket: u64, outcome: DecodedAgain, now: Now, fx: &mut Vec<Effect>) {
        let Some(flight) = self.flights.remove(&ticket) else { return };
        let Some(item) = self.lanes.head_mut(flight.device) else { return };
        item.ticket = None;
        match outcome {
            DecodedAgain::Body(body) => {
                self.num_bytes -= item.num_bytes();
                item.meta = std::sync::Arc::new(DeliveryMeta {
                    kind: DeliveryKind::Body,
                    error: None,
                    content_type: "application/json".to_owned(),
                    ..(*item.meta).clone()
                });
                item.body = body;
                self.num_bytes += item.num_bytes();
                self.lanes.put_back_first(flight.device);
            }
            DecodedAgain::Nothing => {
                self.end_head(flight.device, Ending::Discarded, fx);
                fx.push(Effect::Ended(Ended::Discarded));
            }
            DecodedAgain::Failed(error) => {
                let attempt = Attempt::failed(AttemptClass::Refused, error);
                self.end_head_dead(flight.device, DeadReason::Undecoded, &attempt, now, fx);
            }
            DecodedAgain::Later => self.lanes.wait(flight.device, now.at_ms + LATER_MS),
        }
    }

    /// Deliveries that grow too old while nothing may be tried.
    fn end_too_old(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let Some(age_ms_max) = self.settings.as_ref().and_then(|settings| settings.policy.age_ms_max) else { return };
        let mut old = Vec::new();
        self.lanes.remove(false, |item| now.unix_ms - item.meta.received_at_ms > age_ms_max, |item, _| old.push(item));
        for item in old {
            self.num_bytes -= item.num_bytes();
            self.end_unsent(item, now, fx);
        }
    }

    fn end_head_unsent(&mut self, device: DeviceId, now: Now, fx: &mut Vec<Effect>) {
        if let Some(item) = self.lanes.finish(device) {
            self.num_bytes -= item.num_bytes();
            self.end_unsent(item, now, fx);
        }
    }

    /// Ends an item that is in no lane any more, for the reason it cannot be sent.
    pub(super) fn end_unsent(&mut self, item: Item, now: Now, fx: &mut Vec<Effect>) {
        if self.cursor.is_tombstone() || self.is_foreign(&item) {
            self.count(&item, Ending::Discarded, fx);
            fx.push(Effect::Ended(Ended::Discarded));
            return;
        }
        let (reason, message) = if item.meta.kind == DeliveryKind::Undecoded {
            (DeadReason::Undecoded, item.meta.error.clone().unwrap_or_else(|| "the decoder failed".to_owned()))
        } else {
            (DeadReason::TooOld, self.last_error.clone().unwrap_or_else(|| "older than the target allows".to_owned()))
        };
        let attempt = Attempt::failed(AttemptClass::Refused, message);
        self.bury_as_letter(item, reason, &attempt, now, fx);
    }

    fn end_head(&mut self, device: DeviceId, ending: Ending, fx: &mut Vec<Effect>) {
        if let Some(item) = self.lanes.finish(device) {
            self.num_bytes -= item.num_bytes();
            self.count(&item, ending, fx);
        }
    }

    fn end_head_dead(
        &mut self,
        device: DeviceId,
        reason: DeadReason,
        attempt: &Attempt,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        if self.is_store_blocked {
            self.mark_failed(device);
            self.lanes.wait(device, now.at_ms + LATER_MS);
            return;
        }
        if let Some(item) = self.lanes.finish(device) {
            self.num_bytes -= item.num_bytes();
            self.bury_as_letter(item, reason, attempt, now, fx);
        }
    }

    fn bury_as_letter(&mut self, item: Item, reason: DeadReason, attempt: &Attempt, now: Now, fx: &mut Vec<Effect>) {
        let mut meta = (*item.meta).clone();
        if reason == DeadReason::Undecoded {
            meta.error = Some(attempt.message.clone());
        }
        self.outbox.dead_letters.push(DeadLetter {
            meta,
            offset: item.origin.offset().0,
            reason,
            num_attempts: item.retry.num_attempts,
            status_code: attempt.status_code,
            message: attempt.message.clone(),
            answer: first_kilobyte(&attempt.answer),
            body: item.body.clone(),
            died_at_ms: now.unix_ms,
        });
        self.count(&item, Ending::Dead, fx);
        fx.push(Effect::Ended(Ended::Dead(reason)));
    }

    /// Counts the end of an item and forgets what is kept of it; a replayed dead letter leaves the list.
    pub(super) fn count(&mut self, item: &Item, ending: Ending, fx: &mut Vec<Effect>) {
        match item.origin {
            Origin::Log(offset) => self.cursor.finish(offset, ending),
            Origin::Replay { letter, .. } => {
                self.cursor.count(ending);
                self.num_replaying -= 1;
                self.outbox.dead_letters_gone.push(letter);
                fx.push(Effect::ReplayEnded { letter });
            }
        }
    }
}

/// The part of an answer that is kept, in memory of its own so that a long answer does not stay behind it.
fn first_kilobyte(answer: &Bytes) -> Bytes {
    Bytes::copy_from_slice(answer.get(..Attempt::ANSWER_BYTES_MAX).unwrap_or(answer))
}

/// An attempt in the words of the receiver, or ours.
fn describe(attempt: &Attempt) -> String {
    match attempt.status_code {
        Some(code) => format!("{code} {}", attempt.message),
        None => attempt.message.clone(),
    }
}
