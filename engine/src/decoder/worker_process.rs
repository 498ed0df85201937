//! Keeps one worker process going: starts it, starts it again when it ended, and goes on until the pool stops. What happens
//! within one process's life is in `session.rs`, what travels in `traffic.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tracing::error;

use super::config::DecoderConfig;
use super::metrics as names;
use super::session::{End, Session};
use super::waiting::Waiting;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Drives one worker for as long as the pool lives.
pub(super) struct Driver {
    pub index: usize,
    pub config: Arc<DecoderConfig>,
    pub waiting: Arc<Waiting>,
    /// Process id of the worker, 0 while there is none.
    pub pid: Arc<AtomicU32>,
}

impl Driver {
    /// Drives until the pool stops, whatever happens: a panic here would leave every decode of this worker unanswered.
    pub(super) async fn run(self) {
        while AssertUnwindSafe(self.drive()).catch_unwind().await.is_err() {
            error!(worker = self.index, "the driver of a decoder worker panicked: it goes on with a new worker");
            tokio::time::sleep(BACKOFF_MIN).await;
        }
        self.pid.store(0, Ordering::Relaxed);
    }

    /// Starts workers, one after the other, until the pool stops.
    async fn drive(&self) {
        let meters = Meters::new(self.index);
        let mut backoff = BACKOFF_MIN;
        while !(self.is_stopping() && self.waiting.lock().queue.is_empty()) {
            counter!(names::STARTS).increment(1);
            match Session::start(self, &meters).await {
                Ok(mut session) => {
                    let end = session.serve().await;
                    if session.num_answered > 0 {
                        backoff = BACKOFF_MIN;
                    }
                    if matches!(end, End::Stopped) {
                        session.close();
                        break;
                    }
                    session.bury(&end);
                    if session.num_answered > 0 {
                        continue;
                    }
                }
                Err(reason) => error!(
                    worker = self.index,
                    reason, "cannot start a decoder worker: nothing is decoded until that works, and it is tried again"
                ),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.until_stopping() => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
            if self.is_stopping() {
                break;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.waiting.lock().is_stopping
    }

    async fn until_stopping(&self) {
        while !self.is_stopping() {
            self.waiting.changed.notified().await;
        }
    }
}

/// Handles of the metrics that every message touches.
pub(super) struct Meters {
    pub(super) decode: Histogram,
    pub(super) wait: Histogram,
    pub(super) batch: Histogram,
    pub(super) values: Counter,
    pub(super) nothings: Counter,
    pub(super) warnings: Counter,
    pub(super) compiled: Counter,
    pub(super) from_image: Counter,
    pub(super) top_level: Counter,
    pub(super) queue: Gauge,
    pub(super) cached: Gauge,
}

impl Meters {
    fn new(index: usize) -> Self {
        let worker = index.to_string();
        Self {
            decode: histogram!(names::DECODE_SECONDS),
            wait: histogram!(names::WAIT_SECONDS),
            batch: histogram!(names::BATCH_JOBS),
            values: counter!(names::DECODED, "outcome" => "value"),
            nothings: counter!(names::DECODED, "outcome" => "nothing"),
            warnings: counter!(names::WARNINGS),
            compiled: counter!(names::COMPILED),
            from_image: counter!(names::RUNS, "start" => "image"),
            top_level: counter!(names::RUNS, "start" => "top_level"),
            queue: gauge!(names::QUEUE, "worker" => worker.clone()),
            cached: gauge!(names::CACHED, "worker" => worker),
        }
    }
}
