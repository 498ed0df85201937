//! Moments that several parts of a node share, so that what costs the same for one record and for fifty (a wake, a request, a frame, a
//! step, a sync) is paid once per moment and not once per record. Pure.
//!
//! Decided here: when the moments are. Who waits for one and who does not is decided by those who use it.

use std::time::{Duration, Instant};

/// Moments that lie `interval` apart, the same for all who hold a copy.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    start: Instant,
    interval: Duration,
}

impl Beat {
    /// Moments counted from `start`. An interval of zero is no wait at all.
    pub fn new(start: Instant, interval: Duration) -> Self {
        Self { start, interval }
    }

    /// The first moment after `now`.
    pub fn after(&self, now: Instant) -> Instant {
        let Ok(interval_ns) = u64::try_from(self.interval.as_nanos()) else { return now };
        if let Some(until_start) = self.start.checked_duration_since(now).filter(|until| !until.is_zero()) {
            return now + until_start.min(self.interval);
        }
        let elapsed_ns = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        match elapsed_ns.checked_rem(interval_ns) {
            Some(since_ns) => now + Duration::from_nanos(interval_ns - since_ns),
            None => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whoever_asks_between_two_moments_is_told_the_same_one(interval_ms in 1u64..100, at_us in 0u64..10_000_000, more_us in 0u64..100_000) {
            let beat = Beat::new(Instant::now(), Duration::from_millis(interval_ms));
            let now = beat.start + Duration::from_micros(at_us);
            let next = beat.after(now);
            prop_assert!(next > now && next <= now + beat.interval);
            let offset_ns = (next - beat.start).as_nanos();
            prop_assert_eq!(offset_ns % beat.interval.as_nanos(), 0);
            let later = now + Duration::from_micros(more_us);
            prop_assert_eq!(beat.after(later) == next, later < next);
        }
    }

    #[test]
    fn without_an_interval_nobody_waits() {
        let now = Instant::now();
        assert_eq!(Beat::new(now, Duration::ZERO).after(now), now);
    }

    #[test]
    fn before_the_first_moment_nobody_waits_longer_than_an_interval() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(Beat::new(at(10), Duration::from_millis(40)).after(now), at(10));
        assert_eq!(Beat::new(at(90), Duration::from_millis(40)).after(now), at(40));
    }
}
