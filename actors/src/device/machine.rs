//! The device's machine: which uplinks are repeats, and what the state is after each. Pure; [`super::actor`] is the actor around it.
//!
//! An uplink is admitted when it arrives and applied when its decoding is done; both happen in log order (I2). The state names
//! the offset it is at, so that applying a record twice is noticed.

use std::sync::Arc;

use bytes::Bytes;
use sluse_schema::device::{DeviceState, Latest, SeenEvent};
use sluse_schema::record::LogIdentity;
use sluse_schema::uplink::EventType;

use super::event;
use super::message::Uplink;
use super::repeat::{SEEN_EVENTS_MAX, is_repeat};
use super::window::{self, WindowPolicy, is_later};

/// What is to be done with an uplink that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not seen before.
    New,
    /// Stands earlier in the log already.
    Repeat,
    /// The state already holds it (replay).
    Applied,
}

/// A device's state and the rules that move it.
#[derive(Debug)]
pub struct DeviceMachine {
    state: DeviceState,
    log: Arc<LogIdentity>,
    policy: WindowPolicy,
}

impl DeviceMachine {
    /// A machine that goes on from `state` in the log `log`.
    pub fn new(mut state: DeviceState, log: Arc<LogIdentity>, policy: WindowPolicy) -> Self {
        adopt(&mut state, &log);
        Self { state, log, policy }
    }

    /// The state now.
    pub fn state(&self) -> &DeviceState {
        &self.state
    }

    /// One past the last offset applied, if that was in this log.
    fn applied(&self) -> u64 {
        match &self.state.applied {
            Some((log, next)) if log.store == self.log.store => *next,
            _ => 0,
        }
    }

    /// Decides about an uplink that arrived, and remembers its id.
    pub fn admit(&mut self, uplink: &Uplink) -> Admission {
        if uplink.offset.0 < self.applied() {
            return Admission::Applied;
        }
        let Some(repeat_key) = uplink.meta.repeat_key() else { return Admission::New };
        let seen = SeenEvent { repeat_key, offset: uplink.offset.0, received_at_ms: uplink.meta.received_at_ms };
        if is_repeat(&mut self.state.seen, seen) { Admission::Repeat } else { Admission::New }
    }

    /// Lets an uplink that was admitted change the state.
    pub fn apply(&mut self, uplink: &Uplink, admission: Admission, num_decode_failures: u32) {
        match admission {
            Admission::Applied => return,
            Admission::Repeat => self.state.counters.num_repeats += 1,
            Admission::New if uplink.meta.event == EventType::Up => self.apply_up(uplink),
            Admission::New => {
                let (event, received_at_ms) = (uplink.meta.event, uplink.meta.received_at_ms);
                let link = self.state.link.get_or_insert_default();
                event::apply(link, event, &uplink.value, received_at_ms);
                if let Some(outcome) = event::downlink_outcome(event, &uplink.value, received_at_ms) {
                    event::add_outcome(&mut self.state.downlinks, outcome);
                }
            }
        }
        self.state.counters.num_decode_failures += u64::from(num_decode_failures);
        self.state.applied = Some((Arc::clone(&self.log), uplink.offset.0 + 1));
    }

    fn apply_up(&mut self, uplink: &Uplink) {
        let state = &mut self.state;
        let (offset, received_at_ms) = (uplink.offset.0, uplink.meta.received_at_ms);
        let transmission =
            event::transmission(event::figures(&uplink.meta, &uplink.value), received_at_ms, offset, state.f_cnt);
        state.f_cnt = transmission.f_cnt.or(state.f_cnt);
        state.counters.num_uplinks += 1;
        state.counters.num_f_cnt_missing += u64::from(transmission.f_cnt_gap);
        if is_later(state.latest.as_ref(), transmission.event_at_ms, offset) {
            state.latest = Some(Latest {
                event_at_ms: transmission.event_at_ms,
                received_at_ms,
                offset,
                rssi_dbm: transmission.rssi_dbm,
                snr_db: transmission.snr_db,
                // A copy: the record's bytes may be a slice of a whole batch, which must not live as long as the device.
                payload: Some(Bytes::copy_from_slice(&uplink.value)),
            });
        }
        window::push(&mut state.window, transmission, self.policy);
    }

