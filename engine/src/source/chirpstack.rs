//! ChirpStack v4 over MQTT: one persistent session with its broker, QoS 1, acknowledged only when durable.
//!
//! Decided here: when to connect again. What the broker holds for us it sends again after every reconnect, in order, so a
//! connection is simply ended when the log cannot take more ("later"), and made again when it may. One node at a time holds the
//! session: whoever starts a source sees to that; the client id belongs to the deployment, not to the node, so that a takeover
//! inherits session and order. The broker must queue without limit (Mosquitto: `max_queued_messages 0`), and ChirpStack must publish
//! at QoS 1 (`integration.mqtt.qos = 1`): at its default of 0 nothing can send an event again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluse_schema::beat::Beat;
use sluse_schema::port::{GatewayStore, Intake};
use sluse_schema::secret::Secret;
use sluse_schema::wire::chirpstack::PACKET_BYTES_MAX;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::gateway_state::GatewayStateWriter;
use super::link::LinkOptions;
use super::session::{Session, SessionEnd};
use crate::send::mqtt_url::BrokerUrl;
use crate::send::tls::{Authorities, ClientIdentity, TlsError};

/// Pings are sent this often when nothing else is.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest time that connecting may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Somebody connected under our name: the next owner, most likely, and we learn of it soon. Not to take it back at once.
const TAKEN_OVER_WAIT: Duration = Duration::from_secs(10);
/// A connection that lasted this long was a good one: the next backoff begins at its minimum.
const GOOD_CONNECTION_MIN: Duration = Duration::from_secs(10);

/// Where ChirpStack's events come from, and under which limits.
#[derive(Clone, Debug)]
pub struct ChirpstackConfig {
    /// `CHIRPSTACK_MQTT_URL`: `mqtt://[user:password@]host[:port]`, or `mqtts://` for TLS.
    pub url: Secret,
    /// The name of the session: the same for every node of a deployment, and for none of another.
    pub client_id: String,
    /// PEM of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM of a certificate chain and of its key, for brokers that ask for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Events that the broker may send before the first of them is acknowledged.
    pub receive_max: u16,
    /// How long the broker keeps session and events while nobody is there, seconds.
    pub session_expiry_s: u32,
    /// Events handed to the log at once, at most.
    pub batch_events_max: usize,
    /// Batches under way at once.
    pub num_batches_max: usize,
    /// When batches are handed over while events keep coming; without it, as soon as they may be. For a log that takes them at moments:
    /// what is handed over between two of them waits, and keeps back what comes behind it.
    pub moments: Option<Beat>,
}

impl ChirpstackConfig {
    /// The defaults: 5 000 unacknowledged events, a session of 7 days, 4 batches of 500 events.
    pub fn new(url: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            client_id: client_id.into(),
            ca_file: None,
            client_certificate: None,
            receive_max: 5000,
            session_expiry_s: 7 * 24 * 3600,
            batch_events_max: 500,
            num_batches_max: 4,
            moments: None,
        }
    }

    /// Whether a source could be started with it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), SourceError> {
        options(self).map(drop)
    }
}

/// Why a source cannot be started: its configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("CHIRPSTACK_MQTT_URL: {0}")]
    Url(String),
    #[error("TLS towards ChirpStack's broker: {0}")]
    Tls(#[from] TlsError),
    #[error("the source's client id is empty: a session needs a name")]
    ClientId,
    #[error("{0} must be above 0")]
    Zero(&'static str),
}

/// How a source is, for readiness and for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceHealth {
    /// Connected and subscribed.
    pub is_connected: bool,
    /// What it is doing, or why it is not.
    pub message: String,
    /// Events received and not acknowledged.
    pub num_unacknowledged: usize,
}

/// Health as the source's task writes it and others read it.
#[derive(Clone, Debug, Default)]
pub struct HealthCell(Arc<Mutex<SourceHealth>>);

