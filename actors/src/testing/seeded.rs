//! Time and chance of one thread, for simulations that must run the same way twice: jitter comes from a seed, and the wall clock
//! follows tokio's paused one. Set per thread, and only tests set it.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

thread_local! {
    static SEEDED: RefCell<Option<Seeded>> = const { RefCell::new(None) };
}

struct Seeded {
    rng: StdRng,
    origin: Instant,
    origin_unix_ms: i64,
}

/// While it lives, this thread's jitter comes from its seed and its wall clock follows tokio's.
#[derive(Debug)]
pub struct SeededThread(());

impl SeededThread {
    /// Begins; the wall clock stands at `unix_ms` now. Call it within a runtime whose clock is paused.
    pub fn begin(seed: u64, unix_ms: i64) -> Self {
        let seeded = Seeded { rng: StdRng::seed_from_u64(seed), origin: Instant::now(), origin_unix_ms: unix_ms };
        SEEDED.with(|slot| *slot.borrow_mut() = Some(seeded));
        Self(())
    }
}

impl Drop for SeededThread {
    fn drop(&mut self) {
        SEEDED.with(|slot| slot.borrow_mut().take());
    }
}

/// A number in `0.0..1.0`, if this thread is seeded.
pub(crate) fn uniform() -> Option<f64> {
    SEEDED.with(|slot| slot.borrow_mut().as_mut().map(|seeded| seeded.rng.random_range(0.0..1.0)))
}

/// Unix milliseconds, if this thread is seeded.
pub(crate) fn unix_ms() -> Option<i64> {
    SEEDED.with(|slot| slot.borrow().as_ref().map(|s| s.origin_unix_ms + s.origin.elapsed().as_millis() as i64))
}