    /// The state for storing. Its latest payload and the outcomes of downlinks move out: from here on the store has them.
    pub fn take_state(&mut self) -> DeviceState {
        let taken = self.state.clone();
        self.state.downlinks.clear();
        if let Some(latest) = &mut self.state.latest {
            latest.payload = None;
        }
        taken
    }

    /// Puts the stored row under what a device without one did meanwhile (PostgreSQL was away when it became active).
    pub fn merge_stored(&mut self, mut stored: DeviceState) {
        adopt(&mut stored, &self.log);
        let ours = std::mem::replace(&mut self.state, stored);
        let merged = &mut self.state;
        for transmission in ours.window {
            window::push(&mut merged.window, transmission, self.policy);
        }
        merged.seen.extend(ours.seen);
        while merged.seen.len() > SEEN_EVENTS_MAX {
            merged.seen.pop_front();
        }
        if let Some(latest) = ours.latest
            && is_later(merged.latest.as_ref(), latest.event_at_ms, latest.offset)
        {
            merged.latest = Some(latest);
        }
        merged.downlinks = ours.downlinks;
        merged.f_cnt = ours.f_cnt.or(merged.f_cnt);
        merged.applied = ours.applied.or(merged.applied.take());
        merged.counters.num_uplinks += ours.counters.num_uplinks;
        merged.counters.num_repeats += ours.counters.num_repeats;
        merged.counters.num_decode_failures += ours.counters.num_decode_failures;
        merged.counters.num_f_cnt_missing += ours.counters.num_f_cnt_missing;
        let Some(link) = ours.link else { return };
        let into = merged.link.get_or_insert_default();
        into.battery_level_percent = link.battery_level_percent.or(into.battery_level_percent);
        into.is_external_power = link.is_external_power.or(into.is_external_power);
        into.margin_db = link.margin_db.or(into.margin_db);
        into.status_at_ms = link.status_at_ms.or(into.status_at_ms);
        into.last_join_at_ms = link.last_join_at_ms.or(into.last_join_at_ms);
        into.dev_addr = link.dev_addr.or(into.dev_addr.take());
        into.latitude = link.latitude.or(into.latitude);
        into.longitude = link.longitude.or(into.longitude);
        into.last_log = link.last_log.or(into.last_log.take());
        into.last_downlink = link.last_downlink.or(into.last_downlink.take());
    }
}

