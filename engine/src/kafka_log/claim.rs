//! Who bears this node's name: what tells a second process under one `SLUSE_NODE_ID` from a membership of our own that is over.
//!
//! Kafka answers "fenced instance" to both. A commit or a join that was under way while the group's coordinator was away is retried by
//! librdkafka under the member id of then, which the same node has replaced meanwhile; and a transaction that outlived its timeout fences
//! its own producer. So neither is proof. The proof is a claim: before it joins the group and makes its producer known, a process
//! writes a number of its own under the node's name, as the committed position (its metadata) of a group that has no members. Whoever is
//! shut out reads it. His own number is there: nobody else has started under the name since, and he may join again. Another: somebody
//! has, and he stops for good. Of two processes, one number can be there, so one goes on, and they do not take the name from each
//! other in turns.
//!
//! Kafka forgets positions of groups without members after `offsets.retention.minutes` (7 days): the claim is written again every hour,
//! and one that is missing is ours.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sluse_schema::record::Topic;

use super::config::{KafkaLogConfig, OpenKafkaError};
use super::link::{Condition, Link};
use super::native;

/// How long a start waits for Kafka to take the claim.
const STAKE_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two tries.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// One question.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// Well below the shortest retention of positions that makes sense.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// See the head of this file.
pub struct Claim {
    consumer: BaseConsumer<Link>,
    topic: String,
    brokers: String,
    /// This process's own, as text.
    number: String,
    written_at: Mutex<Instant>,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Claim {
    /// Takes the node's name for this process, from whoever had it.
    ///
    /// # Errors
    /// [`OpenKafkaError::Unreachable`] when Kafka does not take it within a minute.
    pub async fn stake(config: &KafkaLogConfig, condition: &Arc<Condition>) -> Result<Arc<Self>, OpenKafkaError> {
        let consumer = BaseConsumer::from_config_and_context(&config.claimer(), Link::new("claim", condition))
            .map_err(|error| OpenKafkaError::Config(error.to_string()))?;
        let claim = Arc::new(Self {
            consumer,
            topic: config.topic(Topic::Uplinks),
            brokers: config.brokers.clone(),
            number: uuid::Uuid::new_v4().simple().to_string(),
            written_at: Mutex::new(Instant::now()),
        });
        let staking = tokio::task::spawn_blocking({
            let claim = Arc::clone(&claim);
            move || claim.stake_within(STAKE_WITHIN)
        });
        staking.await.map_err(|error| OpenKafkaError::Config(error.to_string()))??;
        Ok(claim)
    }

    fn stake_within(&self, within: Duration) -> Result<(), OpenKafkaError> {
        let deadline = Instant::now() + within;
        let list = self.commitment().map_err(|error| OpenKafkaError::Config(error.to_string()))?;
        while let Err(error) = native::commit(&self.consumer, &list, ASK_WITHIN) {
            if Instant::now() > deadline {
                let reason = format!("this node's name cannot be claimed: {error}");
                return Err(OpenKafkaError::Unreachable { brokers: self.brokers.clone(), reason });
            }
            std::thread::sleep(TRY_AGAIN_AFTER);
        }
        Ok(())
    }

    fn commitment(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, 0, KafkaOffset::Offset(0))?;
        if let Some(mut element) = list.find_partition(&self.topic, 0) {
            element.set_metadata(&self.number);
        }
        Ok(list)
    }

    /// Whether the name is still ours: `false` says for certain that another process has started under it.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn is_ours(&self) -> Result<bool, KafkaError> {
        let mut asked = TopicPartitionList::with_capacity(1);
        asked.add_partition(&self.topic, 0);
        let answered = self.consumer.committed_offsets(asked, ASK_WITHIN)?;
        let Some(element) = answered.find_partition(&self.topic, 0) else { return Ok(true) };
        element.error()?;
        Ok(!matches!(element.offset(), KafkaOffset::Offset(_)) || element.metadata() == self.number)
    }

    /// Writes it again when it is time to. Only for a process that the group knows; does not wait for the answer.
    pub fn keep(&self) {
        let mut written_at = self.written_at.lock().unwrap_or_else(PoisonError::into_inner);
        if written_at.elapsed() < WRITE_AGAIN_AFTER {
            return;
        }
        *written_at = Instant::now();
        // The answer to the last one.
        let _ = self.consumer.poll(Duration::ZERO);
        let written = self.commitment().and_then(|list| self.consumer.commit(&list, CommitMode::Async));
        if let Err(error) = written {
            tracing::debug!(%error, "the claim to this node's name was not written again");
        }
    }
}
