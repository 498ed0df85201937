//! The model: what the log holds obliges the stages to exactly what is worked out here, naively and apart from their code. Every
//! write is looked at when it happens; what is wrong is collected with its time, and the first line names the invariant.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sluse_schema::delivery::{DeadReason, DeliveryKind, DeliveryMeta};
use sluse_schema::id::{DeviceId, TargetId};
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{CursorBatch, StateBatch};
use sluse_schema::record::{NewRecord, Offset, Record};
use sluse_schema::target::TargetCursor;
use sluse_schema::uplink::{EventType, UplinkMeta};

/// A route: target and decoder, as numbers.
pub type Routing = Vec<(i64, Option<i64>)>;

/// What a decoder makes of a payload when nothing breaks. The scripts of the simulation, in Rust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoding {
    Value(String),
    Nothing,
    Throws,
}

/// The number in a payload or body, whatever stands around it.
pub fn number_in(text: &[u8]) -> u64 {
    let digits: String = text.iter().rev().map_while(|b| b.is_ascii_digit().then_some(*b as char)).collect();
    digits.chars().rev().collect::<String>().parse().unwrap_or(u64::MAX)
}

pub fn decoded(decoder: i64, payload: &[u8]) -> Decoding {
    match number_in(payload) {
        n if n % 13 == 5 => Decoding::Throws,
        n if n % 17 == 7 => Decoding::Nothing,
        n => Decoding::Value(format!("by {decoder}: {n}")),
    }
}

#[derive(Clone, Debug)]
struct Accepted {
    offset: Offset,
    meta: UplinkMeta,
    payload: Vec<u8>,
    is_repeat: bool,
}

/// A record of the deliveries log.
#[derive(Clone, Debug)]
struct Owed {
    offset: Offset,
    key: String,
    kind: DeliveryKind,
}

#[derive(Debug, Default)]
struct Receiver {
    /// Landed with an answer of the 2xx kind, how often.
    landed: HashMap<String, u32>,
    refused: HashSet<String>,
    /// Offset of the last first arrival, by device.
    last_of_device: HashMap<DeviceId, Offset>,
    num_open: BTreeMap<u64, u32>,
    letters: HashSet<u64>,
}

#[derive(Debug)]
pub struct Oracle {
    pub violations: Vec<String>,
    pub now_ms: i64,
    num_partitions: u32,
    uplinks: Vec<Vec<Accepted>>,
    committed: Vec<Offset>,
    seen: HashMap<(DeviceId, EventType, String), Offset>,
    routings: HashMap<DeviceId, Vec<Routing>>,
    gone: HashSet<DeviceId>,
    /// Became active without their stored row: a repeat may pass.
    pub provisional: HashSet<DeviceId>,
    /// Payload number and decoder: broke at least once.
    pub broken_decodes: HashSet<(u64, i64)>,
    pub panics: HashMap<DeviceId, u32>,
    owed: BTreeMap<TargetId, Vec<Owed>>,
    offsets_of_key: HashMap<String, Offset>,
    owed_at_ms: HashMap<String, i64>,
    receivers: BTreeMap<TargetId, Receiver>,
    pub deleted_targets: HashSet<TargetId>,
    pub offered_again: HashSet<TargetId>,
    pub has_trimmed: bool,
    /// Who owns a partition and has raised its epoch: of states, of cursors.
    takers: [HashMap<u32, u64>; 2],
    pub open_per_device: HashMap<(u64, TargetId, DeviceId), u32>,
    /// Longest wait of a delivery of a target that is well, when only target 1 is ill.
    pub worst_wait_ms: i64,
    newest_number: HashMap<DeviceId, u64>,
    /// Senders give every uplink an id of its own, so numbers rise along every route.
    has_event_ids: bool,
    newest_routed: HashMap<(TargetId, DeviceId, Option<i64>), u64>,
}

