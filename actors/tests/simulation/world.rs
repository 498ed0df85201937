//! One run: two nodes over one log and one database, sources that send until they are told "accepted", receivers, a group that
//! moves partitions, and at the end calm until everything is settled.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use sluse_schema::change::{ChangeEvent, ChangedEntity};
use sluse_schema::device::DecoderScript;
use sluse_schema::id::{ApplicationId, DecoderId, DevEui, DeviceId, DeviceKey, OrganizationId, TargetId};
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{Arrival, Assignment, AssignmentDone, Intake, Log, TargetRequestKind};
use sluse_schema::record::{Offset, Topic};
use sluse_schema::secret::Secret;
use sluse_schema::target::{HttpTarget, TargetConfig, TargetKind, TargetPolicy};
use sluse_schema::uplink::{EventType, SourceKind};

use super::node::Node;
use super::oracle::Routing;
use super::plan::{Action, Mood};
use super::ports::all_targets;
use super::wire::{Power, Sim, Struck};

const NUM_NODES: usize = 2;
const TICK: Duration = Duration::from_millis(40);
/// A group takes partitions away from a member that is silent for this long.
const SESSION_MS: u64 = 1_000;
/// Calm has to end everything within this time.
const SETTLE_WITHIN: Duration = Duration::from_secs(4 * 3_600);

/// Something that is due at a time.
enum Due {
    Action(Action),
    Assign(u32),
    Wake {
        slot: usize,
        id: u64,
    },
    TakeAway {
        slot: usize,
        id: u64,
    },
    ForceMove {
        partition: u32,
        from: u64,
    },
    Start {
        slot: usize,
    },
    StoreBack,
    LogBack,
    ReceiverWell {
        target: i64,
        until_ms: u64,
    },
    /// The reloader's scan, for whoever missed a change.
    Scan,
}

/// A sender of one device: one arrival at a time, again and again until it is accepted.
struct Source {
    device: i64,
    waiting: VecDeque<Arrival>,
    next_at_ms: u64,
    is_busy: bool,
}

pub struct World {
    sim: Arc<Sim>,
    nodes: Vec<Rc<Node>>,
    due: Vec<(u64, u64, Due)>,
    num_due: u64,
    next_node_id: u64,
    sources: Vec<Rc<RefCell<Source>>>,
    next_number: u64,
    num_changes: i64,
    /// Partitions on their way from one node to the other.
    moved: Rc<RefCell<Vec<(u32, u64)>>>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub violations: Vec<String>,
    pub trace: u64,
    pub num_uplinks: usize,
    pub num_owed: usize,
    pub num_duplicates: u64,
    pub num_effects: u64,
    pub num_panics: u64,
    /// Calm lasted this long before everything was settled, simulated.
    pub settled_ms: u64,
    /// Nothing that ended by itself or was taken away kept its counts to itself.
    pub counts_all: bool,
}

impl World {
    pub fn new(sim: &Arc<Sim>) -> Self {
        let mut world = Self {
            sim: Arc::clone(sim),
            nodes: Vec::new(),
            due: Vec::new(),
            num_due: 0,
            next_node_id: 1,
            sources: Vec::new(),
            next_number: 1,
            num_changes: 0,
            moved: Rc::default(),
        };
        let plan = &sim.plan;
        for target in all_targets(plan.num_targets) {
            sim.targets.put_target(config_of(target, 1));
        }
        for decoder in 1..=2 {
            sim.targets.put_decoder(DecoderScript::new(DecoderId(decoder), "function decode(p) { return p }", None));
        }
        for device in 1..=plan.num_devices {
            world.route(device);
            let next_at_ms = sim.draw(|rng| rng.random_range(0..plan.uplink_every_ms));
            let source = Source { device, waiting: VecDeque::new(), next_at_ms, is_busy: false };
            world.sources.push(Rc::new(RefCell::new(source)));
        }
        for (at_ms, action) in &plan.actions {
            world.at(*at_ms, Due::Action(*action));
        }
        world.at(60_000, Due::Scan);
        for slot in 0..NUM_NODES {
            let node = world.start_node(slot);
            world.nodes.push(node);
        }
        for partition in 0..plan.num_partitions {
            let slot = sim.draw(|rng| rng.random_range(0..NUM_NODES));
            world.assign(partition, slot);
        }
        world
    }

