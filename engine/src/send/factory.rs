//! Makes the sender of a target: what is shared by all of them (egress rule, certificate authorities, User-Agent) lives here.
//! Making one never connects; a configuration that can never work is said at once.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use sluse_schema::delivery::{Attempt, AttemptClass};
use sluse_schema::port::{SenderError, SenderFactory, TargetSender};
use sluse_schema::target::{TargetConfig, TargetKind};

use super::egress::EgressPolicy;
use super::http::HttpSender;
use super::mqtt::MqttSender;
use super::tls::{Authorities, TlsError};

/// Why the senders cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SendersError {
    #[error("extra certificate authorities: {0}")]
    Tls(#[from] TlsError),
    #[error("{0:?} cannot be a User-Agent")]
    UserAgent(String),
}

/// The factory of all senders.
#[derive(Debug)]
pub struct Senders {
    policy: Arc<EgressPolicy>,
    authorities: Authorities,
    user_agent: HeaderValue,
    /// This node's part of every MQTT client id.
    node: String,
}

impl Senders {
    /// Senders under `policy` that trust `extra_ca` (PEM) beside the system's authorities. `user_agent` is what receivers see.
    /// MQTT client ids get a random part; see [`Senders::for_node`].
    ///
    /// # Errors
    /// `extra_ca` is not usable, or `user_agent` is no header text.
    pub fn new(policy: EgressPolicy, extra_ca: Option<PathBuf>, user_agent: &str) -> Result<Arc<Self>, SendersError> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self::for_node(policy, extra_ca, user_agent, sluse_schema::text::cut(&random, 8))
    }

    /// As [`Senders::new`], with `node` (stable, unique) in the MQTT client ids, so that a broker's rules can name them and a
    /// restart takes over from its own half-open connections.
    ///
    /// # Errors
    /// As [`Senders::new`].
    pub fn for_node(
        policy: EgressPolicy,
        extra_ca: Option<PathBuf>,
        user_agent: &str,
        node: &str,
    ) -> Result<Arc<Self>, SendersError> {
        let user_agent =
            HeaderValue::from_str(user_agent).map_err(|_| SendersError::UserAgent(user_agent.to_owned()))?;
        let authorities = Authorities::load(extra_ca.as_deref())?;
        tracing::info!(allowed = %policy, "targets may use these addresses");
        Ok(Arc::new(Self { policy: Arc::new(policy), authorities, user_agent, node: node.to_owned() }))
    }
}

impl Senders {
    /// Whether the receiver of a target can be connected to and lets us in, without sending anything. Only MQTT can tell.
    pub async fn check(&self, config: &TargetConfig) -> Attempt {
        let TargetKind::Mqtt(mqtt) = &config.kind else {
            return Attempt::failed(
                AttemptClass::Misconfigured,
                "only an MQTT target can be tried without a message: give a dataPackage",
            );
        };
        let client_id = format!("sluse-{}-probe-{}", self.node, uuid::Uuid::new_v4().simple());
        match MqttSender::new(mqtt, client_id, &self.policy, &self.authorities) {
            Ok(sender) => sender.check().await,
            Err(error) => Attempt::failed(AttemptClass::Misconfigured, error.to_string()),
        }
    }
}

impl SenderFactory for Senders {
    fn make(&self, config: &TargetConfig) -> Result<Arc<dyn TargetSender>, SenderError> {
        match &config.kind {
            TargetKind::HttpPush(http) => {
                let in_flight = config.policy.num_in_flight_max;
                Ok(Arc::new(HttpSender::new(http, in_flight, &self.policy, &self.authorities, &self.user_agent)?))
            }
            TargetKind::Mqtt(mqtt) => {
                // Two versions of a target's configuration may hold a connection at once, while one drains: the version keeps
                // them from throwing each other off the broker.
                let client_id = format!("sluse-{}-target-{}-{}", self.node, config.target, config.version);
                Ok(Arc::new(MqttSender::new(mqtt, client_id, &self.policy, &self.authorities)?))
            }
            TargetKind::Fiware(_) => Err(SenderError(
                "FIWARE targets have no sender yet: their deliveries wait in the log until one exists".to_owned(),
            )),
            TargetKind::OpenDataDk => {
                Err(SenderError("Open Data DK targets are read, nothing is sent to them".to_owned()))
            }
            TargetKind::Unreadable(target) => Err(SenderError(target.reason.clone())),
        }
    }
}
