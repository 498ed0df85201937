//! What the target stage is started with: limits, ports, time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sluse_schema::port::{Decoder, Log, SenderFactory, TargetStore};
use tokio::time::Instant;

use super::input::{Bounds, Now};

/// Limits of the target stage. The defaults are meant for production.
#[derive(Clone, Copy, Debug)]
pub struct TargetStageConfig {
    /// Records of all live targets of one partition in memory, and their bytes; one target gets a quarter of each, at most.
    pub window_records: usize,
    pub window_bytes: usize,
    /// One read of the consumer, at most.
    pub read_records_max: usize,
    pub read_bytes_max: usize,
    /// Cursors are written this often …
    pub flush_every: Duration,
    /// … or after this many outcomes.
    pub flush_outcomes: usize,
    /// Dead letters kept while the database is away; beyond them nothing ends as one (I4).
    pub dead_letters_max: usize,
    pub dead_letter_bytes_max: usize,
    /// How long what is in flight may take when a partition is revoked.
    pub revoke_within: Duration,
    /// A live target whose oldest record, retries aside, is unfinished for this long becomes lagging.
    pub lag_after: Duration,
}

impl Default for TargetStageConfig {
    fn default() -> Self {
        Self {
            window_records: 8_192,
            window_bytes: 16 << 20,
            read_records_max: 1_000,
            read_bytes_max: 4 << 20,
            flush_every: Duration::from_secs(1),
            flush_outcomes: 1_000,
            dead_letters_max: 10_000,
            dead_letter_bytes_max: 64 << 20,
            revoke_within: Duration::from_secs(5),
            lag_after: Duration::from_secs(2),
        }
    }
}

impl TargetStageConfig {
    /// The bounds of one target.
    pub fn bounds(&self) -> Bounds {
        let num_loaded_max = (self.window_records / 4).max(1);
        Bounds {
            num_holes_max: num_loaded_max,
            num_loaded_max,
            num_lagging_max: num_loaded_max.min(512),
            num_bytes_max: (self.window_bytes / 4).max(1),
            lag_after_ms: self.lag_after.as_millis() as i64,
        }
    }
}

/// Everything outside that the stage needs.
#[derive(Clone, Debug)]
pub struct TargetPorts {
    pub log: Arc<dyn Log>,
    pub store: Arc<dyn TargetStore>,
    pub senders: Arc<dyn SenderFactory>,
    pub decoder: Arc<dyn Decoder>,
    pub clock: Clock,
}

/// The two clocks of [`Now`]: tokio's, which tests pause, and the wall's.
#[derive(Clone)]
pub struct Clock {
    origin: Instant,
    unix_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self { origin: Instant::now(), unix_ms: Arc::new(crate::clock::now_ms) }
    }

    /// For tests: a wall clock that starts at `unix_ms` and follows tokio's clock, paused or not.
    pub fn following_tokio(unix_ms: i64) -> Self {
        let origin = Instant::now();
        Self { origin, unix_ms: Arc::new(move || unix_ms + origin.elapsed().as_millis() as i64) }
    }

    /// Now, by both.
    pub fn now(&self) -> Now {
        Now { at_ms: self.origin.elapsed().as_millis() as i64, unix_ms: (self.unix_ms)() }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