    fn at(&mut self, at_ms: u64, due: Due) {
        self.num_due += 1;
        self.due.push((at_ms, self.num_due, due));
    }

    fn soon(&mut self, in_ms: u64, due: Due) {
        self.at(self.sim.now_ms() + in_ms, due);
    }

    fn start_node(&mut self, slot: usize) -> Rc<Node> {
        let id = self.next_node_id;
        self.next_node_id += 1;
        self.sim.note(format_args!("node {id} starts"));
        Node::start(&self.sim, id, slot)
    }

    /// Gives a device routes by chance.
    fn route(&mut self, device: i64) {
        let num_targets = self.sim.plan.num_targets;
        let routing: Routing = self.sim.draw(|rng| {
            let mut routing = Vec::new();
            for target in 1..=num_targets {
                for decoder in [None, Some(1), Some(2)] {
                    if rng.random_bool(0.35) {
                        routing.push((target, decoder));
                    }
                }
            }
            routing
        });
        self.sim.devices.put_device(DeviceId(device), &routing);
        self.sim.oracle().routes(device, routing);
    }

    fn assign(&mut self, partition: u32, slot: usize) {
        let node = &self.nodes[slot];
        self.sim.note(format_args!("partition {partition} is node {}'s", node.process.id));
        super::wire::lock(&self.sim.owners)[partition as usize] = Some(node.process.id);
        node.tell_lost();
        let _ = node.assignments.send(Assignment::Assigned(vec![PartitionId(partition)]));
    }

    fn disown(&mut self, partition: u32) {
        super::wire::lock(&self.sim.owners)[partition as usize] = None;
        let wait_ms = self.sim.draw(|rng| rng.random_range(0..SESSION_MS));
        self.soon(wait_ms, Due::Assign(partition));
    }

    fn owned_by(&self, id: u64) -> Vec<u32> {
        (0..self.sim.plan.num_partitions).filter(|p| self.sim.owner(*p) == Some(id)).collect()
    }

    async fn changed(&mut self, entity: ChangedEntity, entity_id: i64) {
        self.num_changes += 1;
        let change = ChangeEvent { id: self.num_changes, entity, entity_id };
        for node in self.nodes.iter().filter(|n| n.is_on()) {
            node.devices.changed(Arc::new([change])).await;
            node.targets.changed(&[change]).await;
        }
    }

    /// Follows up what struck a node by itself.
    fn follow_strikes(&mut self) {
        let struck = std::mem::take(&mut *super::wire::lock(&self.sim.struck));
        for strike in struck {
            match strike {
                Struck::Crashed { slot } => self.crashed(slot),
                Struck::Frozen { slot } => {
                    let for_ms = self.sim.draw(|rng| rng.random_range(100..6_000));
                    self.frozen(slot, for_ms, for_ms > SESSION_MS);
                }
            }
        }
    }

    fn crashed(&mut self, slot: usize) {
        let node = Rc::clone(&self.nodes[slot]);
        for partition in self.owned_by(node.process.id) {
            self.disown(partition);
        }
        // Its memory is gone; nothing it asked for is answered any more.
        actix_rt::spawn(async move {
            node.devices.abandon().await;
            node.targets.abandon().await;
        });
        let wait_ms = self.sim.draw(|rng| rng.random_range(50..4_000));
        self.soon(wait_ms, Due::Start { slot });
    }

    fn frozen(&mut self, slot: usize, for_ms: u64, is_taken_away: bool) {
        let id = self.nodes[slot].process.id;
        self.soon(for_ms, Due::Wake { slot, id });
        if is_taken_away {
            self.soon(for_ms.min(SESSION_MS) / 2, Due::TakeAway { slot, id });
        }
    }

    fn start_if_off(&mut self, slot: usize) {
        if self.nodes[slot].process.power() == Power::Off {
            self.nodes[slot] = self.start_node(slot);
        }
    }

