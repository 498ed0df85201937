//! Jobs on their way to one worker: the queue, and each decoder's health, under one lock between callers and the worker's driver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sluse_schema::device::DecoderScript;
use sluse_schema::id::DecoderId;
use sluse_schema::port::{DecodeError, DecodeErrorKind, DecodeJob, Decoded};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::quarantine::{Health, QuarantineConfig, Refusal};
use super::queue::FairQueue;

/// Decoders whose places are remembered although they have no job.
const NUM_IDLE_MAX: usize = 8_192;

/// A job with its caller.
pub(super) struct Job {
    pub job: DecodeJob,
    pub answer: oneshot::Sender<Result<Decoded, DecodeError>>,
    pub queued_at: Instant,
    /// Its place in the decoder's bounded queue.
    pub _place: OwnedSemaphorePermit,
}

impl Job {
    pub(super) fn decoder(&self) -> DecoderId {
        self.job.script.id
    }
}

/// What callers and driver share.
#[derive(Default)]
pub(super) struct State {
    pub queue: FairQueue<Job>,
    /// By decoder, with the version it belongs to: an edited script starts with a clean record.
    health: HashMap<i64, (u64, Health)>,
    places: HashMap<i64, Arc<Semaphore>>,
    /// Decoders that the worker is to forget.
    pub to_forget: Vec<i64>,
    pub is_stopping: bool,
    pub wants_self_check: Vec<oneshot::Sender<String>>,
}

impl State {
    pub(super) fn health(&mut self, script: &DecoderScript) -> &mut Health {
        let entry = self.health.entry(script.id.0).or_default();
        if entry.0 != script.version {
            *entry = (script.version, Health::default());
        }
        &mut entry.1
    }

    fn places(&mut self, decoder: i64, num_max: usize) -> Arc<Semaphore> {
        if self.places.len() > NUM_IDLE_MAX {
            self.places.retain(|_, places| Arc::strong_count(places) > 1);
            self.health.retain(|_, (_, health)| !health.is_clean());
        }
        self.places.entry(decoder).or_insert_with(|| Arc::new(Semaphore::new(num_max))).clone()
    }
}

/// One worker's waiting room.
pub(super) struct Waiting {
    state: Mutex<State>,
    /// Something was queued, or is to be forgotten, or the pool stops.
    pub changed: Notify,
    started_at: Instant,
    num_waiting_max: usize,
    quarantine: QuarantineConfig,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("num_jobs", &self.lock().queue.len()).finish_non_exhaustive()
    }
}

impl Waiting {
    pub(super) fn new(num_waiting_max: usize, quarantine: QuarantineConfig) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            started_at: Instant::now(),
            num_waiting_max: num_waiting_max.clamp(1, Semaphore::MAX_PERMITS),
            quarantine,
        }
    }

    /// The shared state. A panic elsewhere left it whole: every change is a single step.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.started_at.elapsed().as_millis() as i64
    }

    /// Whether this decoder may be tried now, as an error if not.
    pub(super) fn check(&self, state: &mut State, script: &DecoderScript) -> Result<(), DecodeError> {
        let now_ms = self.now_ms();
        state.health(script).check(&self.quarantine, now_ms).map_err(|refusal| {
            let message = match refusal {
                Refusal::Quarantined { until_ms } => format!(
                    "the decoder is quarantined for another {} s, because it got its worker killed too often; \
                     it is tried again then, or when it was edited",
                    (until_ms - now_ms + 999) / 1_000
                ),
                Refusal::OverBudget => "the decoder is over its share of time, because its messages take too long; \
                                        it is tried again within seconds"
                    .to_owned(),
            };
            DecodeError { kind: DecodeErrorKind::Quarantined, message }
        })
    }

    /// Notes what a message took.
    pub(super) fn took(&self, state: &mut State, script: &DecoderScript, us: u32) {
        state.queue.took(script.id.0, us);
        let now_ms = self.now_ms();
        state.health(script).took(&self.quarantine, now_ms, u64::from(us));
    }

    /// Notes that a message got the worker killed; says whether the decoder is quarantined now.
    pub(super) fn killed(&self, state: &mut State, script: &DecoderScript) -> bool {
        let now_ms = self.now_ms();
        state.health(script).killed(&self.quarantine, now_ms)
    }

    /// Queues a job, waiting for a place when the decoder has too many in the queue, and waits for its answer.
    pub(super) async fn decode(&self, job: DecodeJob) -> Result<Decoded, DecodeError> {
        let places = {
            let mut state = self.lock();
            self.check(&mut state, &job.script)?;
            state.places(job.script.id.0, self.num_waiting_max)
        };
        let Ok(place) = places.acquire_owned().await else {
            // Never closed; treated like a stopped pool.
            return std::future::pending().await;
        };
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.lock();
            if !state.is_stopping {
                let decoder = job.script.id.0;
                state.queue.push(decoder, Job { job, answer, queued_at: Instant::now(), _place: place });
            }
        }
        self.changed.notify_one();
        match answered.await {
            Ok(result) => result,
            // The pool stopped first. The record is not committed then, and is decoded again after the restart: an error here
            // would make a dead letter of a message that nothing is wrong with.
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn forget(&self, decoder: DecoderId) {
        let mut state = self.lock();
        state.health.remove(&decoder.0);
        state.queue.forget(decoder.0);
        state.to_forget.push(decoder.0);
        drop(state);
        self.changed.notify_one();
    }
}