impl Oracle {
    pub fn new(num_partitions: u32, has_event_ids: bool) -> Self {
        Self {
            has_event_ids,
            newest_routed: HashMap::new(),
            violations: Vec::new(),
            now_ms: 0,
            num_partitions,
            uplinks: vec![Vec::new(); num_partitions as usize],
            committed: vec![Offset::ZERO; num_partitions as usize],
            seen: HashMap::new(),
            routings: HashMap::new(),
            gone: HashSet::new(),
            provisional: HashSet::new(),
            broken_decodes: HashSet::new(),
            panics: HashMap::new(),
            owed: BTreeMap::new(),
            offsets_of_key: HashMap::new(),
            owed_at_ms: HashMap::new(),
            receivers: BTreeMap::new(),
            deleted_targets: HashSet::new(),
            offered_again: HashSet::new(),
            has_trimmed: false,
            takers: Default::default(),
            open_per_device: HashMap::new(),
            worst_wait_ms: 0,
            newest_number: HashMap::new(),
        }
    }

    pub fn wrong(&mut self, what: impl std::fmt::Display) {
        if self.violations.len() < 10 {
            self.violations.push(format!("at {} ms: {what}", self.now_ms));
        }
    }

    pub fn routes(&mut self, device: i64, routing: Routing) {
        self.routings.entry(DeviceId(device)).or_default().push(routing);
    }

    pub fn device_gone(&mut self, device: i64) {
        self.gone.insert(DeviceId(device));
    }

    pub fn is_gone(&self, device: i64) -> bool {
        self.gone.contains(&DeviceId(device))
    }

    /// Uplinks that are in the log now.
    pub fn on_append(&mut self, partition: PartitionId, first: Offset, records: &[NewRecord]) {
        for (i, new) in records.iter().enumerate() {
            let record = Record {
                offset: Offset(first.0 + i as u64),
                key: new.key,
                timestamp_ms: new.timestamp_ms,
                headers: new.headers.clone(),
                value: new.value.clone(),
            };
            let Ok(meta) = UplinkMeta::of_record(&record) else { return self.wrong("an uplink without its headers") };
            let is_repeat = match &meta.event_id {
                Some(id) => {
                    let key = (meta.device, meta.event, id.clone());
                    let is_repeat = self.seen.contains_key(&key);
                    self.seen.entry(key).or_insert(record.offset);
                    is_repeat
                }
                None => false,
            };
            let number = number_in(&record.value);
            if meta.event == EventType::Up && !is_repeat && meta.event_id.is_some() {
                let newest = self.newest_number.insert(meta.device, number).unwrap_or(0);
                if newest > number {
                    self.wrong(format!("I2: uplink {number} of device {} stands behind {newest}", meta.device));
                }
            }
            let accepted = Accepted { offset: record.offset, meta, payload: record.value.to_vec(), is_repeat };
            self.uplinks[partition.0 as usize].push(accepted);
        }
    }

    /// A source was told "accepted".
    pub fn on_accepted(&mut self, device: i64, payload: &[u8]) {
        let is_there = |a: &Accepted| a.meta.device == DeviceId(device) && a.payload == payload;
        if !self.uplinks.iter().flatten().any(is_there) {
            self.wrong(format!("an uplink of device {device} was accepted and is not in the log"));
        }
    }