    fn take_away(&mut self, slot: usize, id: u64) {
        let node = Rc::clone(&self.nodes[slot]);
        if node.process.id != id || node.process.power() != Power::Frozen {
            return;
        }
        let lost: Vec<PartitionId> = self.owned_by(id).into_iter().map(PartitionId).collect();
        for partition in &lost {
            self.sim.note(format_args!("partition {partition} is taken from node {id}"));
            self.disown(partition.0);
        }
        if !lost.is_empty() {
            // It learns of it some time after it woke.
            let learns_after_ms = self.sim.draw(|rng| rng.random_range(0..1_500));
            node.lost.borrow_mut().extend(lost);
            actix_rt::spawn(async move {
                node.process.runs().await;
                tokio::time::sleep(Duration::from_millis(learns_after_ms)).await;
                node.tell_lost();
            });
        }
    }

    fn move_partition(&mut self, partition: u32) {
        let Some(from) = self.sim.owner(partition) else { return };
        let Some(node) = self.nodes.iter().find(|n| n.process.id == from && n.is_on()) else { return };
        let moved = Rc::clone(&self.moved);
        let (sent, given_up) = tokio::sync::oneshot::channel();
        let done = AssignmentDone::new(move || {
            let _ = sent.send(());
        });
        let _ = node.assignments.send(Assignment::Revoked { partitions: vec![PartitionId(partition)], done });
        self.sim.note(format_args!("partition {partition} is asked back from node {from}"));
        actix_rt::spawn(async move {
            if given_up.await.is_ok() {
                moved.borrow_mut().push((partition, from));
            }
        });
        self.soon(10_000, Due::ForceMove { partition, from });
    }

    /// SIGTERM: everything is finished or given back, then the process ends and another starts.
    fn restart(&mut self, slot: usize) {
        let node = Rc::clone(&self.nodes[slot]);
        if !node.is_on() {
            return;
        }
        let sim = Arc::clone(&self.sim);
        sim.note(format_args!("node {} is asked to stop", node.process.id));
        actix_rt::spawn(async move {
            let within = Duration::from_secs(5);
            let process = Arc::clone(&node.process);
            tokio::select! {
                biased;
                () = process.is_off() => {}
                _ = async {
                    node.devices.drain(within).await;
                    node.targets.drain(within).await
                } => {
                    sim.note(format_args!("node {} stopped", node.process.id));
                    process.runs().await;
                    sim.crash(&process);
                }
            }
        });
    }

    async fn act(&mut self, action: Action) {
        self.sim.note(format_args!("{action:?}"));
        let sim = Arc::clone(&self.sim);
        // Nobody can ask anything of a target that is not there: the API answers 404.
        if let Action::Rewind { target, .. } | Action::Replay { target } = action
            && sim.oracle().deleted_targets.contains(&TargetId(target))
        {
            return;
        }
        match action {
            Action::Crash { node } => sim.crash(&self.nodes[node].process),
            Action::Freeze { node, for_ms, is_taken_away } => {
                if self.nodes[node].is_on() {
                    self.nodes[node].process.set_power(Power::Frozen);
                    self.frozen(node, for_ms, is_taken_away);
                }
            }
            Action::Restart { node } => self.restart(node),
            Action::Move { partition } => self.move_partition(partition),
            Action::StoreAway { for_ms } => {
                sim.num_store_outages.fetch_add(1, Ordering::Relaxed);
                self.soon(for_ms, Due::StoreBack);
            }
            Action::LogAway { for_ms } => {
                sim.num_log_outages.fetch_add(1, Ordering::Relaxed);
                self.soon(for_ms, Due::LogBack);
            }
            Action::Receiver { target, mood, for_ms } => {
                let until_ms = sim.now_ms() + for_ms;
                sim.set_mood(target, mood, until_ms);
                self.at(until_ms, Due::ReceiverWell { target, until_ms });
            }
            Action::Rewind { target, to } => {
                let target = TargetId(target);
                let partition = partition_of_target(target, sim.plan.num_partitions);
                let Ok((start, end)) = sim.log.bounds(Topic::Deliveries, partition).await else { return };
                let to = start.0 + ((end.0 - start.0) as f64 * to) as u64;
                sim.oracle().offered_again.insert(target);
                let id = sim.targets.ask(target, TargetRequestKind::RewindToOffset(to));
                self.changed(ChangedEntity::TargetRequest, id).await;
            }
            Action::Replay { target } => {
                let target = TargetId(target);
                let ids: Vec<_> = sim.targets.letters(target).into_iter().map(|(id, _)| id).collect();
                sim.oracle().offered_again.insert(target);
                let id = sim.targets.ask(target, TargetRequestKind::Replay(ids));
                self.changed(ChangedEntity::TargetRequest, id).await;
            }
            Action::DeleteTarget { target } => {
                sim.oracle().deleted_targets.insert(TargetId(target));
                sim.targets.delete_target(TargetId(target));
                self.changed(ChangedEntity::Target, target).await;
            }
            Action::EditTarget { target } => {
                if !sim.oracle().deleted_targets.contains(&TargetId(target)) {
                    sim.targets.put_target(config_of(TargetId(target), 2 + sim.now_ms()));
                    self.changed(ChangedEntity::Target, target).await;
                }
            }
            Action::ChangeRoutes { device } => {
                // A number is never given again.
                if !sim.oracle().is_gone(device) {
                    self.route(device);
                    self.changed(ChangedEntity::Device, device).await;
                }
            }
            Action::DeleteDevice { device, is_told } => {
                sim.oracle().device_gone(device);
                sim.devices.remove_device(DeviceId(device));
                if is_told {
                    self.changed(ChangedEntity::Device, device).await;
                }
            }
            Action::Trim => {
                sim.oracle().has_trimmed = true;
                for partition in (0..sim.plan.num_partitions).map(PartitionId) {
                    for topic in [Topic::Uplinks, Topic::Deliveries] {
                        let Ok((start, end)) = sim.log.bounds(topic, partition).await else { return };
                        let to = sim.draw(|rng| rng.random_range(start.0..=end.0));
                        // Before its partition was taken nothing of it is trimmed.
                        if topic == Topic::Uplinks && sim.log.retention_floor(topic, partition).is_none() {
                            continue;
                        }
                        sim.log.trim_to(topic, partition, Offset(to));
                    }
                }
            }
        }
    }

