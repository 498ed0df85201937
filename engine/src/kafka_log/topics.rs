//! The two topics: made when they are missing, looked at when they are there. Settings under which records would be lost or found wrong are
//! refused with what to do about them; others are the operator's.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::RDKafkaErrorCode;
use sluse_schema::record::Topic;

use super::config::{BATCH_BYTES_MAX, KafkaLogConfig, OpenKafkaError};
use super::link::Link;

/// Partitions and replicas of each topic, by its name.
type TopicSizes = HashMap<String, (usize, usize)>;

/// One call to Kafka.
const WITHIN: Duration = Duration::from_secs(20);

/// A client for topics.
pub struct Topics<'a> {
    config: &'a KafkaLogConfig,
    admin: AdminClient<Link>,
}

impl std::fmt::Debug for Topics<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Topics")
    }
}

/// What the topics are made with, as Kafka names it.
struct Wanted {
    retention_ms: String,
    retention_bytes: String,
    min_insync_replicas: i32,
    replication: i32,
}

impl<'a> Topics<'a> {
    pub fn new(config: &'a KafkaLogConfig, link: Link) -> Result<Self, OpenKafkaError> {
        let admin = AdminClient::from_config_and_context(&config.admin(), link);
        Ok(Self { config, admin: admin.map_err(|error| OpenKafkaError::Config(error.to_string()))? })
    }

