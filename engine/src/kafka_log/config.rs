//! What a Kafka log is opened with, and what follows from it for each of librdkafka's clients.
//!
//! What Sluse's promises rest on (acknowledgements, isolation, transactions, group membership) is set here and cannot be set from
//! outside; how to reach the brokers (TLS, SASL, sockets, compression) is passed through.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use sluse_schema::beat::Beat;
use sluse_schema::record::Topic;
use sluse_schema::secret::Secret;

use super::reel::Limits;

/// librdkafka's properties that may be set from outside: names, or beginnings of names.
const PASSED_THROUGH: [&str; 16] = [
    "security.protocol",
    "sasl.",
    "ssl.",
    "enable.ssl.certificate.verification",
    "https.",
    "socket.",
    "broker.address.",
    "client.rack",
    "client.dns.lookup",
    "reconnect.backoff.",
    "connections.max.idle.ms",
    "metadata.max.age.ms",
    "topic.metadata.refresh.interval.ms",
    "compression.type",
    "compression.codec",
    "compression.level",
];

/// Largest record: an uplink of 256 kB, or an MQTT event beyond it, with its headers.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Largest batch that a partition takes; above [`RECORD_BYTES_MAX`] for the batch's own head.
pub const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10);

/// How a [`KafkaLog`](super::KafkaLog) is opened.
#[derive(Clone, Debug)]
pub struct KafkaLogConfig {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// Further properties of librdkafka: TLS, SASL, sockets. Values may be secret.
    pub properties: BTreeMap<String, Secret>,
    /// Put before the names of topics, group and transactional id: several Sluses on one cluster. Empty for one.
    pub prefix: String,
    /// Stable and unique among the nodes: group membership and transactions are under this name.
    pub node_id: String,
    /// Partitions of each topic, fixed when the topics are made.
    pub num_partitions: u32,
    /// Replicas of topics that are made here; `None`: 3, or as many as there are brokers.
    pub replication: Option<u16>,
    /// Records are kept this long; `None`: for ever.
    pub retention_ms: Option<u64>,
    /// When the records of both topics are larger than this (one replica), the oldest are dropped; `None`: no limit.
    pub retention_bytes_max: Option<u64>,
    /// An append that is not acknowledged by then is unclear.
    pub append_within: Duration,
    /// A node that the group does not hear of for this long loses its partitions.
    pub session_timeout: Duration,
    /// A transaction that its node does not end by then is aborted by Kafka.
    pub transaction_timeout: Duration,
    /// How long a revocation may take; below the session timeout.
    pub revoke_within: Duration,
    /// Records in memory per partition of each topic that nobody has read yet.
    pub unread_bytes_max: usize,
    /// When rounds of appends begin while appends keep coming.
    pub moments: Beat,
    /// Appends that wait; beyond this they are refused as unavailable.
    pub queue_bytes_max: usize,
}

impl KafkaLogConfig {
    /// The defaults: 7 days, 3 replicas, sessions and transactions of 10 s.
    pub fn new(brokers: impl Into<String>, node_id: impl Into<String>, num_partitions: u32) -> Self {
        Self {
            brokers: brokers.into(),
            properties: BTreeMap::new(),
            prefix: String::new(),
            node_id: node_id.into(),
            num_partitions,
            replication: None,
            retention_ms: Some(7 * 24 * 3_600 * 1_000),
            retention_bytes_max: None,
            append_within: Duration::from_secs(20),
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(10),
            revoke_within: Duration::from_millis(8_500),
            unread_bytes_max: 2 << 20,
            moments: Beat::new(Instant::now(), Duration::from_millis(80)),
            queue_bytes_max: 64 << 20,
        }
    }