    async fn happen(&mut self, due: Due) {
        let sim = Arc::clone(&self.sim);
        match due {
            Due::Action(action) => self.act(action).await,
            Due::Assign(partition) => {
                if sim.owner(partition).is_some() {
                    return;
                }
                let awake: Vec<usize> = (0..NUM_NODES).filter(|slot| self.nodes[*slot].is_on()).collect();
                if awake.is_empty() {
                    self.soon(200, Due::Assign(partition));
                } else {
                    let slot = awake[sim.draw(|rng| rng.random_range(0..awake.len()))];
                    self.assign(partition, slot);
                }
            }
            Due::Wake { slot, id } => {
                let process = &self.nodes[slot].process;
                if process.id == id && process.power() == Power::Frozen {
                    sim.note(format_args!("node {id} wakes"));
                    process.set_power(Power::On);
                }
            }
            Due::TakeAway { slot, id } => self.take_away(slot, id),
            Due::ForceMove { partition, from } => {
                if sim.owner(partition) == Some(from) {
                    self.disown(partition);
                }
            }
            Due::Start { slot } => self.start_if_off(slot),
            Due::Scan => {
                for node in self.nodes.iter().filter(|n| n.is_on()) {
                    node.targets.full_scan().await;
                    node.devices.reload_all().await;
                }
                self.soon(60_000, Due::Scan);
            }
            Due::StoreBack => drop(sim.num_store_outages.fetch_sub(1, Ordering::Relaxed)),
            Due::LogBack => drop(sim.num_log_outages.fetch_sub(1, Ordering::Relaxed)),
            Due::ReceiverWell { target, until_ms } => sim.receiver_well(target, until_ms),
        }
    }

    fn take_due(&mut self) -> Vec<Due> {
        let now_ms = self.sim.now_ms();
        self.due.sort_by_key(|(at_ms, n, _)| (*at_ms, *n));
        let num = self.due.partition_point(|(at_ms, ..)| *at_ms <= now_ms);
        self.due.drain(..num).map(|(.., due)| due).collect()
    }

    fn make_uplinks(&mut self) {
        let (sim, now_ms) = (Arc::clone(&self.sim), self.sim.now_ms());
        let plan = &sim.plan;
        for source in self.sources.clone() {
            let mut source = source.borrow_mut();
            while source.next_at_ms <= now_ms && now_ms < plan.duration_ms {
                source.next_at_ms += sim.draw(|rng| rng.random_range(1..=2 * plan.uplink_every_ms));
                let number = self.next_number;
                self.next_number += 1;
                let is_status = sim.chance(0.1);
                let arrival = Arrival {
                    sender: DeviceKey::DevEui(DevEui(source.device as u64)),
                    source: SourceKind::Http,
                    event: if is_status { EventType::Status } else { EventType::Up },
                    // A status and an uplink share an id now and then, as ChirpStack's do.
                    event_id: plan.has_event_ids.then(|| format!("e{}", number / 2)),
                    content_type: "application/json".into(),
                    figures: None,
                    payload: Bytes::from(number.to_string()),
                };
                source.waiting.push_back(arrival);
            }
        }
    }

