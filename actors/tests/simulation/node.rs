//! A node of the simulation: the real stages and gate on the ports of its wire, and what the engine does with assignments.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluse_actors::intake::{Directory, Gate, GateConfig, UnknownLister};
use sluse_actors::partition::config::ConfigCache;
use sluse_actors::partition::{DevicePorts, DeviceStage};
use sluse_actors::tail::TailHub;
use sluse_actors::target::{Clock, TargetPorts, TargetStage, TargetStageHandle};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Assignment, Log};
use tokio::sync::mpsc;

use super::ports::{SimDecoder, SimLog, SimSenders, SimStore};
use super::wire::{Power, Process, Sim, Wire};

/// Where the wall clock starts, Unix milliseconds.
pub const START_MS: i64 = 1_780_000_000_000;

/// A node: its process, its stages, and what the group tells it.
pub struct Node {
    pub process: Arc<Process>,
    pub devices: DeviceStage,
    pub targets: TargetStageHandle,
    pub gate: Rc<RefCell<Option<Rc<Gate>>>>,
    pub assignments: mpsc::UnboundedSender<Assignment>,
    /// Taken away while it slept, and not told yet.
    pub lost: RefCell<Vec<PartitionId>>,
}

impl Node {
    pub fn start(sim: &Arc<Sim>, id: u64, slot: usize) -> Rc<Self> {
        let process = Process::new(id, slot);
        let wire = Wire { sim: Arc::clone(sim), process: Arc::clone(&process) };
        let log: Arc<dyn Log> = Arc::new(SimLog(wire.clone()));
        let store = Arc::new(SimStore(wire.clone()));
        let decoder = |may_panic| Arc::new(SimDecoder { wire: wire.clone(), may_panic });
        let arbiters = [actix_rt::Arbiter::current()];
        let target_ports = TargetPorts {
            log: Arc::clone(&log),
            store: Arc::clone(&store) as _,
            senders: Arc::new(SimSenders(wire.clone())),
            decoder: decoder(false) as _,
            clock: Clock::following_tokio(START_MS + sim.now_ms() as i64),
        };
        let targets = TargetStage::start(sim.plan.target_stage, &target_ports, &arbiters);
        let device_ports = DevicePorts {
            log: Arc::clone(&log),
            store: Arc::clone(&store) as _,
            decoder: decoder(true) as _,
            tail: Arc::new(TailHub::default()),
            configs: Arc::new(ConfigCache::new(1_000)),
        };
        let devices = DeviceStage::start(sim.plan.device_stage, &device_ports, &arbiters);
        let (assignments, told) = mpsc::unbounded_channel();
        actix_rt::spawn(follow_assignments(Arc::clone(&process), told, devices.clone(), targets.clone()));
        let gate = Rc::new(RefCell::new(None));
        let opened = Rc::clone(&gate);
        actix_rt::spawn(async move {
            let directory = Arc::new(Directory::new(1_000));
            loop {
                let (strangers, config) = (UnknownLister::default(), GateConfig::default());
                let gate =
                    Gate::open(Arc::clone(&log), Arc::clone(&store) as _, Arc::clone(&directory), strangers, config);
                if let Ok(gate) = gate.await {
                    *opened.borrow_mut() = Some(Rc::new(gate));
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Rc::new(Self { process, devices, targets, gate, assignments, lost: RefCell::default() })
    }

    /// Tells it what it lost; always before it is given anything again.
    pub fn tell_lost(&self) {
        let partitions = std::mem::take(&mut *self.lost.borrow_mut());
        if !partitions.is_empty() {
            let _ = self.assignments.send(Assignment::Lost(partitions));
        }
    }

    pub fn is_on(&self) -> bool {
        self.process.power() == Power::On
    }
}

/// What the engine does with assignments.
async fn follow_assignments(
    process: Arc<Process>,
    mut told: mpsc::UnboundedReceiver<Assignment>,
    devices: DeviceStage,
    targets: TargetStageHandle,
) {
    while let Some(assignment) = told.recv().await {
        process.runs().await;
        match assignment {
            Assignment::Assigned(partitions) => {
                let _ = targets.assign(&partitions).await.and(devices.assign(&partitions).await);
            }
            Assignment::Revoked { partitions, done } => {
                let _ = devices.revoke(&partitions).await & targets.revoke(&partitions).await;
                process.runs().await;
                drop(done);
            }
            Assignment::Lost(partitions) => {
                targets.lose(&partitions).await;
                devices.lose(&partitions).await;
            }
        }
    }
}
