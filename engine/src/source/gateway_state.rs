//! Gateways' connection states on their way to the database: gathered, newest per gateway wins, written in batches behind the
//! data path's back. Nothing waits for them: a state that is lost comes again with the next subscription (it is retained).
//!
//! Limits: [`NUM_WAITING_MAX`] gateways wait at most; full, states of further gateways are dropped and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluse_schema::id::GatewayId;
use sluse_schema::port::{GatewayState, GatewayStore, StoreError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::metrics;

/// Gateways whose state waits, at most (about 40 bytes each).
const NUM_WAITING_MAX: usize = 100_000;
/// States per call of the store.
const BATCH_MAX: usize = 1000;
/// How long states are gathered before they are written: a region's gateways come and go together.
const GATHER: Duration = Duration::from_millis(250);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The newest state of each gateway that is not stored yet. Pure.
#[derive(Debug, Default)]
pub struct NewestStates {
    states: HashMap<GatewayId, GatewayState>,
}

impl NewestStates {
    /// Keeps `state` unless a newer one is there; whether there was room.
    pub fn put(&mut self, state: GatewayState) -> bool {
        if let Some(kept) = self.states.get_mut(&state.gateway) {
            if state.heard_at_ms >= kept.heard_at_ms {
                *kept = state;
            }
            return true;
        }
        if self.states.len() >= NUM_WAITING_MAX {
            return false;
        }
        self.states.insert(state.gateway, state);
        true
    }

    /// Puts back what could not be stored; what was heard meanwhile is newer and wins.
    pub fn put_back(&mut self, states: Vec<GatewayState>) {
        for state in states {
            self.states.entry(state.gateway).or_insert(state);
        }
    }

    /// Takes up to `num_max` states.
    pub fn take(&mut self, num_max: usize) -> Vec<GatewayState> {
        let gateways: Vec<GatewayId> = self.states.keys().copied().take(num_max).collect();
        gateways.iter().filter_map(|gateway| self.states.remove(gateway)).collect()
    }

    /// Gateways whose state waits.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

#[derive(Debug, Default)]
struct Shared {
    newest: Mutex<NewestStates>,
    heard: Notify,
}

impl Shared {
    fn with<R>(&self, act: impl FnOnce(&mut NewestStates) -> R) -> R {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut newest);
        metrics::gateway_states_waiting(newest.len());
        result
    }
}

/// Writes gateways' states to a store, from a task of its own.
#[derive(Debug)]
pub struct GatewayStateWriter {
    shared: Arc<Shared>,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl GatewayStateWriter {
    /// Starts writing to `store`.
    pub fn start(store: Arc<dyn GatewayStore>) -> Self {
        let (shared, stopping) = (Arc::<Shared>::default(), CancellationToken::new());
        let task = tokio::spawn(write(Arc::clone(&shared), store, stopping.clone()));
        Self { shared, stopping, task }
    }

    /// Takes a state to write; never waits.
    pub fn heard(&self, state: GatewayState) {
        let has_room = self.shared.with(|newest| newest.put(state));
        metrics::gateway_states(if has_room { "heard" } else { "dropped" }, 1);
        self.shared.heard.notify_one();
    }

    /// Writes what waits, once, and ends.
    pub async fn stop(self) {
        self.stopping.cancel();
        let _ = self.task.await;
    }
}

async fn write(shared: Arc<Shared>, store: Arc<dyn GatewayStore>, stopping: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let wait = async {
            if shared.with(|newest| newest.is_empty()) {
                shared.heard.notified().await;
            }
            sleep(GATHER).await;
        };
        let is_last = stopping.run_until_cancelled(wait).await.is_none();
        while let Err(error) = write_batch(&shared, store.as_ref()).await {
            if is_last {
                return;
            }
            tracing::debug!(%error, "gateway states wait for the database");
            stopping.run_until_cancelled(sleep(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            if stopping.is_cancelled() {
                break;
            }
        }
        backoff = BACKOFF_MIN;
        if is_last && shared.with(|newest| newest.is_empty()) {
            return;
        }
    }
}

async fn write_batch(shared: &Shared, store: &dyn GatewayStore) -> Result<(), StoreError> {
    let batch = shared.with(|newest| newest.take(BATCH_MAX));
    if batch.is_empty() {
        return Ok(());
    }
    match store.record_gateway_states(&batch).await {
        Ok(()) => {
            metrics::gateway_states("stored", batch.len());
            Ok(())
        }
        Err(error @ StoreError::Unavailable(_)) => {
            shared.with(|newest| newest.put_back(batch));
            Err(error)
        }
        Err(error) => {
            tracing::warn!(%error, num_states = batch.len(), "the database refused gateway states: they are dropped");
            metrics::gateway_states("refused", batch.len());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(gateway: u64, is_online: bool, heard_at_ms: i64) -> GatewayState {
        GatewayState { gateway: GatewayId(gateway), is_online, heard_at_ms }
    }

    #[test]
    fn the_newest_state_of_a_gateway_wins_also_over_what_is_put_back() {
        let mut newest = NewestStates::default();
        newest.put(state(1, true, 10));
        newest.put(state(1, false, 20));
        newest.put(state(1, true, 15));
        let taken = newest.take(10);
        assert_eq!(taken, [state(1, false, 20)]);
        newest.put(state(1, true, 30));
        newest.put_back(taken);
        assert_eq!(newest.take(10), [state(1, true, 30)]);
        assert!(newest.is_empty());
    }

    #[test]
    fn the_number_that_waits_is_bounded() {
        let mut newest = NewestStates::default();
        assert!((0..NUM_WAITING_MAX as u64).all(|gateway| newest.put(state(gateway, true, 1))));
        assert!(!newest.put(state(u64::MAX, true, 1)), "no room for another gateway");
        assert!(newest.put(state(7, false, 2)), "but for one that is there");
    }
}
