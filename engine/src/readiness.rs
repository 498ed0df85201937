//! Readiness: each thing this node needs, by name. Every answer comes within [`ANSWER_WITHIN`], whatever the thing does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::port::{ChangeFeed, Log, Readiness};

use crate::source::HealthCell;
use crate::store::Store;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Readiness of this node.
#[derive(Debug)]
pub struct NodeReadiness {
    store: Arc<Store>,
    log: Arc<dyn Log>,
    chirpstack: Option<HealthCell>,
}

impl NodeReadiness {
    /// Asks these. ChirpStack's broker only when there is one.
    pub fn new(store: Arc<Store>, log: Arc<dyn Log>, chirpstack: Option<HealthCell>) -> Self {
        Self { store, log, chirpstack }
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
            let health = source.get();
            let answer = if health.is_connected { Ok(()) } else { Err(health.message) };
            answers.push(("chirpstack_mqtt".to_owned(), answer));
        }
        answers
    }
}
