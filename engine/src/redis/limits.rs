//! Leaky buckets over all nodes: a key holds the time, by Redis' clock, at which its bucket will be empty, and ends then by itself.
//!
//! Keys are hashes of what they count: no address, account or API key is in Redis.

use std::time::Duration;

use async_trait::async_trait;
use redis::Script;
use sha2::{Digest as _, Sha256};
use sluse_schema::port::{Bucket, SharedLimits, Taken};

use super::connection::Redis;

/// Takes a place in every bucket or in none; the milliseconds to wait, 0 when they were taken. ARGV: interval ms and burst, in turns.
const ATTEMPT: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local wait, full = 0, {}
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  full[i] = math.max(tonumber(redis.call('GET', key) or 0), now) + interval
  wait = math.max(wait, full[i] - now - interval * burst)
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.0f', full[i]), 'PX', full[i] - now + 1)
end
return 0
";

/// Adds places whatever it overfills, and tells for each bucket the milliseconds until it is empty. ARGV: milliseconds to add.
const ADD: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local after = {}
for i, key in ipairs(KEYS) do
  local full = math.max(tonumber(redis.call('GET', key) or 0), now) + tonumber(ARGV[i])
  redis.call('SET', key, string.format('%.0f', full), 'PX', math.max(math.ceil(full - now), 1))
  after[i] = math.ceil(full - now)
end
return after
";

/// The scripts with their hashes: sent once, then called by hash.
#[derive(Debug)]
pub(super) struct Scripts {
    attempt: Script,
    add: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self { attempt: Script::new(ATTEMPT), add: Script::new(ADD) }
    }
}

fn key_of(prefix: &str, text: &str) -> String {
    format!("{prefix}limit:{}", hex::encode(&Sha256::digest(text.as_bytes())[..16]))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[async_trait]
impl SharedLimits for Redis {
    async fn attempt(&self, buckets: &[Bucket]) -> Option<Result<(), Duration>> {
        let mut script = self.scripts.attempt.prepare_invoke();
        for bucket in buckets {
            script.key(key_of(&self.prefix, &bucket.key)).arg(millis(bucket.interval)).arg(bucket.burst);
        }
        let wait_ms = self.ask("attempt", async |connection| script.invoke_async::<u64>(connection).await).await?;
        Some(if wait_ms == 0 { Ok(()) } else { Err(Duration::from_millis(wait_ms)) })
    }

    async fn add(&self, taken: &[Taken]) -> Option<Vec<Duration>> {
        let mut script = self.scripts.add.prepare_invoke();
        for taken in taken {
            let add_ms = u64::try_from((taken.interval * taken.num).as_millis()).unwrap_or(u64::MAX);
            script.key(key_of(&self.prefix, &taken.key)).arg(add_ms);
        }
        let after_ms = self.ask("add", async |connection| script.invoke_async::<Vec<u64>>(connection).await).await?;
        (after_ms.len() == taken.len()).then(|| after_ms.into_iter().map(Duration::from_millis).collect())
    }
}
