//! Throttling of log-ins: per address, per account and address together, and per account wherever it is tried from. Limits: 60 at once
//! and one per second per address; 10 at once and one per 6 s per account from one address; 100 at once and one per 30 s per account from
//! addresses that it did not log in from lately. So guessing from many addresses is slowed too, and a stranger who guesses at an account
//! does not lock its owner out where he usually is. Of an IPv6 address the first 64 bits count: the rest is its holder's to choose.
//!
//! Counted in this process's memory always, and over all nodes where they share limits: the stricter of both holds. While the shared
//! limits do not answer, this node throttles alone.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use sluse_schema::port::{Bucket, SharedLimits};

/// Every so many attempts the forgotten keys are cleared away.
const SWEEP_EVERY: u32 = 1024;
/// Longest account name that is told apart.
const ACCOUNT_BYTES_MAX: usize = 128;

/// A limit: one place comes back per interval, so many are there at once.
#[derive(Clone, Copy, Debug)]
struct Limit {
    interval: Duration,
    burst: u32,
}

const PER_ADDRESS: Limit = Limit { interval: Duration::from_secs(1), burst: 60 };
const PER_ACCOUNT: Limit = Limit { interval: Duration::from_secs(6), burst: 10 };
const PER_ACCOUNT_ANYWHERE: Limit = Limit { interval: Duration::from_secs(30), burst: 100 };
/// Accounts with the addresses that they logged in from lately, on this node.
const NUM_KNOWN_MAX: usize = 10_000;
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

impl Limit {
    fn quota(self) -> Quota {
        let burst = NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN);
        Quota::with_period(self.interval).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
    }

    fn bucket(self, key: String) -> Bucket {
        Bucket { key, interval: self.interval, burst: self.burst }
    }
}

/// An account tried from an address.
type Pair = (Option<IpAddr>, String);

/// The part of an address that its holder did not choose himself.
pub fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn pair(address: Option<IpAddr>, account: &str) -> Pair {
    (address.map(holder), sluse_schema::text::cut(account, ACCOUNT_BYTES_MAX).to_lowercase())
}

/// Counts attempts.
#[derive(Debug)]
pub struct LogInThrottle {
    by_address: DefaultKeyedRateLimiter<Option<IpAddr>>,
    by_account: DefaultKeyedRateLimiter<Pair>,
    anywhere: DefaultKeyedRateLimiter<String>,
    known: Cache<Pair, Instant>,
    num_attempts: AtomicU32,
    shared: Option<Arc<dyn SharedLimits>>,
}

impl LogInThrottle {
    /// With the limits above, counted over all nodes where `shared` is given.
    pub fn new(shared: Option<Arc<dyn SharedLimits>>) -> Self {
        Self {
            by_address: RateLimiter::keyed(PER_ADDRESS.quota()),
            by_account: RateLimiter::keyed(PER_ACCOUNT.quota()),
            anywhere: RateLimiter::keyed(PER_ACCOUNT_ANYWHERE.quota()),
            known: Cache::new(NUM_KNOWN_MAX),
            num_attempts: AtomicU32::new(0),
            shared,
        }
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// The seconds to wait, when there were too many.
    pub async fn attempt(&self, address: Option<IpAddr>, account: &str) -> Result<(), u64> {
        let pair = pair(address, account);
        let is_known = self.known.get(&pair).is_some_and(|since| since.elapsed() < KNOWN_FOR);
        let seconds = |wait: Duration| wait.as_secs() + 1;
        self.attempt_here(&pair, is_known).map_err(seconds)?;
        let Some(shared) = &self.shared else { return Ok(()) };
        let (address, account) = &pair;
        let from = address.map_or_else(|| "?".to_owned(), |a| a.to_string());
        let mut buckets = vec![
            PER_ADDRESS.bucket(format!("log-in from {from}")),
            PER_ACCOUNT.bucket(format!("log-in from {from} as {account}")),
        ];
        if !is_known {
            buckets.push(PER_ACCOUNT_ANYWHERE.bucket(format!("log-in as {account}")));
        }
        shared.attempt(&buckets).await.unwrap_or(Ok(())).map_err(seconds)
    }

    /// Somebody logged in: strangers who guess at his account do not slow him down here.
    pub fn succeeded(&self, address: Option<IpAddr>, account: &str) {
        self.known.insert(pair(address, account), Instant::now());
    }

    fn attempt_here(&self, pair: &Pair, is_known: bool) -> Result<(), Duration> {
        if self.num_attempts.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.by_address.retain_recent();
            self.by_account.retain_recent();
            self.anywhere.retain_recent();
        }
        let now = DefaultClock::default().now();
        self.by_address.check_key(&pair.0).map_err(|e| e.wait_time_from(now))?;
        self.by_account.check_key(pair).map_err(|e| e.wait_time_from(now))?;
        if is_known {
            return Ok(());
        }
        self.anywhere.check_key(&pair.1).map_err(|e| e.wait_time_from(now))
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use sluse_schema::port::Taken;

    use super::*;

    /// Other nodes that have used up everything.
    #[derive(Debug)]
    struct UsedUp;

    #[async_trait]
    impl SharedLimits for UsedUp {
        async fn attempt(&self, buckets: &[Bucket]) -> Option<Result<(), Duration>> {
            assert_eq!(buckets[1].key, "log-in from 192.0.2.1 as rita@example.org");
            Some(Err(Duration::from_millis(2500)))
        }

        async fn add(&self, _: &[Taken]) -> Option<Vec<Duration>> {
            None
        }
    }

    #[actix_web::test]
    async fn guessing_is_slowed_without_locking_the_owner_out_elsewhere() {
        let throttle = LogInThrottle::new(None);
        let (guesser, owner) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
        let mut num_let_through = 0;
        for _ in 0..40 {
            num_let_through += u32::from(throttle.attempt(guesser, "Rita@example.org").await.is_ok());
        }
        assert_eq!(num_let_through, 10);
        assert!(throttle.attempt(guesser, "rita@example.org").await.is_err_and(|wait_s| wait_s >= 1));
        assert!(throttle.attempt(owner, "rita@example.org").await.is_ok());
    }

    #[actix_web::test]
    async fn guessing_from_many_addresses_is_slowed_and_the_owner_gets_in_where_he_was_before() {
        let throttle = LogInThrottle::new(None);
        let home = Some("2001:db8:1:2::7".parse().unwrap());
        throttle.succeeded(home, "rita@example.org");
        let mut num_let_through = 0;
        for i in 0..400_u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + i).into();
            num_let_through += u32::from(throttle.attempt(Some(address), "RITA@example.org").await.is_ok());
        }
        assert_eq!(num_let_through, 100);
        assert!(throttle.attempt(home, "rita@example.org").await.is_ok());
        assert!(throttle.attempt(home, "carl@example.org").await.is_ok());
    }

    #[actix_web::test]
    async fn an_ipv6_holder_is_one_however_many_addresses_he_takes() {
        let throttle = LogInThrottle::new(None);
        let mut num_let_through = 0;
        for i in 0..40_u32 {
            let address = format!("2001:db8::{i:x}:1").parse().unwrap();
            num_let_through += u32::from(throttle.attempt(Some(address), "rita@example.org").await.is_ok());
        }
        assert_eq!(num_let_through, 10);
        assert_eq!(holder("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[actix_web::test]
    async fn attempts_on_other_nodes_count() {
        let throttle = LogInThrottle::new(Some(Arc::new(UsedUp)));
        assert_eq!(throttle.attempt(Some("192.0.2.1".parse().unwrap()), "Rita@example.org").await, Err(3));
    }
}
