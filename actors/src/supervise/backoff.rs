//! How long to wait before the next try, and how many tries are normal. Pure: no clock, no randomness of its own.

use std::collections::VecDeque;
use std::time::Duration;

/// Doubling waits between `base` and `max`, with jitter over the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait before try number `num_failures` (1: after the first failure). `jitter` is uniform in `0.0..1.0`.
    pub fn delay(&self, num_failures: u32, jitter: f64) -> Duration {
        assert!((0.0..1.0).contains(&jitter), "jitter {jitter} is not in 0.0..1.0");
        let doublings = num_failures.saturating_sub(1).min(31);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(0.5 + jitter / 2.0)
    }

    /// [`Backoff::delay`] with this thread's random numbers.
    pub fn random_delay(&self, num_failures: u32) -> Duration {
        self.delay(num_failures, uniform())
    }
}

fn uniform() -> f64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(uniform) = crate::testing::seeded::uniform() {
        return uniform;
    }
    rand::random_range(0.0..1.0)
}

/// At most `num_max` restarts within `period` are normal; more is an alarm.
#[derive(Clone, Debug)]
pub struct RestartBudget {
    num_max: usize,
    period: Duration,
    restarts_at: VecDeque<Duration>,
}

impl RestartBudget {
    /// A budget that is untouched.
    pub fn new(num_max: usize, period: Duration) -> Self {
        Self { num_max, period, restarts_at: VecDeque::with_capacity(num_max + 1) }
    }

    /// Counts a restart at `now` (since any fixed instant); `false` when the budget is used up.
    pub fn take(&mut self, now: Duration) -> bool {
        while self.restarts_at.front().is_some_and(|at| now.saturating_sub(*at) >= self.period) {
            self.restarts_at.pop_front();
        }
        self.restarts_at.push_back(now);
        if self.restarts_at.len() > self.num_max {
            self.restarts_at.pop_front();
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(30) };

    proptest! {
        #[test]
        fn a_delay_lies_between_half_the_base_and_the_maximum(num_failures in 0u32.., jitter in 0.0f64..1.0) {
            let delay = BACKOFF.delay(num_failures, jitter);
            prop_assert!(delay >= BACKOFF.base / 2 && delay <= BACKOFF.max);
        }
    }

    #[test]
    fn delays_double_until_the_maximum() {
        let delays: Vec<u128> = [1, 2, 3, 20].map(|n| BACKOFF.delay(n, 0.999_999).as_millis()).to_vec();
        assert_eq!(delays, [99, 199, 399, 29_999]);
    }

    #[test]
    fn a_budget_refills_as_restarts_grow_old() {
        let mut budget = RestartBudget::new(2, Duration::from_secs(60));
        assert!(budget.take(Duration::from_secs(0)));
        assert!(budget.take(Duration::from_secs(1)));
        assert!(!budget.take(Duration::from_secs(2)));
        assert!(budget.take(Duration::from_secs(70)));
    }
}