impl HealthCell {
    pub(super) fn update(&self, act: impl FnOnce(&mut SourceHealth)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// How the source is right now.
    pub fn get(&self) -> SourceHealth {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The running source.
#[derive(Debug)]
pub struct ChirpstackSource {
    health: HealthCell,
    stopping: CancellationToken,
    task: JoinHandle<()>,
    _stop_on_drop: DropGuard,
}

impl ChirpstackSource {
    /// Starts taking events in; connects, and goes on connecting, in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn start(
        config: ChirpstackConfig,
        intake: Arc<dyn Intake>,
        gateways: Arc<dyn GatewayStore>,
    ) -> Result<Self, SourceError> {
        let (options, place) = options(&config)?;
        let (health, stopping) = (HealthCell::default(), CancellationToken::new());
        health.update(|health| health.message = format!("connecting to {place}"));
        let gateways = GatewayStateWriter::start(gateways);
        let session = Session::new(&config, place, intake, gateways, health.clone());
        let task = tokio::spawn(run(session, options, stopping.clone()));
        Ok(Self { health, task, _stop_on_drop: stopping.clone().drop_guard(), stopping })
    }

    /// Where its health can be read, also while it stops.
    pub fn health_cell(&self) -> HealthCell {
        self.health.clone()
    }

    /// How it is right now.
    pub fn health(&self) -> SourceHealth {
        self.health.get()
    }

    /// Takes nothing more in, finishes and acknowledges what is under way, disconnects; the session stays with the broker.
    /// Whether it ended in time; what was not acknowledged by then, the broker sends again to whoever comes next.
    pub async fn stop(mut self, within: Duration) -> bool {
        self.stopping.cancel();
        let is_clean = timeout(within, &mut self.task).await.is_ok_and(|ended| ended.is_ok());
        if !is_clean {
            self.task.abort();
        }
        is_clean
    }
}

async fn run(mut session: Session, options: LinkOptions, stopping: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    while !stopping.is_cancelled() {
        let started_at = Instant::now();
        let wait = match session.serve(&options, &stopping).await {
            SessionEnd::Stopped => break,
            SessionEnd::Later { after } => after.clamp(BACKOFF_MIN, BACKOFF_MAX),
            SessionEnd::TakenOver => TAKEN_OVER_WAIT,
            SessionEnd::Lost => {
                if started_at.elapsed() >= GOOD_CONNECTION_MIN {
                    backoff = BACKOFF_MIN;
                }
                let wait = backoff;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                wait
            }
        };
        stopping.run_until_cancelled(sleep(wait)).await;
    }
    session.close().await;
}

/// The options for every connection of this source, and the broker's place for messages.
fn options(config: &ChirpstackConfig) -> Result<(LinkOptions, String), SourceError> {
    if config.client_id.is_empty() {
        return Err(SourceError::ClientId);
    }
    let positive = [
        ("receive_max", usize::from(config.receive_max)),
        ("batch_events_max", config.batch_events_max),
        ("num_batches_max", config.num_batches_max),
    ];
    if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
        return Err(SourceError::Zero(name));
    }
    let broker = BrokerUrl::parse(config.url.reveal()).map_err(|e| SourceError::Url(e.to_string()))?;
    let tls = if broker.is_tls {
        let identity = config
            .client_certificate
            .as_ref()
            .map(|(chain, key): &(PathBuf, PathBuf)| ClientIdentity::read(chain, key))
            .transpose()?;
        let authorities = Authorities::load(config.ca_file.as_deref().map(Path::new))?;
        Some(authorities.client_config(None, identity)?)
    } else {
        None
    };
    let place = broker.place();
    let options = LinkOptions {
        host: broker.host,
        port: broker.port,
        client_id: config.client_id.clone(),
        username: broker.username,
        password: broker.password,
        tls,
        keep_alive: KEEP_ALIVE,
        session_expiry_s: config.session_expiry_s,
        receive_max: config.receive_max,
        packet_bytes_max: PACKET_BYTES_MAX as u32,
    };
    Ok((options, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_said_at_the_start_without_its_secrets() {
        let wrong = |config: ChirpstackConfig| options(&config).err().unwrap().to_string();
        let text = wrong(ChirpstackConfig::new("http://me:secret@h", "c"));
        assert!(text.contains("mqtt://") && !text.contains("secret"), "{text}");
        assert!(wrong(ChirpstackConfig::new("mqtt://h", "")).contains("client id"));
        assert!(
            wrong(ChirpstackConfig { receive_max: 0, ..ChirpstackConfig::new("mqtt://h", "c") })
                .contains("receive_max")
        );
        let missing = Some(PathBuf::from("no-such-file.pem"));
        assert!(
            wrong(ChirpstackConfig { ca_file: missing, ..ChirpstackConfig::new("mqtts://h", "c") })
                .contains("no-such-file")
        );
    }

    #[test]
    fn debug_shows_no_password() {
        let config = ChirpstackConfig::new("mqtt://me:hunter2@h", "c");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
