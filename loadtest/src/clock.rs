//! The run's clock: microseconds since it was made, and how long the load has been going on. The one place that asks the time.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Shared by everything that takes part in a run.
#[derive(Debug)]
pub struct RunClock {
    made_at: Instant,
    unix_ns_at_made: i64,
    load_began_at: OnceLock<Instant>,
}

impl RunClock {
    /// A clock whose load has not begun.
    pub fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            made_at: Instant::now(),
            unix_ns_at_made: i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX),
            load_began_at: OnceLock::new(),
        }
    }

    /// Microseconds since the clock was made.
    pub fn now_us(&self) -> u64 {
        self.made_at.elapsed().as_micros() as u64
    }

    /// The time of day, Unix nanoseconds, steady over the run.
    pub fn unix_ns(&self) -> i64 {
        self.unix_ns_at_made.saturating_add(i64::try_from(self.made_at.elapsed().as_nanos()).unwrap_or(i64::MAX))
    }

    /// The load begins now (once).
    pub fn begin_load(&self) {
        self.load_began_at.get_or_init(Instant::now);
    }

    /// Time into the load; zero before it.
    pub fn load_elapsed(&self) -> Duration {
        self.load_began_at.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}
