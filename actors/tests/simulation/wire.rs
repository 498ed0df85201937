//! What lies between a node and everything it calls: the place where faults happen. A node that was killed gets no answer for ever,
//! and nothing of it is done any more; a frozen one gets its answers when it wakes, and what it asked for is done then.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluse_actors::testing::{MemoryDeviceStore, MemoryTargetStore};
use sluse_schema::testing::MemoryLog;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::mutation::Mutation;
use super::oracle::Oracle;
use super::plan::{Mood, Op, Plan};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    On,
    Frozen,
    Off,
}

/// A node's process.
#[derive(Debug)]
pub struct Process {
    pub id: u64,
    pub slot: usize,
    power: Mutex<Power>,
    changed: Notify,
}

impl Process {
    pub fn new(id: u64, slot: usize) -> Arc<Self> {
        Arc::new(Self { id, slot, power: Mutex::new(Power::On), changed: Notify::new() })
    }

    pub fn power(&self) -> Power {
        *lock(&self.power)
    }

    pub fn set_power(&self, power: Power) {
        let mut now = lock(&self.power);
        if *now != Power::Off {
            *now = power;
        }
        drop(now);
        self.changed.notify_waiters();
    }

    /// Completes when the node runs; never for one that is off.
    pub async fn runs(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.power() == Power::On {
                return;
            }
            changed.await;
        }
    }

    /// Completes when the node is off.
    pub async fn is_off(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.power() == Power::Off {
                return;
            }
            changed.await;
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Go,
    /// Nothing is done.
    Fail,
    /// Nothing is done, and the caller is told that it may have been.
    Unclear,
    /// It is done; the caller is told that it failed, or may have.
    Lose,
}

/// A fault that the world has to follow up.
#[derive(Clone, Copy, Debug)]
pub enum Struck {
    Crashed { slot: usize },
    Frozen { slot: usize },
}

#[derive(Debug)]
struct Trace {
    hash: DefaultHasher,
    is_shown: bool,
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.hash.write(text.as_bytes());
        Ok(())
    }
}

/// Everything the nodes of one simulation share.
#[derive(Debug)]
pub struct Sim {
    pub plan: Plan,
    pub mutation: Mutation,
    pub log: Arc<MemoryLog>,
    pub devices: Arc<MemoryDeviceStore>,
    pub targets: Arc<MemoryTargetStore>,
    pub oracle: Mutex<Oracle>,
    rng: Mutex<StdRng>,
    /// Which process owns a partition.
    pub owners: Mutex<Vec<Option<u64>>>,
    pub is_calm: AtomicBool,
    pub num_store_outages: AtomicU32,
    pub num_log_outages: AtomicU32,
    pub moods: Mutex<Vec<(Mood, u64)>>,
    pub struck: Mutex<Vec<Struck>>,
    num_struck: AtomicU32,
    pub num_effects: AtomicU64,
    pub num_panics: AtomicU64,
    trace: Mutex<Trace>,
    origin: Instant,
}

impl Sim {
    pub fn new(plan: Plan, mutation: Mutation, is_shown: bool) -> Arc<Self> {
        let num_partitions = plan.num_partitions;
        let log = MemoryLog::named(num_partitions, plan.has_gaps, "simulation");
        Arc::new(Self {
            mutation,
            log,
            devices: Arc::new(MemoryDeviceStore::default()),
            targets: MemoryTargetStore::new(num_partitions),
            oracle: Mutex::new(Oracle::new(num_partitions, plan.has_event_ids)),
            rng: Mutex::new(StdRng::seed_from_u64(plan.seed)),
            owners: Mutex::new(vec![None; num_partitions as usize]),
            is_calm: AtomicBool::new(false),
            num_store_outages: AtomicU32::new(0),
            num_log_outages: AtomicU32::new(0),
            moods: Mutex::new(vec![(Mood::Well, 0); plan.num_targets as usize + 1]),
            struck: Mutex::default(),
            num_struck: AtomicU32::new(0),
            num_effects: AtomicU64::new(0),
            num_panics: AtomicU64::new(0),
            trace: Mutex::new(Trace { hash: DefaultHasher::new(), is_shown }),
            origin: Instant::now(),
            plan,
        })
    }

