//! When partitions read. All partitions of a node read at the same moments, so that what costs the same for one uplink and for fifty
//! (a wake, a frame to a decoder, a step, a sync) is paid once per moment and not once per uplink and partition.
//!
//! Decided here: the moments. A partition that was idle does not wait for one, and a partition that is behind does not either.

use std::time::Duration;

use tokio::time::Instant;

/// Moments that lie `interval` apart, the same for all who hold a copy.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    start: Instant,
    interval: Duration,
}

impl Beat {
    /// Moments from now on. An interval of zero is no wait at all.
    pub fn every(interval: Duration) -> Self {
        Self { start: Instant::now(), interval }
    }

    /// The first moment after `now`.
    pub fn after(&self, now: Instant) -> Instant {
        let Ok(interval_ns) = u64::try_from(self.interval.as_nanos()) else { return now };
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
            let beat = Beat::every(Duration::from_millis(interval_ms));
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
        let beat = Beat::every(Duration::ZERO);
        let now = Instant::now();
        assert_eq!(beat.after(now), now);
    }
}