    /// The id of the cluster, once it answers.
    pub fn cluster_id(&self) -> Result<String, OpenKafkaError> {
        self.admin
            .inner()
            .fetch_cluster_id(WITHIN)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| self.unreachable("it does not say its cluster id"))
    }

    fn unreachable(&self, reason: impl ToString) -> OpenKafkaError {
        OpenKafkaError::Unreachable { brokers: self.config.brokers.clone(), reason: reason.to_string() }
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(WITHIN)).operation_timeout(Some(WITHIN))
    }

    /// Makes what is missing and checks what is there.
    pub async fn ensure(&self) -> Result<(), OpenKafkaError> {
        let (num_brokers, topics) = self.look()?;
        let replication = self.config.replication.map_or(num_brokers.min(3), i32::from);
        let wanted = Wanted {
            retention_ms: self.config.retention_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)).to_string(),
            retention_bytes: self.retention_bytes_per_partition().to_string(),
            min_insync_replicas: if replication >= 3 { 2 } else { 1 },
            replication,
        };
        for topic in [Topic::Uplinks, Topic::Deliveries] {
            let name = self.config.topic(topic);
            match topics.get(&name).copied() {
                None => self.create(&name, &wanted).await?,
                Some((found, _)) if found != self.config.num_partitions as usize => {
                    let ours = self.config.num_partitions;
                    return Err(OpenKafkaError::Partitions { topic: name, found, ours });
                }
                Some((_, num_replicas)) => self.check(&name, num_replicas).await?,
            }
        }
        Ok(())
    }

    /// How many brokers there are, and of each topic how many partitions and replicas.
    fn look(&self) -> Result<(i32, TopicSizes), OpenKafkaError> {
        let metadata = self.admin.inner().fetch_metadata(None, WITHIN).map_err(|error| self.unreachable(error))?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none()).map(|topic| {
            let num_replicas = topic.partitions().iter().map(|p| p.replicas().len()).min();
            (topic.name().to_owned(), (topic.partitions().len(), num_replicas.unwrap_or_default()))
        });
        Ok((i32::try_from(metadata.brokers().len()).unwrap_or(i32::MAX).max(1), topics.collect()))
    }

    /// Kafka counts bytes per partition.
    fn retention_bytes_per_partition(&self) -> i64 {
        self.config.retention_bytes_max.map_or(-1, |bytes| {
            i64::try_from(bytes / (2 * u64::from(self.config.num_partitions.max(1)))).unwrap_or(i64::MAX)
        })
    }

    async fn create(&self, name: &str, wanted: &Wanted) -> Result<(), OpenKafkaError> {
        let failed = |reason: String| OpenKafkaError::Create { topic: name.to_owned(), reason };
        let (min_insync, batch_bytes) = (wanted.min_insync_replicas.to_string(), BATCH_BYTES_MAX.to_string());
        let never = i64::MAX.to_string();
        let num_partitions = i32::try_from(self.config.num_partitions).unwrap_or(i32::MAX);
        let topic = NewTopic::new(name, num_partitions, TopicReplication::Fixed(wanted.replication))
            .set("cleanup.policy", "delete")
            .set("retention.ms", &wanted.retention_ms)
            .set("retention.bytes", &wanted.retention_bytes)
            .set("min.insync.replicas", &min_insync)
            .set("max.message.bytes", &batch_bytes)
            // Timestamps are when an uplink was received, by this node's clock, whatever the broker's says.
            .set("message.timestamp.type", "CreateTime")
            .set("message.timestamp.after.max.ms", &never)
            .set("message.timestamp.before.max.ms", &never);
        let made =
            self.admin.create_topics([&topic], &Self::options()).await.map_err(|error| failed(error.to_string()))?;
        for result in made {
            match result {
                Ok(_) => tracing::info!(
                    topic = name,
                    partitions = num_partitions,
                    replication = wanted.replication,
                    "topic made"
                ),
                // Another node was quicker.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(failed(format!("{code}; make it by hand, or let this user do so"))),
            }
        }
        Ok(())
    }

    async fn check(&self, name: &str, num_replicas: usize) -> Result<(), OpenKafkaError> {
        let described = self.admin.describe_configs(&[ResourceSpecifier::Topic(name)], &Self::options()).await;
        let described = described.map_err(|error| self.unreachable(error))?;
        let Some(Ok(resource)) = described.into_iter().next() else {
            tracing::warn!(topic = name, "this user may not see the topic's settings, they are not checked");
            return Ok(());
        };
        let get = |setting: &str| resource.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default();
        let number = |setting: &str| get(setting).parse::<i64>().ok();
        let contradicts = |setting: &'static str, wanted: String| {
            Err(OpenKafkaError::Setting { topic: name.to_owned(), name: setting, found: get(setting), wanted })
        };
        if get("cleanup.policy").contains("compact") {
            return contradicts(
                "cleanup.policy",
                "records with the same key are different uplinks: set it to delete".into(),
            );
        }
        if get("message.timestamp.type") == "LogAppendTime" {
            return contradicts(
                "message.timestamp.type",
                "records are found by the time when they were received: set it to CreateTime".into(),
            );
        }
        if number("min.insync.replicas").is_some_and(|min| min > num_replicas as i64) {
            let wanted = format!("with {num_replicas} replicas nothing could ever be written: lower it");
            return contradicts("min.insync.replicas", wanted);
        }
        if number("max.message.bytes").is_some_and(|bytes| bytes < BATCH_BYTES_MAX as i64) {
            return contradicts("max.message.bytes", format!("uplinks may need {BATCH_BYTES_MAX}: raise it"));
        }
        // A longer retention is the operator's choice; a shorter one drops what the configuration promises to keep.
        let ours = self.config.retention_ms.and_then(|ms| i64::try_from(ms).ok());
        if let Some(found) = number("retention.ms").filter(|ms| *ms >= 0)
            && ours.is_none_or(|ours| found < ours)
        {
            let ours = ours.map_or_else(|| "no end".to_owned(), |ms| format!("{} hours", ms / 3_600_000));
            return contradicts("retention.ms", format!("log.retention_hours says {ours}: change one of them"));
        }
        let ours = self.retention_bytes_per_partition();
        if let Some(found) = number("retention.bytes").filter(|bytes| *bytes >= 0)
            && (ours < 0 || found < ours)
        {
            let wanted = format!("log.retention_bytes_max comes to {ours} per partition: change one of them");
            return contradicts("retention.bytes", wanted);
        }
        if let Some(replication) = self.config.replication
            && num_replicas < usize::from(replication)
        {
            return Err(OpenKafkaError::Setting {
                topic: name.to_owned(),
                name: "replication",
                found: num_replicas.to_string(),
                wanted: format!("kafka.replication is {replication}: change one of them"),
            });
        }
        Ok(())
    }
}