    /// What a step must have written, and nothing else (I1, I2, I4).
    pub fn on_step(&mut self, partition: PartitionId, next: Offset, written: &[(PartitionId, Record)]) {
        let from = self.committed[partition.0 as usize];
        self.committed[partition.0 as usize] = next;
        let mut metas = Vec::with_capacity(written.len());
        for (to, record) in written {
            match DeliveryMeta::of_record(record) {
                Ok(meta) if partition_of_target(meta.target, self.num_partitions) == *to => metas.push((meta, record)),
                Ok(meta) => self.wrong(format!("a delivery of target {} stands in partition {to}", meta.target)),
                Err(error) => self.wrong(format!("a delivery that cannot be read: {error}")),
            }
        }
        // A step writes each partition's outputs in order; the order between partitions does not show.
        let mut lanes: BTreeMap<DeviceId, Vec<&(DeliveryMeta, &Record)>> = BTreeMap::new();
        for written in &metas {
            lanes.entry(written.0.device).or_default().push(written);
        }
        let passed: Vec<Accepted> = self.uplinks[partition.0 as usize]
            .iter()
            .filter(|a| a.offset >= from && a.offset < next)
            .cloned()
            .collect();
        for accepted in &passed {
            let lane = lanes.entry(accepted.meta.device).or_default();
            let number = number_in(&accepted.payload);
            // Its deliveries: the first of each route with its number. Several partitions may interleave in this list.
            let mut found: Vec<(i64, Option<i64>)> = Vec::new();
            let mut kinds = Vec::new();
            lane.retain(|(meta, record)| {
                let route = (meta.target.0, meta.decoder.map(|d| d.0));
                let is_ours = number_in(&record.value) == number && !found.contains(&route);
                if is_ours {
                    found.push(route);
                    kinds.push((route, meta.kind, record.value.clone()));
                }
                !is_ours
            });
            self.check_outputs(accepted, number, &found, &kinds);
        }
        for (device, lane) in lanes {
            if let Some((meta, record)) = lane.first() {
                let number = number_in(&record.value);
                let (target, num) = (meta.target, lane.len());
                self.wrong(format!(
                    "I1: the step of {partition} from {from} to {next} wrote {num} deliveries too many for device {device}, \
                     the first is {number} for target {target}"
                ));
            }
        }
        self.check_order_and_owe(&metas);
    }

    fn check_outputs(
        &mut self,
        accepted: &Accepted,
        number: u64,
        found: &[(i64, Option<i64>)],
        kinds: &[((i64, Option<i64>), DeliveryKind, bytes::Bytes)],
    ) {
        let device = accepted.meta.device;
        let name = format!("uplink {number} of device {device} at {}", accepted.offset);
        let may_be_silent = accepted.is_repeat || self.gone.contains(&device);
        let is_up = accepted.meta.event == EventType::Up;
        if !is_up || (accepted.is_repeat && !self.provisional.contains(&device)) {
            if !found.is_empty() {
                self.wrong(format!("I1: {name} is for the record or a repeat and made deliveries {found:?}"));
            }
            return;
        }
        let as_decoded = |routing: &Routing| -> BTreeSet<(i64, Option<i64>)> {
            let sends = |decoder: &Option<i64>| {
                decoder.is_none_or(|d| {
                    decoded(d, &accepted.payload) != Decoding::Nothing || self.may_be_undecoded(device, number, d)
                })
            };
            routing.iter().filter(|(_, decoder)| sends(decoder)).copied().collect()
        };
        let must = |routing: &Routing| -> BTreeSet<(i64, Option<i64>)> {
            let sends =
                |decoder: &Option<i64>| decoder.is_none_or(|d| decoded(d, &accepted.payload) != Decoding::Nothing);
            routing.iter().filter(|(_, decoder)| sends(decoder)).copied().collect()
        };
        let found_set: BTreeSet<_> = found.iter().copied().collect();
        let routings = self.routings.get(&device).cloned().unwrap_or_default();
        let is_right = routings.iter().any(|r| must(r).is_subset(&found_set) && found_set.is_subset(&as_decoded(r)));
        if !is_right && !(found.is_empty() && may_be_silent) {
            self.wrong(format!("I1: {name} made deliveries {found:?}, its routes are {routings:?}"));
        }
        for ((target, decoder), kind, body) in kinds {
            let expected = decoder.map(|d| decoded(d, &accepted.payload));
            let is_right = match (kind, expected) {
                (DeliveryKind::Body, None) => body.as_ref() == accepted.payload.as_slice(),
                (DeliveryKind::Body, Some(Decoding::Value(text))) => body.as_ref() == text.as_bytes(),
                (DeliveryKind::Body, Some(_)) => false,
                (DeliveryKind::Undecoded, None) => false,
                (DeliveryKind::Undecoded, Some(decoding)) => {
                    let may = decoding == Decoding::Throws
                        || self.may_be_undecoded(device, number, decoder.unwrap_or_default());
                    may && body.as_ref() == accepted.payload.as_slice()
                }
            };
            if !is_right {
                self.wrong(format!("{name} made a wrong {kind:?} for target {target} by {decoder:?}: {body:?}"));
            }
        }
    }