/// A row of another log (after a restore, or a change of logs): everything in it came before whatever this log holds, so that its
/// event ids still recognise repeats and its window keeps its order.
fn adopt(state: &mut DeviceState, log: &Arc<LogIdentity>) {
    match &mut state.applied {
        None => return,
        Some((of, _)) if of.store == log.store => {
            // One name for all devices of the partition.
            if **of == **log {
                *of = Arc::clone(log);
            }
            return;
        }
        Some(_) => {}
    }
    state.seen.iter_mut().for_each(|event| event.offset = 0);
    state.window.iter_mut().for_each(|transmission| transmission.offset = 0);
    if let Some(latest) = &mut state.latest {
        latest.offset = 0;
    }
    state.applied = Some((Arc::clone(log), 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluse_schema::id::{DeviceId, OrganizationId};
    use sluse_schema::record::Offset;
    use sluse_schema::uplink::{SourceKind, UplinkMeta};

    fn log() -> Arc<LogIdentity> {
        Arc::new(LogIdentity { store: "memory:1".into(), incarnation: 0 })
    }

    fn uplink(offset: u64, event: EventType, id: Option<u64>) -> Uplink {
        Uplink {
            offset: Offset(offset),
            meta: UplinkMeta {
                device: DeviceId(1),
                organization: OrganizationId(1),
                source: SourceKind::Http,
                event,
                received_at_ms: 1_000 + offset as i64,
                event_id: id.map(|n| n.to_string()),
                content_type: "application/json".into(),
                figures: None,
            },
            value: Bytes::from(format!("{{\"n\":{offset}}}")),
        }
    }

    fn run(machine: &mut DeviceMachine, uplinks: &[Uplink]) {
        for uplink in uplinks {
            let admission = machine.admit(uplink);
            machine.apply(uplink, admission, 0);
        }
    }

    proptest! {
        /// Crash at any point with a row stored at any earlier point, replay from anywhere before the row: the state is the same.
        #[test]
        fn replay_from_any_stored_row_gives_the_same_state(
            events in proptest::collection::vec((0u64..12, any::<bool>()), 1..40),
            stored_at in 0usize..40,
            replay_from in 0usize..40,
        ) {
            let uplinks: Vec<Uplink> = events.iter().enumerate().map(|(i, (id, up))| {
                uplink(i as u64, if *up { EventType::Up } else { EventType::Join }, Some(*id))
            }).collect();
            let stored_at = stored_at.min(uplinks.len());
            let replay_from = replay_from.min(stored_at);
            let fresh = || DeviceMachine::new(DeviceState::new(DeviceId(1)), log(), WindowPolicy::Last(5));
            let mut straight = fresh();
            run(&mut straight, &uplinks);
            let mut first = fresh();
            run(&mut first, &uplinks[..stored_at]);
            let row = first.state().clone();
            let mut second = DeviceMachine::new(row, log(), WindowPolicy::Last(5));
            run(&mut second, &uplinks[replay_from..]);
            prop_assert_eq!(second.state(), straight.state());
        }
    }

    #[test]
    fn a_row_taken_with_uplinks_under_way_does_not_turn_them_into_repeats() {
        let mut machine = DeviceMachine::new(DeviceState::new(DeviceId(1)), log(), WindowPolicy::Last(5));
        let under_way = uplink(0, EventType::Up, Some(7));
        assert_eq!(machine.admit(&under_way), Admission::New);
        let row = machine.take_state();
        let mut next = DeviceMachine::new(row, log(), WindowPolicy::Last(5));
        assert_eq!(next.admit(&under_way), Admission::New);
        assert_eq!(next.admit(&uplink(1, EventType::Up, Some(7))), Admission::Repeat);
    }

    #[test]
    fn a_row_of_another_log_hides_no_uplink() {
        let mut state = DeviceState::new(DeviceId(1));
        state.applied = Some((Arc::new(LogIdentity { store: "memory:other".into(), incarnation: 0 }), 900));
        let mut machine = DeviceMachine::new(state, log(), WindowPolicy::Last(5));
        assert_eq!(machine.admit(&uplink(0, EventType::Up, None)), Admission::New);
    }

    #[test]
    fn what_came_in_another_log_is_still_a_repeat_in_this_one() {
        let other = Arc::new(LogIdentity { store: "memory:other".into(), incarnation: 0 });
        let mut before = DeviceMachine::new(DeviceState::new(DeviceId(1)), other, WindowPolicy::Last(5));
        run(&mut before, &[uplink(900, EventType::Up, Some(7))]);
        let mut machine = DeviceMachine::new(before.take_state(), log(), WindowPolicy::Last(5));
        assert_eq!(machine.admit(&uplink(3, EventType::Up, Some(7))), Admission::Repeat);
        let under_way = uplink(4, EventType::Up, Some(8));
        assert_eq!(machine.admit(&under_way), Admission::New);
        // Stored before that one was applied: read again, it is no repeat of itself.
        let mut next = DeviceMachine::new(machine.take_state(), log(), WindowPolicy::Last(5));
        assert_eq!(next.admit(&under_way), Admission::New);
    }

    #[test]
    fn a_provisional_device_merges_its_stored_row() {
        let mut stored = DeviceMachine::new(DeviceState::new(DeviceId(1)), log(), WindowPolicy::Last(3));
        run(&mut stored, &[uplink(0, EventType::Up, Some(1)), uplink(1, EventType::Up, Some(2))]);
        let mut provisional = DeviceMachine::new(DeviceState::new(DeviceId(1)), log(), WindowPolicy::Last(3));
        run(&mut provisional, &[uplink(2, EventType::Up, Some(3)), uplink(3, EventType::Up, Some(4))]);
        provisional.merge_stored(stored.take_state());
        let state = provisional.state();
        assert_eq!(state.counters.num_uplinks, 4);
        assert_eq!(state.window.iter().map(|t| t.offset).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(state.applied.as_ref().map(|a| a.1), Some(4));
        assert_eq!(state.latest.as_ref().map(|l| l.offset), Some(3));
        assert_eq!(provisional.admit(&uplink(4, EventType::Up, Some(1))), Admission::Repeat);
    }
}