    /// The topic's name on this cluster.
    pub fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// What a partition of this topic may hold in memory.
    pub fn in_memory(&self, topic: Topic) -> Limits {
        let num_read_bytes_max = match topic {
            // Read once, by the partition's consumer.
            Topic::Uplinks => 256 << 10,
            // Its consumer reads on while a target that has become lagging reads what came just before.
            Topic::Deliveries => 1 << 20,
        };
        Limits { num_unread_bytes_max: self.unread_bytes_max, num_read_bytes_max }
    }

    /// The consumer group of all nodes.
    pub fn group(&self) -> String {
        format!("{}sluse", self.prefix)
    }

    /// What positions in this log are stored under.
    pub fn store(&self, cluster_id: &str) -> String {
        format!("kafka:{cluster_id}:{}", self.group())
    }

    /// What is set from outside and may not be.
    pub fn forbidden_property(&self) -> Option<&str> {
        self.properties.keys().map(String::as_str).find(|name| !PASSED_THROUGH.iter().any(|ok| name.starts_with(ok)))
    }

    /// Whether everything that is set from outside may be, and is understood by librdkafka.
    ///
    /// # Errors
    /// [`OpenKafkaError`] says which is not.
    pub fn check_properties(&self) -> Result<(), OpenKafkaError> {
        match self.forbidden_property() {
            Some(name) => Err(OpenKafkaError::Property(name.to_owned())),
            None => {
                self.client("check").create_native_config().map(drop).map_err(|error| OpenKafkaError::of_config(&error))
            }
        }
    }

    /// The client id of this node's member of the group.
    pub fn member_client_id(&self) -> String {
        self.client_id("group")
    }

    fn client_id(&self, role: &str) -> String {
        format!("sluse-{}-{role}", self.node_id)
    }

    /// What all clients have in common. `role` is for the broker's logs.
    fn client(&self, role: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            // A leader that moved is looked for at once.
            .set("topic.metadata.refresh.fast.interval.ms", "100")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (name, value) in &self.properties {
            client.set(name, value.reveal());
        }
        client.set("bootstrap.servers", &self.brokers);
        client.set("client.id", self.client_id(role));
        client
    }

    fn producer(&self, role: &str) -> ClientConfig {
        let mut client = self.client(role);
        if !self.properties.contains_key("compression.type") && !self.properties.contains_key("compression.codec") {
            client.set("compression.type", "lz4");
        }
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What is handed over together goes together; longer waits only add delay.
            .set("linger.ms", "1")
            .set("message.max.bytes", BATCH_BYTES_MAX.to_string())
            .set("queue.buffering.max.messages", "200000");
        client
    }

    /// For appends.
    pub fn appender(&self) -> ClientConfig {
        let mut client = self.producer("append");
        client.set("message.timeout.ms", self.append_within.as_millis().to_string());
        client
    }

    /// For steps.
    pub fn stepper(&self) -> ClientConfig {
        let mut client = self.producer("step");
        client
            .set("transactional.id", format!("{}sluse-{}", self.prefix, self.node_id))
            .set("transaction.timeout.ms", self.transaction_timeout.as_millis().to_string())
            .set("message.timeout.ms", self.transaction_timeout.as_millis().to_string());
        client
    }

    fn consumer(&self, role: &str) -> ClientConfig {
        let mut client = self.client(role);
        client
            .set("group.id", self.group())
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position that is not there is an error, never a jump.
            .set("auto.offset.reset", "error");
        client
    }

