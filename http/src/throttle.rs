//! Throttling of log-ins, in memory: per address, and per account and address together, so that a stranger who guesses at an
//! account does not lock its owner out. Limits: 60 at once and one per second per address; 10 at once and one per 6 s per account
//! from one address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Every so many attempts the forgotten keys are cleared away.
const SWEEP_EVERY: u32 = 1024;

/// Counts attempts.
#[derive(Debug)]
pub struct LogInThrottle {
    by_address: DefaultKeyedRateLimiter<Option<IpAddr>>,
    by_account: DefaultKeyedRateLimiter<(Option<IpAddr>, String)>,
    num_attempts: AtomicU32,
}

const fn burst(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

impl LogInThrottle {
    /// With the limits above.
    pub fn new() -> Self {
        let quota = |period_s, n| {
            Quota::with_period(Duration::from_secs(period_s))
                .unwrap_or(Quota::per_second(burst(1)))
                .allow_burst(burst(n))
        };
        Self {
            by_address: RateLimiter::keyed(quota(1, 60)),
            by_account: RateLimiter::keyed(quota(6, 10)),
            num_attempts: AtomicU32::new(0),
        }
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// The seconds to wait, when there were too many.
    pub fn attempt(&self, address: Option<IpAddr>, account: &str) -> Result<(), u64> {
        if self.num_attempts.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.by_address.retain_recent();
            self.by_account.retain_recent();
        }
        let now = DefaultClock::default().now();
        let seconds = |wait: Duration| wait.as_secs() + 1;
        self.by_address.check_key(&address).map_err(|e| seconds(e.wait_time_from(now)))?;
        let account = sluse_schema::text::cut(account, 128).to_lowercase();
        self.by_account.check_key(&(address, account)).map_err(|e| seconds(e.wait_time_from(now)))
    }
}

impl Default for LogInThrottle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_without_locking_the_owner_out_elsewhere() {
        let throttle = LogInThrottle::new();
        let (guesser, owner) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
        let num_let_through = (0..40).filter(|_| throttle.attempt(guesser, "Rita@example.org").is_ok()).count();
        assert_eq!(num_let_through, 10);
        assert!(throttle.attempt(guesser, "rita@example.org").is_err_and(|wait_s| wait_s >= 1));
        assert!(throttle.attempt(owner, "rita@example.org").is_ok());
    }
}
