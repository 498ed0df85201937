//! MQTT targets: one long-lived connection per target, many publishes in flight on it. Opened by the first delivery, kept alive
//! while the sender lives, opened again by the next delivery after it broke; pace and backoff are the target's actor's part.
//!
//! Decided here: MQTT v5 (its reason codes are what tells a refused message from a refused client; a broker that speaks only 3.1.1
//! is said to in the target's error); clean start under a client id of our own; never retained. An attempt is done at a PUBACK or
//! PUBCOMP with a reason below 0x80, at QoS 0 when written. Limits: the timeout bounds connecting and acknowledging together;
//! [`NUM_IN_FLIGHT_MAX`] publishes, or the broker's Receive Maximum.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sluse_schema::delivery::{Attempt, AttemptClass, DeliveryMeta};
use sluse_schema::port::{SenderError, TargetSender};
use sluse_schema::secret::Secret;
use sluse_schema::target::MqttTarget;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::egress::EgressPolicy;
use super::metrics::AttemptMetrics;
use super::mqtt_connection;
use super::mqtt_url::BrokerUrl;
use super::tls::Authorities;

/// Publishes in flight on one connection, at most.
pub(super) const NUM_IN_FLIGHT_MAX: u16 = 1024;
/// Publishes that wait for a place in flight; the target's actor offers fewer. Full: the sender waits, within its timeout.
const INBOX_MAX: usize = 1024;
/// The reference's timeout, for targets that have none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What a connection needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) broker: BrokerUrl,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) client_id: String,
    pub(super) username: String,
    pub(super) password: Secret,
    pub(super) topic: String,
    /// 0, 1 or 2.
    pub(super) qos: u8,
    pub(super) timeout: Duration,
    pub(super) policy: Arc<EgressPolicy>,
}

/// One publish on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) body: Bytes,
    pub(super) content_type: String,
    pub(super) idempotency_key: String,
    /// When its sender stops waiting.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Attempt>,
}

/// Sends to one `MQTT` target.
#[derive(Debug)]
pub struct MqttSender {
    settings: Arc<Settings>,
    /// The connection's task; made when there is something to send, and again if it should ever end.
    inbox: Mutex<Option<mpsc::Sender<Outgoing>>>,
    closed: CancellationToken,
    _close_on_drop: DropGuard,
    metrics: AttemptMetrics,
}

impl MqttSender {
    /// A sender for `target`; connects, under `client_id`, when there is something to send.
    ///
    /// # Errors
    /// The URL, topic, QoS or a certificate authority is not usable.
    pub fn new(
        target: &MqttTarget,
        client_id: String,
        policy: &Arc<EgressPolicy>,
        authorities: &Authorities,
    ) -> Result<Self, SenderError> {
        let mut broker = BrokerUrl::parse(&target.url).map_err(|e| SenderError(e.to_string()))?;
        if target.port != 0 {
            broker.port = target.port;
        }
        if target.topic.is_empty() || target.topic.contains(['+', '#', '\0']) {
            return Err(SenderError("the target's topic is empty or holds a wildcard (+, #)".to_owned()));
        }
        if target.qos > 2 {
            return Err(SenderError(format!("the target's QoS is 0, 1 or 2, not {}", target.qos)));
        }
        let tls = broker
            .is_tls
            .then(|| authorities.client_config(target.ca_certificates.as_deref(), None))
            .transpose()
            .map_err(|e| SenderError(e.to_string()))?;
        let (username, password) = if target.username.is_empty() {
            (broker.username.clone(), broker.password.clone())
        } else {
            (target.username.clone(), target.password.clone())
        };
        let timeout = if target.timeout_ms == 0 { TIMEOUT_DEFAULT } else { Duration::from_millis(target.timeout_ms) };
        let closed = CancellationToken::new();
        Ok(Self {
            settings: Arc::new(Settings {
                broker,
                tls,
                client_id,
                username,
                password,
                topic: target.topic.clone(),
                qos: target.qos,
                timeout,
                policy: Arc::clone(policy),
            }),
            inbox: Mutex::new(None),
            _close_on_drop: closed.clone().drop_guard(),
            closed,
            metrics: AttemptMetrics::of_kind("MQTT"),
        })
    }

    /// Connects, and hangs up again: whether the broker lets this target in.
    pub async fn check(&self) -> Attempt {
        mqtt_connection::check(&self.settings).await
    }

    /// The way to the connection's task; starts one if there is none or it ended.
    fn inbox(&self) -> mpsc::Sender<Outgoing> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        match inbox.as_ref().filter(|to| !to.is_closed()) {
            Some(to) => to.clone(),
            None => {
                let (to, from) = mpsc::channel(INBOX_MAX);
                tokio::spawn(mqtt_connection::run(Arc::clone(&self.settings), from, self.closed.clone()));
                inbox.insert(to).clone()
            }
        }
    }

    async fn attempt(&self, meta: &DeliveryMeta, body: Bytes, deadline: Instant) -> Attempt {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing {
            body,
            content_type: meta.content_type.clone(),
            idempotency_key: meta.idempotency_key(),
            deadline,
            reply,
        };
        let inbox = self.inbox();
        let ask = async {
            inbox.send(outgoing).await.ok()?;
            answer.await.ok()
        };
        match timeout_at(deadline, ask).await {
            Ok(Some(attempt)) => attempt,
            Ok(None) => Attempt::failed(AttemptClass::Transient, "the connection ended before the broker acknowledged"),
            Err(_) => {
                let (place, timeout_ms) = (self.settings.broker.place(), self.settings.timeout.as_millis());
                let message = format!("no acknowledgement from {place} within {timeout_ms} ms");
                Attempt::failed(AttemptClass::Transient, message)
            }
        }
    }
}

#[async_trait]
impl TargetSender for MqttSender {
    async fn send(&self, meta: &DeliveryMeta, body: Bytes) -> Attempt {
        let (started_at, num_body_bytes) = (Instant::now(), body.len());
        let attempt = self.attempt(meta, body, started_at + self.settings.timeout).await;
        self.metrics.finished(attempt.class, started_at.elapsed(), num_body_bytes);
        attempt
    }
}
