//! The connection: made when it can be, made again when it is lost, watched by a PING every [`PROBE_EVERY`].

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::gauge;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisResult, TlsCertificates};
use sluse_schema::secret::Secret;
use tokio::time::{sleep, timeout};

use super::metrics::{CONNECTED, call_done};

/// Longest wait for an answer. Whoever asks is a person logging in, or nobody.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(300);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Pause between two attempts to connect, at most.
const RECONNECT_AFTER_MAX: Duration = Duration::from_secs(2);

/// Why Redis cannot be used at all. One that is only away is no error.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The URL; it may hold a password, so it is not shown.
    #[error("REDIS_URL cannot be used: {0} (redis://user:password@host:6379/0 is understood, and rediss:// for TLS)")]
    Url(String),
    /// The file of authorities.
    #[error("redis.ca_certificates: {path} cannot be read: {source}", path = path.display())]
    Authorities { path: PathBuf, source: std::io::Error },
}

/// Where Redis is.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://`, or `rediss://` for TLS; may hold a password.
    pub url: Secret,
    /// PEM file with the authorities of its certificate; `None`: the system's.
    pub ca_certificates: Option<PathBuf>,
}

impl RedisConfig {
    /// Checks what can be checked without asking anybody, and makes a client.
    ///
    /// # Errors
    /// When URL or file cannot be understood.
    pub fn client(&self) -> Result<Client, RedisError> {
        let why = |error: redis::RedisError| RedisError::Url(error.category().to_owned());
        let Some(path) = &self.ca_certificates else { return Client::open(self.url.reveal()).map_err(why) };
        let failed = |source| RedisError::Authorities { path: path.clone(), source };
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(std::fs::read(path).map_err(failed)?) };
        Client::build_with_tls(self.url.reveal(), certificates).map_err(why)
    }
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Health {
    Unknown,
    Up,
    Away(String),
}

/// Redis as this node knows it. Cheap to share as `Arc`.
pub struct Redis {
    pub(super) client: Client,
    /// Before every key and channel.
    pub(super) prefix: String,
    manager: ConnectionManager,
    health: RwLock<Health>,
    pub(super) scripts: super::limits::Scripts,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({:?})", self.health())
    }
}

impl Redis {
    /// Reads the URL and connects when the first is asked. Call it inside a runtime. `installation` names the Sluse whose nodes share
    /// things there: another one on the same Redis sees none of it.
    ///
    /// # Errors
    /// When the configuration cannot be understood.
    pub fn open(config: &RedisConfig, installation: &str) -> Result<Arc<Self>, RedisError> {
        let why = |error: redis::RedisError| RedisError::Url(error.category().to_owned());
        super::metrics::begin();
        let client = config.client()?;
        let prefix = format!("sluse:{installation}:");
        let manager = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN))
            .set_number_of_retries(1)
            .set_max_delay(RECONNECT_AFTER_MAX);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), manager).map_err(why)?;
        Ok(Arc::new(Self {
            client,
            prefix,
            manager,
            health: RwLock::new(Health::Unknown),
            scripts: super::limits::Scripts::default(),
        }))
    }

    fn health(&self) -> Health {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this node does without, while Redis is away.
    pub fn trouble(&self) -> Option<String> {
        match self.health() {
            Health::Up => None,
            Health::Unknown => {
                Some("not connected yet: this node counts limits and shows the live tail alone".to_owned())
            }
            Health::Away(why) => Some(format!("away ({why}): this node counts limits and shows the live tail alone")),
        }
    }

    /// Makes sure, for ever, that it is known how Redis stands.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let answer =
                self.ask("ping", async |connection| redis::cmd("PING").query_async::<String>(connection).await);
            let _ = answer.await;
            sleep(PROBE_EVERY).await;
        }
    }

    /// Asks something; `None` when there was no answer in time.
    pub(super) async fn ask<T>(
        &self,
        call: &'static str,
        question: impl AsyncFnOnce(&mut ConnectionManager) -> RedisResult<T>,
    ) -> Option<T> {
        let mut connection = self.manager.clone();
        let answer = match timeout(ANSWER_WITHIN, question(&mut connection)).await {
            Ok(answer) => answer.map_err(|error| error.category().to_owned()),
            Err(_) => Err(format!("no answer within {} ms", ANSWER_WITHIN.as_millis())),
        };
        call_done(call, answer.is_ok());
        match answer {
            Ok(answer) => {
                self.set_health(Health::Up);
                Some(answer)
            }
            Err(why) => {
                self.set_health(Health::Away(why));
                None
            }
        }
    }

    /// Takes note, and says it once.
    fn set_health(&self, now: Health) {
        if self.health() == now {
            return;
        }
        let before = std::mem::replace(&mut *self.health.write().unwrap_or_else(PoisonError::into_inner), now.clone());
        match (&before, &now) {
            (Health::Away(_), Health::Away(_)) => {}
            (_, Health::Away(why)) => {
                tracing::warn!(why, "redis is away: this node counts limits and shows the tail alone")
            }
            (_, Health::Up) => tracing::info!("redis answers: limits and live tail are shared with the other nodes"),
            (_, Health::Unknown) => {}
        }
        gauge!(CONNECTED).set(if now == Health::Up { 1.0 } else { 0.0 });
    }
}
