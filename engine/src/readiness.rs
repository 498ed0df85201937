//! Readiness: each thing this node needs, by name. Every answer comes within [`ANSWER_WITHIN`], whatever the thing does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::port::{ChangeFeed, Log, Readiness};

use crate::decoder::DecoderPool;
use crate::redis::Redis;
use crate::source::SessionHealth;
use crate::store::Store;

const REDIS: &str = "redis";
const DECODERS: &str = "decoders";
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Readiness of this node.
#[derive(Debug)]
pub struct NodeReadiness {
    store: Arc<Store>,
    log: Arc<dyn Log>,
    chirpstack: Option<SessionHealth>,
    redis: Option<Arc<Redis>>,
    decoder: Arc<DecoderPool>,
}

impl NodeReadiness {
    /// Asks these. ChirpStack's broker and Redis only when there is one.
    pub fn new(
        store: Arc<Store>,
        log: Arc<dyn Log>,
        chirpstack: Option<SessionHealth>,
        redis: Option<Arc<Redis>>,
        decoder: Arc<DecoderPool>,
    ) -> Self {
        Self { store, log, chirpstack, redis, decoder }
    }
}

async fn within(answer: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

#[async_trait]
impl Readiness for NodeReadiness {
    async fn check(&self) -> Vec<(String, Result<(), String>)> {
        let database = within(async { self.store.newest_change().await.map(drop).map_err(|e| e.to_string()) });
        let log = within(async { self.log.health().await.map_err(|e| e.to_string()) });
        let (database, log) = tokio::join!(database, log);
        let mut answers = vec![("database".to_owned(), database), ("log".to_owned(), log)];
        if let Some(source) = &self.chirpstack {
            let answer = match source.get() {
                Some(health) if !health.is_connected => Err(health.message),
                // Connected, or another node's to hold.
                _ => Ok(()),
            };
            answers.push(("chirpstack_mqtt".to_owned(), answer));
        }
        // These are named here only while they are well: what they lack makes no node useless.
        let degraded = self.degraded();
        let is_well = |name: &str| degraded.iter().all(|(of, _)| of != name);
        answers.extend(self.redis.iter().filter(|_| is_well(REDIS)).map(|_| (REDIS.to_owned(), Ok(()))));
        answers.extend(is_well(DECODERS).then(|| (DECODERS.to_owned(), Ok(()))));
        answers
    }

    fn degraded(&self) -> Vec<(String, String)> {
        let redis = self.redis.as_ref().and_then(|redis| redis.trouble());
        let mut degraded: Vec<(String, String)> =
            redis.map(|trouble| (REDIS.to_owned(), trouble)).into_iter().collect();
        let pids = self.decoder.worker_pids();
        let num_down = pids.iter().filter(|pid| **pid == 0).count();
        if num_down > 0 {
            let text = format!(
                "{num_down} of {} worker processes are being started; their decoders' devices wait",
                pids.len()
            );
            degraded.push((DECODERS.to_owned(), text));
        }
        let failing = sluse_actors::supervise::failing();
        if !failing.is_empty() {
            let text = format!("{} fail again and again and are made anew every 30 s: see the log", failing.join(", "));
            degraded.push(("actors".to_owned(), text));
        }
        degraded
    }
}
