//! The limit at the entrance: how often one sender may be heard, by the key that names it (a devEUI, an API key).
//!
//! Each node decides by itself, at once, in memory; several nodes tell each other in batches, every [`EXCHANGE_EVERY`], what they let
//! in. So the hot path never waits for another machine, and what nodes let through together may exceed the limit by what arrives
//! elsewhere within one exchange: a limit against floods, not a quota. Without shared limits, or while they are away, every node
//! limits alone.
//!
//! A sender over its limit loses nothing that it was told is accepted: HTTP answers 429 with Retry-After, what comes by MQTT is only
//! counted. Memory: about 100 bytes per sender heard within the last burst.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluse_schema::id::DeviceKey;
use sluse_schema::port::{SharedLimits, Taken};
use tokio::time::{Instant, sleep};

/// How often nodes tell each other.
pub const EXCHANGE_EVERY: Duration = Duration::from_millis(250);
/// Exchanges between two looks for senders that can be forgotten.
const NUM_EXCHANGES_PER_SWEEP: u32 = 40;
/// Senders per call.
const NUM_TAKEN_MAX: usize = 500;
/// Locks, so that workers do not wait for each other.
const NUM_SHARDS: usize = 16;

/// How often a sender may be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// One place comes back after so long.
    pub interval: Duration,
    /// Places at once.
    pub burst: u32,
}

/// A leaky bucket by the time at which it will be empty (GCRA). Times are microseconds of one clock. Pure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeakyBucket {
    empty_at_us: u64,
}

impl LeakyBucket {
    /// Takes a place.
    ///
    /// # Errors
    /// The microseconds until there is one.
    pub fn take(&mut self, now_us: u64, interval_us: u64, burst: u32) -> Result<(), u64> {
        let filled_to = self.empty_at_us.max(now_us) + interval_us;
        let may_reach = now_us + interval_us * u64::from(burst);
        if filled_to > may_reach {
            return Err(filled_to - may_reach);
        }
        self.empty_at_us = filled_to;
        Ok(())
    }

    /// Whether it is as good as new.
    pub const fn is_empty(&self, now_us: u64) -> bool {
        self.empty_at_us <= now_us
    }
}

#[derive(Debug, Default)]
struct Sender {
    bucket: LeakyBucket,
    /// Taken here and not yet told to the others.
    num_untold: u32,
}

type Shard = Mutex<HashMap<DeviceKey, Sender>>;

/// The limits of this node's senders.
#[derive(Debug)]
pub struct EntranceLimit {
    interval_us: u64,
    config: LimitConfig,
    shards: Box<[Shard]>,
    began_at: Instant,
    shared: Option<Arc<dyn SharedLimits>>,
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<DeviceKey, Sender>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl EntranceLimit {
    /// Limits of this node, shared where there is somebody to share them with.
    pub fn new(config: LimitConfig, shared: Option<Arc<dyn SharedLimits>>) -> Self {
        let shards = (0..NUM_SHARDS).map(|_| Shard::default()).collect();
        Self { interval_us: micros(config.interval).max(1), config, shards, began_at: Instant::now(), shared }
    }

    fn now_us(&self) -> u64 {
        micros(self.began_at.elapsed())
    }

    fn shard(&self, sender: &DeviceKey) -> &Shard {
        let mut hasher = DefaultHasher::new();
        sender.hash(&mut hasher);
        &self.shards[hasher.finish() as usize % NUM_SHARDS]
    }

    /// Lets a sender in once.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn admit(&self, sender: &DeviceKey) -> Result<(), Duration> {
        let now_us = self.now_us();
        let mut senders = lock(self.shard(sender));
        if !senders.contains_key(sender) {
            senders.insert(sender.clone(), Sender::default());
        }
        let Some(known) = senders.get_mut(sender) else { return Ok(()) };
        known.bucket.take(now_us, self.interval_us, self.config.burst).map_err(Duration::from_micros)?;
        known.num_untold = known.num_untold.saturating_add(u32::from(self.shared.is_some()));
        Ok(())
    }

    /// Senders that are remembered.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Exchanges with the other nodes and forgets senders that were quiet, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut num_exchanges = 0u32;
        loop {
            sleep(EXCHANGE_EVERY).await;
            self.exchange().await;
            num_exchanges = num_exchanges.wrapping_add(1);
            if num_exchanges.is_multiple_of(NUM_EXCHANGES_PER_SWEEP) {
                self.sweep();
            }
        }
    }

    /// Tells what was let in here, and takes over how full the buckets are everywhere.
    pub async fn exchange(&self) {
        let Some(shared) = &self.shared else { return };
        let (mut keys, mut taken) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            for (key, sender) in lock(shard).iter_mut().filter(|(_, sender)| sender.num_untold > 0) {
                let num = std::mem::take(&mut sender.num_untold);
                taken.push(Taken { key: name_of(key), num, interval: self.config.interval });
                keys.push(key.clone());
            }
        }
        for (keys, taken) in keys.chunks(NUM_TAKEN_MAX).zip(taken.chunks(NUM_TAKEN_MAX)) {
            // No answer: this node's own account stands. What it did not tell is forgotten, not told twice.
            let Some(empty_after) = shared.add(taken).await else { continue };
            let now_us = self.now_us();
            for (key, empty_after) in keys.iter().zip(empty_after) {
                if let Some(sender) = lock(self.shard(key)).get_mut(key) {
                    let untold_us = u64::from(sender.num_untold) * self.interval_us;
                    sender.bucket.empty_at_us = now_us + micros(empty_after) + untold_us;
                }
            }
        }
    }

    fn sweep(&self) {
        let now_us = self.now_us();
        for shard in &self.shards {
            lock(shard).retain(|_, sender| sender.num_untold > 0 || !sender.bucket.is_empty(now_us));
        }
    }
}

