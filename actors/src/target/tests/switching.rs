//! Model test of live and lagging: whatever the order in which requests, answers, offers and reads happen, every record is taken
//! exactly once, and those of a device in log order.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use sluse_schema::delivery::{Attempt, DeliveryKind, DeliveryMeta};
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId, TargetId};
use sluse_schema::record::{Offset, Record};
use sluse_schema::target::{Feed, TargetPolicy};

use crate::target::cursor::Cursor;
use crate::target::input::{Bounds, Effect, Input, Now, Settings};
use crate::target::machine::TargetMachine;

const BOUNDS: Bounds =
    Bounds { num_holes_max: 8, num_loaded_max: 8, num_lagging_max: 6, num_bytes_max: 1 << 20, lag_after_ms: 2_000 };

fn record(offset: u64, device: i64) -> Record {
    let meta = DeliveryMeta {
        target: TargetId(1),
        device: DeviceId(device),
        application: ApplicationId(1),
        organization: OrganizationId(1),
        decoder: None,
        kind: DeliveryKind::Body,
        event_key: u128::from(offset),
        received_at_ms: 0,
        content_type: "application/json".into(),
        error: None,
    };
    let new = meta.into_record(Bytes::from(offset.to_string()));
    Record { offset: Offset(offset), key: new.key, timestamp_ms: 0, headers: new.headers, value: new.value }
}

/// The partition around one machine: a log (with other targets' records as gaps), a consumer, a sweep.
struct World {
    machine: TargetMachine,
    now_ms: i64,
    log: Vec<Record>,
    end: u64,
    consumer_next: u64,
    live: Option<(u64, Offset)>,
    /// Requests to the consumer that it has not seen: `true` is to join.
    requests: Vec<(u64, bool)>,
    /// Its answers that the machine has not seen.
    answers: Vec<(u64, bool, Option<Offset>)>,
    demands: VecDeque<(u64, Offset, usize)>,
    swept: Vec<Input>,
    in_flight: Vec<(u64, i64, u64)>,
    delivered: Vec<(i64, u64)>,
}

impl World {
    fn new() -> Self {
        let cursor = Cursor::new(Offset(0), BOUNDS.num_holes_max);
        let mut world = Self {
            machine: TargetMachine::new(TargetId(1), cursor, BOUNDS, 0, 7),
            now_ms: 0,
            log: Vec::new(),
            end: 0,
            consumer_next: 0,
            live: None,
            requests: Vec::new(),
            answers: Vec::new(),
            demands: VecDeque::new(),
            swept: Vec::new(),
            in_flight: Vec::new(),
            delivered: Vec::new(),
        };
        world.step(Input::Configured(Settings {
            organization: OrganizationId(1),
            policy: TargetPolicy { num_in_flight_max: 4, ..TargetPolicy::default() },
            trouble: None,
        }));
        world
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        let now = Now { at_ms: self.now_ms, unix_ms: self.now_ms };
        self.machine.step(input, now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { ticket, meta, body } => {
                    let offset = std::str::from_utf8(&body).unwrap().parse().unwrap();
                    assert!(self.in_flight.iter().all(|(_, device, _)| *device != meta.device.0), "two of a device");
                    self.in_flight.push((ticket, meta.device.0, offset));
                }
                Effect::AskLive { feed } => self.requests.push((feed, true)),
                Effect::GoLagging { feed } => self.requests.push((feed, false)),
                Effect::Demand { demand, from, num_records_max, .. } => {
                    self.demands.push_back((demand, from, num_records_max));
                }
                _ => {}
            }
        }
        assert!(self.machine.is_conserved());
    }

    fn append(&mut self, device: i64, is_ours: bool) {
        if is_ours {
            self.log.push(record(self.end, device));
        }
        self.end += 1;
    }

    fn between(&self, from: u64, until: u64, num_max: usize) -> Vec<Record> {
        let found = self.log.iter().filter(|r| r.offset.0 >= from && r.offset.0 < until);
        found.take(num_max).cloned().collect()
    }

    /// The consumer reads a batch and offers it; nothing else happens to it meanwhile.
    fn consume(&mut self, num: u64) {
        let next = (self.consumer_next + num).min(self.end);
        let records = self.between(self.consumer_next, next, usize::MAX);
        if let Some((feed, since)) = self.live
            && !records.is_empty()
        {
            self.step(Input::Offer { feed, since, records, next: Offset(next) });
            if !self.machine.is_fed_by(feed) && self.live.is_some_and(|(f, _)| f == feed) {
                self.live = None;
            }
        }
        self.consumer_next = next;
    }

    fn switch(&mut self, pick: usize) {
        if self.requests.is_empty() {
            return;
        }
        let (feed, is_joining) = self.requests.remove(pick % self.requests.len());
        let is_fed = self.live.is_some_and(|(f, _)| f == feed);
        if is_joining {
            self.live = Some((feed, Offset(self.consumer_next)));
        } else if is_fed {
            self.live = None;
        }
        let next = (is_joining || is_fed).then_some(Offset(self.consumer_next));
        self.answers.push((feed, is_joining, next));
    }

    fn answer(&mut self, pick: usize) {
        if self.answers.is_empty() {
            return;
        }
        let (feed, is_joining, next) = self.answers.remove(pick % self.answers.len());
        self.step(match next {
            Some(next) if is_joining => Input::Joined { feed, next },
            Some(next) => Input::Left { feed, next },
            None => Input::AskFailed { feed },
        });
    }

    fn sweep(&mut self, num_max: usize) {
        let Some((demand, from, wanted)) = self.demands.pop_front() else { return };
        let records = self.between(from.0, self.end, wanted.min(num_max));
        let is_all = records.len() < wanted.min(num_max);
        let next = if is_all { Offset(self.end) } else { records.last().map_or(from, |r| r.offset.next()) };
        self.swept.push(Input::Swept { demand, from, records, next, end: Offset(self.end) });
    }

    fn take_swept(&mut self) {
        if !self.swept.is_empty() {
            let input = self.swept.remove(0);
            self.step(input);
        }
    }

    fn deliver(&mut self, pick: usize) {
        if self.in_flight.is_empty() {
            return;
        }
        let (ticket, device, offset) = self.in_flight.remove(pick % self.in_flight.len());
        self.delivered.push((device, offset));
        self.step(Input::Attempted { ticket, attempt: Attempt::delivered(Some(200)) });
    }

    fn wait(&mut self, ms: i64) {
        self.now_ms += ms;
        self.step(Input::Tick);
    }
}

