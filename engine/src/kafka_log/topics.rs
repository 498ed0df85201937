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

/// How often something is looked at that a broker does not know well yet.
const NUM_TRIES: u32 = 10;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How far ahead the clock of a node may be.
const AHEAD_MS_MIN: i64 = 24 * 3_600 * 1_000;

/// Who made a topic that was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Created {
    ByUs,
    ByAnother,
}

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
        Ok(Self { config, admin: admin.map_err(|error| OpenKafkaError::of_config(&error))? })
    }

    /// The id of the cluster, once it answers.
    pub fn cluster_id(&self) -> Result<String, OpenKafkaError> {
        self.admin
            .inner()
            .fetch_cluster_id(WITHIN)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| self.unreachable("it does not say its cluster id"))
    }

    /// Names of topics of ours that hold records, or held some.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn written(&self) -> Result<Vec<String>, OpenKafkaError> {
        let client = self.admin.inner();
        let mut written = Vec::new();
        for topic in [Topic::Uplinks, Topic::Deliveries] {
            let name = self.config.topic(topic);
            // Not asked for by its name: a broker may make a topic that is asked for.
            let metadata = client.fetch_metadata(None, WITHIN).map_err(|error| self.unreachable(error))?;
            let found = metadata.topics().iter().find(|found| found.name() == name);
            for partition in found.map_or(&[][..], |found| found.partitions()) {
                let ends = client.fetch_watermarks(&name, partition.id(), WITHIN);
                if ends.map_err(|error| self.unreachable(error))?.1 > 0 {
                    written.push(name);
                    break;
                }
            }
        }
        Ok(written)
    }

    fn unreachable(&self, reason: impl ToString) -> OpenKafkaError {
        OpenKafkaError::Unreachable { brokers: self.config.brokers.clone(), reason: reason.to_string() }
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(WITHIN)).operation_timeout(Some(WITHIN))
    }

    /// Makes what is missing and checks what is there.
    pub async fn ensure(&self) -> Result<(), OpenKafkaError> {
        let (num_brokers, topics) = self.look().await?;
        let replication = self.config.replication.map_or(num_brokers.min(3), i32::from);
        let wanted = Wanted {
            retention_ms: self.config.retention_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)).to_string(),
            retention_bytes: self.retention_bytes_per_partition().to_string(),
            min_insync_replicas: if replication >= 3 { 2 } else { 1 },
            replication,
        };
        for topic in [Topic::Uplinks, Topic::Deliveries] {
            let name = self.config.topic(topic);
            match topics.get(&name) {
                Some(size) => {
                    self.check(&name, *size).await?;
                    self.warn_of_few_replicas(&name, size.1, num_brokers);
                }
                None if self.create(&name, &wanted).await? == Created::ByUs => {}
                None => self.check_new(&name).await?,
            }
        }
        Ok(())
    }

    /// A topic that another node, or somebody else, made just now. Brokers tell its settings a moment late.
    async fn check_new(&self, name: &str) -> Result<(), OpenKafkaError> {
        let mut num_tries_left = NUM_TRIES;
        loop {
            let (_, topics) = self.look().await?;
            let checked = match topics.get(name) {
                Some(size) => self.check(name, *size).await,
                None => Err(self.unreachable(format!("it does not show topic {name}, which is there"))),
            };
            num_tries_left -= 1;
            if checked.is_ok() || num_tries_left == 0 {
                return checked;
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// The first start with one broker up makes topics of one replica, and nothing in Kafka ever adds some.
    fn warn_of_few_replicas(&self, name: &str, num_replicas: usize, num_brokers: i32) {
        let num_wanted = usize::try_from(num_brokers.min(3)).unwrap_or(1);
        if self.config.replication.is_none() && num_replicas < num_wanted {
            tracing::warn!(
                topic = name,
                num_replicas,
                num_brokers,
                "the topic has fewer replicas than there are brokers for: what is accepted is lost with so many disks. Add replicas with \
                 kafka-reassign-partitions.sh and set min.insync.replicas to 2 (README, \"Several nodes\"), or set kafka.replication to say \
                 that it is meant"
            );
        }
    }

    /// How many brokers there are, and of each topic how many partitions and replicas. A topic of ours whose state a broker does not
    /// know just now is asked for again: it is there.
    async fn look(&self) -> Result<(i32, TopicSizes), OpenKafkaError> {
        let mut num_tries_left = NUM_TRIES;
        loop {
            match self.look_once() {
                Err(error) if num_tries_left > 1 => tracing::warn!(%error, "looking again at the topics"),
                outcome => return outcome,
            }
            num_tries_left -= 1;
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }

    fn look_once(&self) -> Result<(i32, TopicSizes), OpenKafkaError> {
        let metadata = self.admin.inner().fetch_metadata(None, WITHIN).map_err(|error| self.unreachable(error))?;
        let ours = [Topic::Uplinks, Topic::Deliveries].map(|topic| self.config.topic(topic));
        let mut topics = TopicSizes::new();
        for topic in metadata.topics().iter().filter(|topic| ours.iter().any(|name| name == topic.name())) {
            match topic.error().map(RDKafkaErrorCode::from) {
                None => {
                    let num_replicas = topic.partitions().iter().map(|p| p.replicas().len()).min();
                    let size = (topic.partitions().len(), num_replicas.unwrap_or_default());
                    topics.insert(topic.name().to_owned(), size);
                }
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                Some(error) => return Err(self.unreachable(format!("topic {}: {error}", topic.name()))),
            }
        }
        Ok((i32::try_from(metadata.brokers().len()).unwrap_or(i32::MAX).max(1), topics))
    }

    /// Kafka counts bytes per partition.
    fn retention_bytes_per_partition(&self) -> i64 {
        self.config.retention_bytes_max.map_or(-1, |bytes| {
            i64::try_from(bytes / (2 * u64::from(self.config.num_partitions.max(1)))).unwrap_or(i64::MAX)
        })
    }

    async fn create(&self, name: &str, wanted: &Wanted) -> Result<Created, OpenKafkaError> {
        let failed = |reason: String| OpenKafkaError::Create { topic: name.to_owned(), reason };
        let (min_insync, batch_bytes) = (wanted.min_insync_replicas.to_string(), BATCH_BYTES_MAX.to_string());
        let never = i64::MAX.to_string();
        let num_partitions = i32::try_from(self.config.num_partitions).unwrap_or(i32::MAX);
        let topic = NewTopic::new(name, num_partitions, TopicReplication::Fixed(wanted.replication))
            .set("cleanup.policy", "delete")
            .set("retention.ms", &wanted.retention_ms)
            .set("retention.bytes", &wanted.retention_bytes)
            .set("min.insync.replicas", &min_insync)
            .set("unclean.leader.election.enable", "false")
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
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(Created::ByAnother),
                Err((_, code)) => return Err(failed(format!("{code}; make it by hand, or let this user do so"))),
            }
        }
        Ok(Created::ByUs)
    }

    async fn check(&self, name: &str, (num_partitions, num_replicas): (usize, usize)) -> Result<(), OpenKafkaError> {
        if num_partitions != self.config.num_partitions as usize {
            let (topic, ours) = (name.to_owned(), self.config.num_partitions);
            return Err(OpenKafkaError::Partitions { topic, found: num_partitions, ours });
        }
        let described = self.admin.describe_configs(&[ResourceSpecifier::Topic(name)], &Self::options()).await;
        let described = described.map_err(|error| self.unreachable(error))?;
        let Some(Ok(resource)) = described.into_iter().next() else {
            tracing::warn!(topic = name, "this user may not see the topic's settings, they are not checked");
            return Ok(());
        };
        let get = |setting: &str| resource.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default();
        match self.contradiction(get, num_replicas) {
            None => Ok(()),
            Some(Contradiction { name: setting, found, wanted }) => {
                Err(OpenKafkaError::Setting { topic: name.to_owned(), name: setting, found, wanted })
            }
        }
    }

    fn contradiction(&self, get: impl Fn(&str) -> String, num_replicas: usize) -> Option<Contradiction> {
        contradiction(self.config, self.retention_bytes_per_partition(), get, num_replicas)
    }
}

/// A setting of a topic that is refused, and what to do about it.
#[derive(Debug)]
struct Contradiction {
    name: &'static str,
    found: String,
    wanted: String,
}

/// The first of a topic's settings under which records would be lost or found wrong. Pure. What a broker does not tell is let pass.
fn contradiction(
    config: &KafkaLogConfig,
    retention_bytes: i64,
    get: impl Fn(&str) -> String,
    num_replicas: usize,
) -> Option<Contradiction> {
    let number = |setting: &str| get(setting).parse::<i64>().ok();
    let contradicts = |name: &'static str, wanted: String| Some(Contradiction { name, found: get(name), wanted });
    if get("cleanup.policy").contains("compact") {
        return contradicts(
            "cleanup.policy",
            "records with the same key are different uplinks: set it to delete".into(),
        );
    }
    if get("message.timestamp.type") == "LogAppendTime" {
        let wanted = "records are found by the time when they were received: set it to CreateTime";
        return contradicts("message.timestamp.type", wanted.into());
    }
    if number("message.timestamp.after.max.ms").is_some_and(|ms| ms < AHEAD_MS_MIN) {
        let wanted = "a node whose clock is ahead by more could accept nothing: set it to a day (86400000) or more";
        return contradicts("message.timestamp.after.max.ms", wanted.into());
    }
    if get("unclean.leader.election.enable") == "true" {
        let wanted =
            "a replica that lacks accepted records could become the leader, and they would be lost: set it to false";
        return contradicts("unclean.leader.election.enable", wanted.into());
    }
    let min_insync = number("min.insync.replicas");
    if min_insync.is_some_and(|min| min > num_replicas as i64) {
        let wanted = format!("with {num_replicas} replicas nothing could ever be written: lower it");
        return contradicts("min.insync.replicas", wanted);
    }
    if num_replicas >= 3 && min_insync.is_some_and(|min| min < 2) {
        let wanted = format!(
            "what one of {num_replicas} replicas alone has would be accepted, and lost with its disk: set it to 2"
        );
        return contradicts("min.insync.replicas", wanted);
    }
    if number("max.message.bytes").is_some_and(|bytes| bytes < BATCH_BYTES_MAX as i64) {
        return contradicts("max.message.bytes", format!("uplinks may need {BATCH_BYTES_MAX}: raise it"));
    }
    // A longer retention is the operator's choice; a shorter one drops what the configuration promises to keep.
    let ours = config.retention_ms.and_then(|ms| i64::try_from(ms).ok());
    if let Some(found) = number("retention.ms").filter(|ms| *ms >= 0)
        && ours.is_none_or(|ours| found < ours)
    {
        let ours = ours.map_or_else(|| "no end".to_owned(), |ms| format!("{} hours", ms / 3_600_000));
        return contradicts("retention.ms", format!("log.retention_hours says {ours}: change one of them"));
    }
    if let Some(found) = number("retention.bytes").filter(|bytes| *bytes >= 0)
        && (retention_bytes < 0 || found < retention_bytes)
    {
        let wanted = format!("log.retention_bytes_max comes to {retention_bytes} per partition: change one of them");
        return contradicts("retention.bytes", wanted);
    }
    let replication = config.replication.filter(|replication| num_replicas < usize::from(*replication))?;
    Some(Contradiction {
        name: "replication",
        found: num_replicas.to_string(),
        wanted: format!("kafka.replication is {replication}: change one of them"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused of a topic with these settings, everything else being as Sluse makes it.
    fn refused(num_replicas: usize, settings: &[(&str, &str)]) -> Option<&'static str> {
        let config = KafkaLogConfig::new("k:9092", "a", 8);
        let get = |name: &str| {
            let found = settings.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
            found.unwrap_or_else(|| match name {
                "cleanup.policy" => "delete".into(),
                "message.timestamp.type" => "CreateTime".into(),
                "unclean.leader.election.enable" => "false".into(),
                "min.insync.replicas" => if num_replicas >= 3 { "2" } else { "1" }.into(),
                "max.message.bytes" => BATCH_BYTES_MAX.to_string(),
                "message.timestamp.after.max.ms" => i64::MAX.to_string(),
                _ => "-1".into(),
            })
        };
        contradiction(&config, -1, get, num_replicas).map(|found| found.name)
    }

    #[test]
    fn settings_under_which_records_are_lost_or_found_wrong_are_refused_by_name() {
        for num_replicas in [1, 2, 3] {
            assert_eq!(refused(num_replicas, &[]), None, "{num_replicas}");
        }
        for (num_replicas, name, value) in [
            (3, "unclean.leader.election.enable", "true"),
            (1, "unclean.leader.election.enable", "true"),
            (3, "min.insync.replicas", "1"),
            (1, "min.insync.replicas", "2"),
            (3, "message.timestamp.after.max.ms", "3600000"),
            (3, "message.timestamp.type", "LogAppendTime"),
            (3, "cleanup.policy", "compact,delete"),
            (3, "max.message.bytes", "1048588"),
            (3, "retention.ms", "3600000"),
        ] {
            assert_eq!(refused(num_replicas, &[(name, value)]), Some(name), "{value}");
        }
        assert_eq!(refused(3, &[("message.timestamp.after.max.ms", "86400000")]), None);
        // A user who may not see a setting is no reason not to start.
        assert_eq!(refused(3, &[("min.insync.replicas", ""), ("unclean.leader.election.enable", "")]), None);
    }
}
