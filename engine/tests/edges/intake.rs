//! An intake that remembers what it was handed, can be slow, and can say "later" or "unknown".

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::id::{DeviceId, DeviceKey};
use sluse_schema::port::{Accepted, Arrival, GatewayState, GatewayStore, Intake, RefusedArrival, StoreError};
use sluse_schema::uplink::SourceKind;
use tokio::time::{Instant, sleep};

#[derive(Debug, Default)]
pub struct RecordingIntake {
    /// In the order of acceptance.
    pub accepted: Mutex<Vec<Arrival>>,
    /// What a call takes.
    pub delay: Mutex<Duration>,
    pub is_away: AtomicBool,
    pub num_calls: AtomicUsize,
    pub num_later: AtomicUsize,
    /// Most arrivals that were between hand-over and answer at once.
    pub num_open_max: AtomicUsize,
    num_open: AtomicUsize,
    pub unknown: Mutex<HashSet<DeviceKey>>,
}

impl RecordingIntake {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn slow(delay: Duration) -> Arc<Self> {
        let intake = Self::default();
        *intake.delay.lock().unwrap() = delay;
        Arc::new(intake)
    }

    pub fn num_accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// Waits until `num` arrivals were accepted.
    pub async fn wait_for(&self, num: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.num_accepted() < num {
            assert!(Instant::now() < deadline, "{} of {num} arrivals after 60 s", self.num_accepted());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The event ids of each device in order of acceptance, repeats left out, as the device stage sees them.
    pub fn first_ids_by_device(&self) -> HashMap<DeviceKey, Vec<String>> {
        let mut ids: HashMap<DeviceKey, Vec<String>> = HashMap::new();
        let mut seen = HashSet::new();
        for arrival in self.accepted.lock().unwrap().iter() {
            let id = arrival.event_id.clone().unwrap();
            if seen.insert(id.clone()) {
                ids.entry(arrival.sender.clone()).or_default().push(id);
            }
        }
        ids
    }
}

#[async_trait]
impl Intake for RecordingIntake {
    async fn recognise(&self, _source: SourceKind, sender: &DeviceKey) -> Result<(), RefusedArrival> {
        if self.unknown.lock().unwrap().contains(sender) { Err(RefusedArrival::UnknownSender) } else { Ok(()) }
    }

    async fn accept(&self, arrival: Arrival) -> Result<Accepted, RefusedArrival> {
        self.accept_all(vec![arrival]).await.remove(0)
    }

    async fn accept_all(&self, arrivals: Vec<Arrival>) -> Vec<Result<Accepted, RefusedArrival>> {
        self.num_calls.fetch_add(1, Ordering::SeqCst);
        let num_open = self.num_open.fetch_add(arrivals.len(), Ordering::SeqCst) + arrivals.len();
        self.num_open_max.fetch_max(num_open, Ordering::SeqCst);
        let num_arrivals = arrivals.len();
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let answers = if self.is_away.load(Ordering::SeqCst) {
            self.num_later.fetch_add(arrivals.len(), Ordering::SeqCst);
            let later = RefusedArrival::Later { reason: "the disk is full".into(), retry_after_ms: 300 };
            arrivals.iter().map(|_| Err(later.clone())).collect()
        } else {
            let unknown = self.unknown.lock().unwrap().clone();
            let mut accepted = self.accepted.lock().unwrap();
            arrivals
                .into_iter()
                .map(|arrival| {
                    if unknown.contains(&arrival.sender) {
                        return Err(RefusedArrival::UnknownSender);
                    }
                    accepted.push(arrival);
                    Ok(Accepted { device: DeviceId(1) })
                })
                .collect()
        };
        self.num_open.fetch_sub(num_arrivals, Ordering::SeqCst);
        answers
    }
}

#[derive(Debug, Default)]
pub struct RecordingGateways {
    pub states: Mutex<Vec<GatewayState>>,
    pub is_away: AtomicBool,
}

#[async_trait]
impl GatewayStore for RecordingGateways {
    async fn record_gateway_states(&self, states: &[GatewayState]) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.states.lock().unwrap().extend_from_slice(states);
        Ok(())
    }
}