/// Does what the actions say, lets everybody do his part until all is delivered, and checks what came of it.
fn run(actions: impl IntoIterator<Item = (u8, usize, i64)>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for (action, pick, device) in actions {
        match action {
            0..=2 => world.append(device, true),
            3 => world.append(0, false),
            4 | 5 => world.consume(1 + pick as u64),
            6 => world.switch(pick),
            7 => world.answer(pick),
            8 => world.sweep(1 + pick),
            9 => world.take_swept(),
            10 | 11 => world.deliver(pick),
            12 => world.step(Input::Evict),
            _ => world.wait(if pick == 0 { 2_500 } else { 100 }),
        }
    }
    // Nothing is stuck: when everybody does his part, all of it arrives and the target is live.
    for _ in 0..600 {
        world.consume(4);
        world.switch(0);
        world.answer(0);
        world.sweep(100);
        world.take_swept();
        world.deliver(0);
        world.wait(300);
    }
    let offsets: Vec<u64> = world.log.iter().map(|r| r.offset.0).collect();
    let mut delivered: Vec<u64> = world.delivered.iter().map(|(_, offset)| *offset).collect();
    delivered.sort_unstable();
    prop_assert_eq!(delivered, offsets);
    let mut last: HashMap<i64, u64> = HashMap::new();
    for (device, offset) in &world.delivered {
        prop_assert!(last.insert(*device, *offset).is_none_or(|before| before < *offset), "order of device {}", device);
    }
    prop_assert_eq!(world.machine.fed(), Feed::Live);
    prop_assert_eq!(world.machine.cursor().num_open(), 0);
    prop_assert_eq!(world.machine.cursor().counters().accepted, world.log.len() as u64);
    Ok(())
}

/// A read is under way when the target goes live, gets a record and is evicted: what the read brings then stands above
/// records that have lost their bytes.
#[test]
fn a_late_read_does_not_overtake_what_has_to_be_read_again() {
    let (append, wait) = ((0, 0, 0), (13, 1, 0));
    let before = [append, append, append, append, append, (8, 4, 0), append, (9, 0, 0), wait, append, append, append];
    let after = [wait, wait, (10, 0, 0), (10, 0, 0), (6, 0, 0), (4, 1, 0), (4, 3, 0), (12, 0, 0)];
    run(before.into_iter().chain(after)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn every_record_is_taken_exactly_once_whatever_the_switches(
        actions in proptest::collection::vec((0u8..14, 0usize..8, 0i64..5), 1..400),
    ) {
        run(actions)?;
    }
}