    fn send_uplinks(&mut self) {
        let awake: Vec<Rc<Node>> = self.nodes.iter().filter(|n| n.is_on()).cloned().collect();
        for source in &self.sources {
            let is_ready = !source.borrow().is_busy && !source.borrow().waiting.is_empty();
            if !is_ready || awake.is_empty() {
                continue;
            }
            let sim = Arc::clone(&self.sim);
            let node = Rc::clone(&awake[sim.draw(|rng| rng.random_range(0..awake.len()))]);
            let Some(gate) = node.gate.borrow().clone() else { continue };
            let run: Vec<Arrival> = source.borrow().waiting.iter().take(4).cloned().collect();
            source.borrow_mut().is_busy = true;
            let source = Rc::clone(source);
            actix_rt::spawn(async move {
                let answers = tokio::select! {
                    biased;
                    () = node.process.is_off() => Vec::new(),
                    answers = gate.accept_all(run.clone()) => answers,
                };
                let mut source = source.borrow_mut();
                source.is_busy = false;
                // In order: what follows the first that was not accepted is sent again behind it.
                for (arrival, answer) in run.into_iter().zip(answers) {
                    match answer {
                        Ok(_) => sim.oracle().on_accepted(source.device, &arrival.payload),
                        Err(sluse_schema::port::RefusedArrival::UnknownSender) => {}
                        Err(
                            sluse_schema::port::RefusedArrival::Later { .. }
                            | sluse_schema::port::RefusedArrival::TooOften { .. },
                        ) => break,
                    }
                    source.waiting.pop_front();
                    if arrival.event_id.is_some() && !sim.is_calm() && sim.chance(sim.plan.p_repeat) {
                        source.waiting.push_back(arrival);
                    }
                }
            });
        }
    }

    fn settle_moves(&mut self) {
        let moved = std::mem::take(&mut *self.moved.borrow_mut());
        for (partition, from) in moved {
            if self.sim.owner(partition) == Some(from) {
                self.sim.note(format_args!("partition {partition} was given up by node {from}"));
                self.disown(partition);
            }
        }
    }

    async fn tick(&mut self) {
        self.follow_strikes();
        self.settle_moves();
        for due in self.take_due() {
            self.happen(due).await;
        }
        self.follow_strikes();
        self.make_uplinks();
        self.send_uplinks();
    }

    /// No more faults: whoever is away comes back, and every partition has an owner.
    fn calm(&mut self) {
        self.sim.note(format_args!("calm"));
        self.sim.is_calm.store(true, Ordering::Relaxed);
        for slot in 0..NUM_NODES {
            let (id, power) = (self.nodes[slot].process.id, self.nodes[slot].process.power());
            if power == Power::Frozen {
                self.soon(0, Due::Wake { slot, id });
            }
        }
        for target in 1..=self.sim.plan.num_targets {
            self.sim.set_mood(target, Mood::Well, 0);
        }
    }

    async fn is_settled(&self) -> bool {
        let sim = &self.sim;
        if self.sources.iter().any(|s| !s.borrow().waiting.is_empty()) || !sim.targets.requests().is_empty() {
            return false;
        }
        for partition in (0..sim.plan.num_partitions).map(PartitionId) {
            let end = |topic| async move { sim.log.bounds(topic, partition).await.map(|b| b.1).unwrap_or_default() };
            let (uplinks, deliveries) = (end(Topic::Uplinks).await, end(Topic::Deliveries).await);
            let committed = sim.log.committed(partition).await.ok().flatten().unwrap_or_default();
            let states = sim.devices.state_position(partition).map_or(Offset::ZERO, |p| p.offset);
            if committed != uplinks || states != committed {
                return false;
            }
            let stored = sim.targets.position(partition).map_or(Offset::ZERO, |p| p.offset);
            if stored != deliveries {
                return false;
            }
            for target in all_targets(sim.plan.num_targets) {
                if partition_of_target(target, sim.plan.num_partitions) != partition {
                    continue;
                }
                let Some(row) = sim.targets.cursor(target) else { continue };
                let at = row.position.as_ref().map_or(stored, |p| p.offset);
                if at != deliveries || !row.holes.is_empty() || row.counters.pending_by_balance() != 0 {
                    return false;
                }
            }
        }
        true
    }