/// What other nodes call this sender. An API key is only its hash here.
fn name_of(key: &DeviceKey) -> String {
    match key {
        DeviceKey::DevEui(dev_eui) => format!("e{dev_eui}"),
        DeviceKey::ApiKey(hash) => hash.iter().fold("k".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use proptest::prelude::*;
    use sluse_schema::id::DevEui;
    use sluse_schema::port::Bucket;

    const KEY: DeviceKey = DeviceKey::DevEui(DevEui(1));
    const ONE_PER_SECOND: LimitConfig = LimitConfig { interval: Duration::from_secs(1), burst: 3 };

    /// Another node that took so many before us.
    #[derive(Debug)]
    struct Others {
        empty_after: Duration,
        is_away: bool,
    }

    #[async_trait]
    impl SharedLimits for Others {
        async fn attempt(&self, _: &[Bucket]) -> Option<Result<(), Duration>> {
            None
        }

        async fn add(&self, taken: &[Taken]) -> Option<Vec<Duration>> {
            (!self.is_away).then(|| taken.iter().map(|t| self.empty_after + t.interval * t.num).collect())
        }
    }

    proptest! {
        /// The naive model counts places: they come back one by one.
        #[test]
        fn a_bucket_lets_in_what_a_count_of_places_lets_in(
            steps in proptest::collection::vec((0u64..4_000, 1usize..4), 1..60), burst in 1u32..6
        ) {
            let interval_us = 1_000;
            let mut bucket = LeakyBucket::default();
            let (mut now_us, mut used_us) = (0u64, 0u64);
            for (pause_us, num) in steps {
                now_us += pause_us;
                used_us = used_us.saturating_sub(pause_us);
                for _ in 0..num {
                    let has_room = used_us + interval_us <= u64::from(burst) * interval_us;
                    let taken = bucket.take(now_us, interval_us, burst);
                    prop_assert_eq!(taken.is_ok(), has_room);
                    match taken {
                        Ok(()) => used_us += interval_us,
                        // After exactly that wait there is room, and not a microsecond before.
                        Err(wait_us) => {
                            prop_assert!(wait_us > 0);
                            prop_assert!(bucket.clone().take(now_us + wait_us, interval_us, burst).is_ok());
                            prop_assert!(bucket.clone().take(now_us + wait_us - 1, interval_us, burst).is_err());
                        }
                    }
                }
                prop_assert_eq!(bucket.is_empty(now_us), used_us == 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_sender_is_limited_and_others_are_not() {
        let limit = EntranceLimit::new(ONE_PER_SECOND, None);
        let num_in = (0..10).filter(|_| limit.admit(&KEY).is_ok()).count();
        assert_eq!(num_in, 3);
        assert_eq!(limit.admit(&KEY), Err(Duration::from_secs(1)));
        assert!(limit.admit(&DeviceKey::DevEui(DevEui(2))).is_ok());
        sleep(Duration::from_secs(1)).await;
        assert!(limit.admit(&KEY).is_ok());
        sleep(Duration::from_secs(10)).await;
        limit.sweep();
        assert!(limit.is_empty(), "who was quiet costs nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_let_in_counts_after_the_exchange() {
        let others = Others { empty_after: Duration::from_secs(2), is_away: false };
        let limit = EntranceLimit::new(ONE_PER_SECOND, Some(Arc::new(others)));
        assert!(limit.admit(&KEY).is_ok());
        limit.exchange().await;
        assert!(limit.admit(&KEY).is_err(), "two elsewhere and one here are three");
    }

    #[tokio::test(start_paused = true)]
    async fn alone_the_own_account_stands() {
        let others = Others { empty_after: Duration::ZERO, is_away: true };
        let limit = EntranceLimit::new(ONE_PER_SECOND, Some(Arc::new(others)));
        for _ in 0..3 {
            assert!(limit.admit(&KEY).is_ok());
            limit.exchange().await;
        }
        assert!(limit.admit(&KEY).is_err());
    }

    #[test]
    fn names_tell_senders_apart() {
        assert_eq!(name_of(&KEY), "e0000000000000001");
        assert_eq!(name_of(&DeviceKey::ApiKey([0xab; 32])), format!("k{}", "ab".repeat(32)));
    }
}