    fn may_be_undecoded(&self, device: DeviceId, number: u64, decoder: i64) -> bool {
        self.broken_decodes.contains(&(number, decoder)) || self.panics.get(&device).is_some_and(|num| *num >= 3)
    }

    fn check_order_and_owe(&mut self, metas: &[(DeliveryMeta, &Record)]) {
        for (meta, record) in metas {
            let key = meta.idempotency_key();
            let number = number_in(&record.value);
            let route = (meta.target, meta.device, meta.decoder.map(|d| d.0));
            let newest = self.newest_routed.insert(route, number).unwrap_or(0);
            if self.has_event_ids && newest > number && !self.provisional.contains(&meta.device) {
                self.wrong(format!("I2: a step wrote uplink {number} behind {newest} for {route:?}"));
            }
            let owed = self.owed.entry(meta.target).or_default();
            if let Some(before) = owed.last()
                && before.offset >= record.offset
            {
                let line = format!("I2: target {} at {} after {}", meta.target, record.offset, before.offset);
                self.wrong(line);
            }
            self.owed.entry(meta.target).or_default().push(Owed {
                offset: record.offset,
                key: key.clone(),
                kind: meta.kind,
            });
            self.owed_at_ms.entry(key.clone()).or_insert(self.now_ms);
            self.offsets_of_key.entry(key).or_insert(record.offset);
        }
    }

    pub fn on_take(&mut self, what: usize, partition: u32, node: u64, is_owner: bool) {
        if is_owner {
            self.takers[what].insert(partition, node);
        }
    }

    /// After an owner has raised the epoch nobody else writes until the owner is another (I8).
    fn check_writer(&mut self, what: usize, partition: u32, node: u64, owner: Option<u64>) {
        if let Some(taker) = self.takers[what].get(&partition).copied()
            && Some(taker) == owner
            && taker != node
        {
            let what = ["device states", "cursors"][what];
            self.wrong(format!(
                "I8: node {node} wrote {what} of partition {partition}, which node {taker} owns and took"
            ));
        }
    }

    pub fn on_states(&mut self, batch: &StateBatch, node: u64, owner: Option<u64>) {
        let partition = batch.partition.0;
        self.check_writer(0, partition, node, owner);
        let committed = self.committed[partition as usize];
        if batch.position.offset > committed {
            let position = batch.position.offset;
            self.wrong(format!("I1: the state position of {partition} is {position}, committed is {committed}"));
        }
        for state in &batch.states {
            let Some((_, applied)) = &state.applied else { continue };
            if *applied > committed.0 {
                self.wrong(format!("I1: the row of device {} is at {applied}, committed is {committed}", state.device));
            }
            let of_device = self.uplinks[partition as usize]
                .iter()
                .filter(|a| a.meta.device == state.device && a.offset.0 < *applied)
                .map(|a| (a.meta.event == EventType::Up, a.is_repeat));
            let (num_ups, num_repeats) = of_device.fold((0, 0), |(ups, repeats), (is_up, is_repeat)| {
                (ups + u64::from(is_up && !is_repeat), repeats + u64::from(is_repeat))
            });
            let counters = &state.counters;
            let is_right = (counters.num_uplinks, counters.num_repeats) == (num_ups, num_repeats);
            if !is_right && !self.provisional.contains(&state.device) {
                self.wrong(format!(
                    "the row of device {} counts {} uplinks and {} repeats, the log has {num_ups} and {num_repeats} below {applied}",
                    state.device, counters.num_uplinks, counters.num_repeats
                ));
            }
        }
    }