    /// For group membership. It reads nothing.
    pub fn member(&self) -> ClientConfig {
        let mut client = self.consumer("group");
        let session_timeout_ms = self.session_timeout.as_millis();
        client
            .set("group.instance.id", &self.node_id)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (session_timeout_ms / 5).to_string())
            // Also how long the others wait for this node in a rebalance.
            .set("max.poll.interval.ms", (session_timeout_ms * 3).to_string());
        client
    }

    /// For the claim to the node's name, in a group of its own that has no members.
    pub fn claimer(&self) -> ClientConfig {
        let mut client = self.consumer("claim");
        client
            .set("group.id", format!("{}-{}", self.group(), self.node_id))
            // How long a commit waits for the group's coordinator.
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string());
        client
    }

    /// For reading: never a member. `is_live` readers wait at the end of their partitions, the others read what is there and go.
    pub fn reader(&self, is_live: bool) -> ClientConfig {
        let mut client = self.consumer(if is_live { "read" } else { "sweep" });
        client
            .set("enable.partition.eof", "true")
            // At the ends a fetch is answered when a lot has come, or after the wait: one for each record would cost Kafka and this node
            // more than the records do. Whoever goes back finds enough there. A fetch that waits also holds up a partition that was
            // added meanwhile.
            .set("fetch.min.bytes", if is_live { "65536" } else { "1" })
            .set("fetch.wait.max.ms", if is_live { "20" } else { "10" })
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.message.max.bytes", (1 << 20).to_string())
            .set("fetch.max.bytes", (8 << 20).to_string())
            .set("receive.message.max.bytes", (64 << 20).to_string())
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "2048");
        client
    }

    /// For making topics and asking about them.
    pub fn admin(&self) -> ClientConfig {
        self.client("admin")
    }
}

/// Why a Kafka log could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenKafkaError {
    #[error("kafka.properties: {0} is not a property that can be set: Sluse sets what its promises rest on by itself")]
    Property(String),
    #[error("the Kafka configuration is refused: {0}")]
    Config(String),
    #[error("Kafka at {brokers} does not answer: {reason}")]
    Unreachable { brokers: String, reason: String },
    #[error("topic {topic} cannot be made: {reason}")]
    Create { topic: String, reason: String },
    #[error(
        "topic {topic} has {found} partitions and log.num_partitions is {ours}: set the count back; growing means a new topic"
    )]
    Partitions { topic: String, found: usize, ours: u32 },
    #[error("topic {topic} has {name}={found}, and {wanted}")]
    Setting { topic: String, name: &'static str, found: String, wanted: String },
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl OpenKafkaError {
    /// Without the value, which may be secret: rdkafka shows it even of a property that there is not.
    pub(super) fn of_config(error: &KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, reason, _, _) => Self::Config(reason.clone()),
            other => Self::Config(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_promises_rest_on_cannot_be_set_from_outside_and_what_reaches_the_brokers_can() {
        let mut config = KafkaLogConfig::new("k:9092", "a", 8);
        for name in ["security.protocol", "sasl.password", "ssl.ca.location", "socket.timeout.ms", "compression.type"] {
            config.properties.insert(name.to_owned(), Secret::new("x"));
            assert_eq!(config.forbidden_property(), None, "{name}");
        }
        for name in
            ["acks", "transactional.id", "isolation.level", "group.id", "bootstrap.servers", "auto.offset.reset"]
        {
            let mut config = config.clone();
            config.properties.insert(name.to_owned(), Secret::new("x"));
            assert_eq!(config.forbidden_property(), Some(name));
        }
        config.properties.insert("sasl.password".into(), Secret::new("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_misspelt_property_is_told_without_its_value() {
        let mut config = KafkaLogConfig::new("k:9092", "a", 8);
        assert!(config.check_properties().is_ok());
        config.properties.insert("sasl.passwrd".into(), Secret::new("hunter2"));
        let error = config.check_properties().unwrap_err().to_string();
        assert!(error.contains("sasl.passwrd") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_prefix_stands_before_every_name_on_the_cluster() {
        let config = KafkaLogConfig { prefix: "aarhus.".into(), ..KafkaLogConfig::new("k:9092", "node-1", 8) };
        assert_eq!(config.topic(Topic::Uplinks), "aarhus.sluse.uplinks.v1");
        assert_eq!(config.member().get("group.id"), Some("aarhus.sluse"));
        assert_eq!(config.stepper().get("transactional.id"), Some("aarhus.sluse-node-1"));
        assert_eq!(config.claimer().get("group.id"), Some("aarhus.sluse-node-1"));
    }
}
