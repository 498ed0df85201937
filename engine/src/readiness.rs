//! Readiness: each thing this node needs, by name. Every answer comes within [`ANSWER_WITHIN`], whatever the thing does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::port::{ChangeFeed, Log, Readiness};

use crate::redis::Redis;
use crate::source::SessionHealth;
use crate::store::Store;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Readiness of this node.
#[derive(Debug)]
pub struct NodeReadiness {
    store: Arc<Store>,
    log: Arc<dyn Log>,
    chirpstack: Option<SessionHealth>,
    redis: Option<Arc<Redis>>,
}

impl NodeReadiness {
    /// Asks these. ChirpStack's broker and Redis only when there is one.
    pub fn new(
        store: Arc<Store>,
        log: Arc<dyn Log>,
        chirpstack: Option<SessionHealth>,
        redis: Option<Arc<Redis>>,
    ) -> Self {
        Self { store, log, chirpstack, redis }
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
        answers
    }

    fn degraded(&self) -> Vec<(String, String)> {
        let redis = self.redis.as_ref().and_then(|redis| redis.trouble());
        redis.map(|trouble| ("redis".to_owned(), trouble)).into_iter().collect()
    }
}