    /// Called when a state position was stored: everything below it must be in rows.
    pub fn check_rows(&mut self, partition: u32, position: Offset, applied_of: impl Fn(DeviceId) -> u64) {
        let mut last: BTreeMap<DeviceId, Offset> = BTreeMap::new();
        for accepted in self.uplinks[partition as usize].iter().filter(|a| a.offset < position) {
            last.insert(accepted.meta.device, accepted.offset);
        }
        for (device, offset) in last {
            if !self.gone.contains(&device) && applied_of(device) <= offset.0 {
                let applied = applied_of(device);
                self.wrong(format!(
                    "I1: the state position of {partition} is {position}, the row of device {device} is at {applied} and misses {offset}"
                ));
            }
        }
    }

    pub fn on_cursors(&mut self, batch: &CursorBatch, node: u64, owner: Option<u64>) {
        let partition = batch.partition.0;
        self.check_writer(1, partition, node, owner);
        for letter in &batch.dead_letters {
            let key = letter.meta.idempotency_key();
            let target = letter.meta.target;
            let receiver = self.receivers.entry(target).or_default();
            receiver.letters.insert(letter.offset);
            let is_deserved = match letter.reason {
                DeadReason::Refused => receiver.refused.contains(&key),
                DeadReason::Undecoded => letter.meta.kind == DeliveryKind::Undecoded,
                DeadReason::Exhausted => letter.num_attempts >= 10,
                DeadReason::TooOld => false,
            };
            if !is_deserved {
                self.wrong(format!(
                    "target {target} at {} is dead for {:?} after {} tries",
                    letter.offset, letter.reason, letter.num_attempts
                ));
            }
        }
    }

    /// A target's row as it is stored now; `position` is where it stands.
    pub fn check_cursor(&mut self, target: TargetId, row: Option<&TargetCursor>, position: Offset) {
        if self.deleted_targets.contains(&target) || self.has_trimmed {
            return;
        }
        let Some(owed) = self.owed.get(&target) else { return };
        let holes: HashSet<u64> = row.map(|r| r.holes.iter().map(|o| o.0).collect()).unwrap_or_default();
        let receiver = self.receivers.entry(target).or_default();
        let is_again = self.offered_again.contains(&target);
        let below = owed.iter().filter(|o| o.offset < position);
        let ended = |o: &&Owed| {
            receiver.landed.contains_key(&o.key)
                || receiver.letters.contains(&o.offset.0)
                || (is_again && o.kind == DeliveryKind::Undecoded)
        };
        let missed = below.clone().find(|o| !holes.contains(&o.offset.0) && !ended(o)).map(|o| o.offset);
        let num_below = below.count() as u64;
        if let Some(missed) = missed {
            self.wrong(format!("I1: the cursor of target {target} is at {position}, {missed} has not ended"));
        }
        if let Some(row) = row {
            let balance = row.counters.pending_by_balance();
            if balance < row.holes.len() as i128 || row.counters.accepted < num_below {
                self.wrong(format!(
                    "I4: the row of target {target} at {position} does not add up, {num_below} records lie below it: {row:?}"
                ));
            }
        }
    }

    pub fn on_try(&mut self, node: u64, target: TargetId, device: DeviceId, num_max: u32) {
        let open = self.open_per_device.entry((node, target, device)).or_default();
        *open += 1;
        if *open > 1 {
            self.wrong(format!("I2: two deliveries of device {device} are in flight to target {target} at once"));
        }
        let open = self.receivers.entry(target).or_default().num_open.entry(node).or_default();
        *open += 1;
        if *open > num_max {
            self.wrong(format!("I3: more than {num_max} deliveries are in flight to target {target}"));
        }
    }

    pub fn on_try_ended(&mut self, node: u64, target: TargetId, device: DeviceId) {
        if let Some(open) = self.open_per_device.get_mut(&(node, target, device)) {
            *open -= 1;
        }
        if let Some(open) = self.receivers.entry(target).or_default().num_open.get_mut(&node) {
            *open -= 1;
        }
    }

    pub fn on_refused(&mut self, target: TargetId, key: &str) {
        self.receivers.entry(target).or_default().refused.insert(key.to_owned());
    }