    pub fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    pub fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// Draws from the seed.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut lock(&self.rng))
    }

    pub fn chance(&self, p: f64) -> bool {
        p > 0.0 && self.draw(|rng| rng.random_bool(p))
    }

    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        let mut oracle = lock(&self.oracle);
        oracle.now_ms = self.now_ms() as i64;
        oracle
    }

    pub fn owner(&self, partition: u32) -> Option<u64> {
        lock(&self.owners)[partition as usize]
    }

    /// Adds to the trace: two runs of a seed have the same one.
    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        let now_ms = self.now_ms();
        let mut trace = lock(&self.trace);
        trace.hash.write_u64(now_ms);
        let _ = trace.write_fmt(what);
        if trace.is_shown {
            println!("{now_ms:>8} {what}");
        }
    }

    pub fn trace(&self) -> u64 {
        lock(&self.trace).hash.finish()
    }

    fn may_strike(&self) -> bool {
        self.num_struck.load(Ordering::Relaxed) < self.plan.num_crashes_max
    }

    pub fn crash(&self, process: &Process) {
        if process.power() != Power::Off {
            self.num_struck.fetch_add(1, Ordering::Relaxed);
            process.set_power(Power::Off);
            lock(&self.struck).push(Struck::Crashed { slot: process.slot });
        }
    }

    pub fn freeze(&self, process: &Process) {
        if process.power() == Power::On {
            self.num_struck.fetch_add(1, Ordering::Relaxed);
            process.set_power(Power::Frozen);
            lock(&self.struck).push(Struck::Frozen { slot: process.slot });
        }
    }
}

/// A node's connection with the rest of the world.
#[derive(Clone, Debug)]
pub struct Wire {
    pub sim: Arc<Sim>,
    pub process: Arc<Process>,
}

impl Wire {
    /// Waits for the call's turn and decides about it.
    pub async fn before(&self, op: Op) -> Fate {
        self.process.runs().await;
        let (sim, plan) = (&self.sim, &self.sim.plan);
        sim.num_effects.fetch_add(1, Ordering::Relaxed);
        if sim.is_calm() {
            return Fate::Go;
        }
        // Appends keep the order in which they were called, so they do not wait here.
        if op != Op::Append {
            self.delay().await;
        }
        self.strike(op, "before").await;
        let outages = if op.is_store() {
            &sim.num_store_outages
        } else if op.is_log() {
            &sim.num_log_outages
        } else {
            return Fate::Go;
        };
        let fate = if outages.load(Ordering::Relaxed) > 0 || sim.chance(plan.p_fail) {
            let may_be_unclear = matches!(op, Op::Append | Op::Commit);
            if may_be_unclear && sim.chance(0.5) { Fate::Unclear } else { Fate::Fail }
        } else if sim.chance(plan.p_lose) {
            Fate::Lose
        } else {
            Fate::Go
        };
        if op != Op::Read || fate != Fate::Go {
            sim.note(format_args!("node {} {op:?} {fate:?}", self.process.id));
        }
        fate
    }

    /// The answer's way back.
    pub async fn after(&self, op: Op) {
        if !self.sim.is_calm() {
            self.strike(op, "after").await;
            self.delay().await;
        }
        self.process.runs().await;
    }

    async fn delay(&self) {
        let plan = &self.sim.plan;
        if self.sim.chance(plan.p_delay) {
            let wait_ms = self.sim.draw(|rng| rng.random_range(1..=plan.delay_ms_max));
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            self.process.runs().await;
        }
    }

    /// The node may end or freeze between any two effects.
    async fn strike(&self, op: Op, when: &str) {
        let (sim, plan) = (&self.sim, &self.sim.plan);
        if !sim.may_strike() {
            return;
        }
        if sim.chance(plan.p_crash) {
            sim.note(format_args!("node {} crashes {when} {op:?}", self.process.id));
            sim.crash(&self.process);
        } else if sim.chance(plan.p_freeze) {
            sim.note(format_args!("node {} freezes {when} {op:?}", self.process.id));
            sim.freeze(&self.process);
        }
        self.process.runs().await;
    }
}

impl Sim {
    pub fn mood(&self, target: sluse_schema::id::TargetId) -> Mood {
        lock(&self.moods)[target.0 as usize].0
    }

    pub fn set_mood(&self, target: i64, mood: Mood, until_ms: u64) {
        lock(&self.moods)[target as usize] = (mood, until_ms);
    }

    /// The mood that was to last until then ends, unless a later one holds.
    pub fn receiver_well(&self, target: i64, until_ms: u64) {
        let mut moods = lock(&self.moods);
        if moods[target as usize].1 <= until_ms {
            moods[target as usize] = (Mood::Well, 0);
        }
    }
}