    async fn settle(&mut self) -> u64 {
        let begun_ms = self.sim.now_ms();
        let mut wait = Duration::from_millis(200);
        while self.sim.now_ms() - begun_ms < SETTLE_WITHIN.as_millis() as u64 {
            self.tick().await;
            if self.is_settled().await {
                return self.sim.now_ms() - begun_ms;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 11 / 10).min(Duration::from_secs(20));
        }
        let mut lines = Vec::new();
        for partition in (0..self.sim.plan.num_partitions).map(PartitionId) {
            let sim = &self.sim;
            lines.push(format!(
                "partition {partition}: owner {:?}, committed {:?} of {:?}, states {:?}, cursors {:?} of {:?}",
                sim.owner(partition.0),
                sim.log.committed(partition).await,
                sim.log.bounds(Topic::Uplinks, partition).await,
                sim.devices.state_position(partition).map(|p| p.offset),
                sim.targets.position(partition).map(|p| p.offset),
                sim.log.bounds(Topic::Deliveries, partition).await,
            ));
        }
        for target in all_targets(self.sim.plan.num_targets) {
            lines.push(format!("{:?} {:?}", self.sim.targets.cursor(target), self.sim.targets.status(target)));
        }
        let waiting: Vec<usize> = self.sources.iter().map(|s| s.borrow().waiting.len()).collect();
        let requests = self.sim.targets.requests();
        self.sim.oracle().wrong(format!("not settled after hours of calm: {waiting:?} {requests:?} {lines:#?}"));
        self.sim.now_ms() - begun_ms
    }

    pub async fn run(mut self) -> Ran {
        while self.sim.now_ms() < self.sim.plan.duration_ms {
            self.tick().await;
            if !self.sim.oracle().violations.is_empty() {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        self.calm();
        let is_well = self.sim.oracle().violations.is_empty();
        let settled_ms = if is_well { self.settle().await } else { 0 };
        for target in all_targets(self.sim.plan.num_targets) {
            let row = self.sim.targets.cursor(target);
            if is_well {
                let num_letters = self.sim.targets.num_letters_made(target);
                self.sim.oracle().check_settled(target, row.as_ref(), num_letters);
            }
        }
        for node in &self.nodes {
            node.devices.abandon().await;
            node.targets.abandon().await;
        }
        let trace = self.sim.trace();
        let mut oracle = self.sim.oracle();
        let num_duplicates = oracle.num_duplicates();
        if num_duplicates > 0 && !self.sim.plan.may_duplicate() {
            oracle.wrong(format!("{num_duplicates} deliveries came twice and nothing allows that"));
        }
        if self.sim.plan.is_one_ill && oracle.worst_wait_ms > 1_500 {
            let worst_ms = oracle.worst_wait_ms;
            oracle.wrong(format!("I6: a delivery to a target that is well waited {worst_ms} ms for one that is ill"));
        }
        Ran {
            violations: oracle.violations.clone(),
            trace,
            num_uplinks: oracle.num_uplinks(),
            num_owed: oracle.num_owed(),
            num_duplicates,
            num_effects: self.sim.num_effects.load(Ordering::Relaxed),
            num_panics: self.sim.num_panics.load(Ordering::Relaxed),
            settled_ms,
            counts_all: !self.sim.plan.may_lose_nodes(),
        }
    }
}

fn config_of(target: TargetId, version: u64) -> TargetConfig {
    TargetConfig {
        target,
        application: ApplicationId(1),
        organization: OrganizationId(1),
        name: format!("target {target}"),
        kind: TargetKind::HttpPush(HttpTarget {
            url: "http://receiver.test/".into(),
            timeout_ms: 30_000,
            authorization: Secret::default(),
            ca_certificates: None,
        }),
        policy: TargetPolicy { num_in_flight_max: 8, ..TargetPolicy::default() },
        version,
    }
}