    /// A receiver took a delivery.
    pub fn on_landed(&mut self, meta: &DeliveryMeta, key: &str, is_measured: bool) {
        let Some(offset) = self.offsets_of_key.get(key).copied() else {
            return self.wrong(format!("target {} got something that nobody owed it", meta.target));
        };
        if is_measured {
            self.worst_wait_ms = self.worst_wait_ms.max(self.now_ms - self.owed_at_ms.get(key).copied().unwrap_or(0));
        }
        let receiver = self.receivers.entry(meta.target).or_default();
        let num = receiver.landed.entry(key.to_owned()).or_default();
        *num += 1;
        let has_died = receiver.letters.contains(&offset.0) || receiver.refused.contains(key);
        if *num > 1 || has_died || meta.kind == DeliveryKind::Undecoded {
            return;
        }
        let last = receiver.last_of_device.insert(meta.device, offset);
        // What was replayed out of its order does not move the mark back.
        if let Some(last) = last
            && last > offset
        {
            receiver.last_of_device.insert(meta.device, last);
            // Decoded by a replay or a rewind: it stood as undecoded in the log.
            let was_undecoded = self.owed.get(&meta.target).into_iter().flatten();
            let was_undecoded = was_undecoded.clone().any(|o| o.key == *key && o.kind == DeliveryKind::Undecoded);
            if !was_undecoded {
                self.wrong(format!(
                    "I2: target {} got {offset} of device {} for the first time after {last}",
                    meta.target, meta.device
                ));
            }
        }
    }

    /// Deliveries that a receiver got more than once.
    pub fn num_duplicates(&self) -> u64 {
        self.receivers.values().flat_map(|r| r.landed.values()).map(|num| u64::from(num - 1)).sum()
    }

    pub fn num_owed(&self) -> usize {
        self.owed.values().map(Vec::len).sum()
    }

    pub fn num_uplinks(&self) -> usize {
        self.uplinks.iter().map(Vec::len).sum()
    }

    /// At the end nothing is missing and every term is what it must be.
    pub fn check_settled(&mut self, target: TargetId, row: Option<&TargetCursor>, num_letters: u64) {
        let owed = self.owed.get(&target).cloned().unwrap_or_default();
        if self.deleted_targets.contains(&target) {
            if let Some(row) = row
                && row.counters.pending_by_balance() != 0
            {
                self.wrong(format!("I4: deleted target {target} does not add up: {row:?}"));
            }
            return;
        }
        let is_again = self.offered_again.contains(&target);
        let has_trimmed = self.has_trimmed;
        let receiver = self.receivers.entry(target).or_default();
        let missing: Vec<u64> = owed
            .iter()
            .filter(|o| !receiver.landed.contains_key(&o.key) && !receiver.letters.contains(&o.offset.0))
            .filter(|o| !(is_again && o.kind == DeliveryKind::Undecoded))
            .map(|o| o.offset.0)
            .collect();
        if !missing.is_empty() && !has_trimmed {
            self.wrong(format!("target {target} misses {} of {} deliveries: {missing:?}", missing.len(), owed.len()));
        }
        let Some(row) = row else {
            if !owed.is_empty() {
                self.wrong(format!("I4: target {target} has no row and {} deliveries", owed.len()));
            }
            return;
        };
        let c = row.counters;
        let mut is_right = c.pending_by_balance() == 0 && row.holes.is_empty();
        if !has_trimmed {
            is_right &= c.accepted == owed.len() as u64 && c.expired == 0;
        }
        // A rewind supersedes dead letters that were counted and not written yet.
        is_right &= if is_again { c.dead >= num_letters } else { c.dead == num_letters };
        if !is_again {
            is_right &= c.offered_again == 0 && c.discarded == 0;
            is_right &= c.delivered + c.dead + c.expired == c.accepted;
        }
        if !is_right {
            self.wrong(format!(
                "I4: target {target} was owed {} and has {num_letters} dead letters; its row says {row:?}",
                owed.len()
            ));
        }
    }
}
