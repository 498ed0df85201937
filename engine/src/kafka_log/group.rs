//! Membership in the consumer group: one thread that polls, and answers when partitions come and go.
//!
//! The group shares out the uplinks topic; deliveries partitions go with their numbers. The member reads nothing: its partitions are
//! paused, readers of their own do the reading. It is a static member, so a restart within the session timeout moves nothing, and it
//! does not leave when it ends.
//!
//! Protocol of a revocation: stages are told (they stop intake, finish or abort the step, write cursors) → their answer, or the deadline
//! below the session timeout → the transaction under way ends → the callback returns, and only then does Kafka move the partition.
//! Partitions that were lost with the session are dropped without writing. Everything is fenced besides: steps by the generation,
//! rows by the epoch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::counter;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{Offset, Topic};

use super::config::{KafkaLogConfig, OpenKafkaError};
use super::link::{Condition, Link};
use super::membership::Membership;
use super::metrics::REBALANCES;
use super::native;

/// One turn of the thread, at most.
const POLL: Duration = Duration::from_millis(100);
/// The lease is renewed this often in a session timeout.
const RENEWALS_PER_SESSION: u32 = 4;
/// What the clocks of this node and of the group's coordinator may run apart in one session.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// The member and its thread.
pub struct Group {
    consumer: Arc<BaseConsumer<MemberContext>>,
    config: Arc<KafkaLogConfig>,
    is_closing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("group", &self.config.group()).finish_non_exhaustive()
    }
}

impl Group {
    /// Joins the group in the background. `deliveries_position` says how far targets have been fed, for people who look at the group.
    pub fn start(
        config: &Arc<KafkaLogConfig>,
        condition: &Arc<Condition>,
        membership: &Arc<Membership>,
        deliveries_position: impl Fn(PartitionId) -> Option<Offset> + Send + 'static,
    ) -> Result<Self, OpenKafkaError> {
        let is_closing = Arc::new(AtomicBool::new(false));
        let context = MemberContext {
            link: Link::new("group", condition),
            config: Arc::clone(config),
            membership: Arc::clone(membership),
            is_closing: Arc::clone(&is_closing),
            renewal: Mutex::default(),
        };
        let refused = |error: KafkaError| OpenKafkaError::Config(error.to_string());
        let consumer = Arc::new(BaseConsumer::from_config_and_context(&config.member(), context).map_err(refused)?);
        consumer.subscribe(&[&config.topic(Topic::Uplinks)]).map_err(refused)?;
        let member = Member {
            consumer: Arc::clone(&consumer),
            config: Arc::clone(config),
            membership: Arc::clone(membership),
            is_closing: Arc::clone(&is_closing),
            shown: BTreeMap::new(),
            renewed_at: None,
            deliveries_position: Box::new(deliveries_position),
        };
        let thread = std::thread::Builder::new().name("sluse-group".into()).spawn(move || member.run())?;
        Ok(Self { consumer, config: Arc::clone(config), is_closing, thread: Mutex::new(Some(thread)) })
    }

    /// What a transaction names its group by; `None` while the group knows this node in no generation.
    pub fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        native::group_metadata(&self.consumer)
    }

    /// The committed position of a partition, once no transaction that could move it is under way any more.
    pub fn committed(&self, partition: PartitionId, within: Duration) -> Result<Option<Offset>, LogError> {
        let topic = self.config.topic(Topic::Uplinks);
        committed(&self.consumer, &topic, &[partition], within).map(|positions| positions.get(&partition).copied())
    }

    /// Ends the thread; the group keeps what this node owned until its session runs out, or it comes back.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the Kafka group has panicked");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.close();
    }
}

fn committed(
    consumer: &BaseConsumer<MemberContext>,
    topic: &str,
    partitions: &[PartitionId],
    within: Duration,
) -> Result<BTreeMap<PartitionId, Offset>, LogError> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        asked.add_partition(topic, partition.0 as i32);
    }
    let unavailable = |error: KafkaError| LogError::Unavailable(format!("committed positions cannot be read: {error}"));
    let answered = consumer.committed_offsets(asked, within).map_err(unavailable)?;
    let mut positions = BTreeMap::new();
    for element in answered.elements() {
        element.error().map_err(unavailable)?;
        if let KafkaOffset::Offset(offset) = element.offset() {
            positions.insert(PartitionId(element.partition() as u32), Offset(offset as u64));
        }
    }
    Ok(positions)
}

/// The thread.
struct Member {
    consumer: Arc<BaseConsumer<MemberContext>>,
    config: Arc<KafkaLogConfig>,
    membership: Arc<Membership>,
    is_closing: Arc<AtomicBool>,
    /// What the group shows as our positions in the deliveries topic.
    shown: BTreeMap<PartitionId, Offset>,
    renewed_at: Option<Instant>,
    deliveries_position: Box<dyn Fn(PartitionId) -> Option<Offset> + Send>,
}

impl Member {
    fn run(mut self) {
        while !self.is_closing.load(Ordering::Acquire) {
            // Rebalances are answered, and commits confirmed, inside.
            if let Some(Err(error)) = self.consumer.poll(POLL) {
                tracing::debug!(%error, "kafka group");
            }
            let context = self.consumer.context();
            if context.link.condition().replaced().is_some() {
                let owned = self.membership.owned();
                if !owned.is_empty() {
                    self.membership.lose(&owned);
                }
                std::thread::sleep(POLL);
                continue;
            }
            self.renew_lease();
        }
    }

    /// A commit that the group answers is the proof that it still counts on us. What is committed is for people to look at.
    fn renew_lease(&mut self) {
        let owned = self.membership.owned();
        let interval = self.config.session_timeout / RENEWALS_PER_SESSION;
        let is_due = !self.membership.lease.is_held() || self.renewed_at.is_none_or(|at| at.elapsed() >= interval);
        if owned.is_empty() || !is_due || self.consumer.context().is_waiting() {
            return;
        }
        let topic = self.config.topic(Topic::Deliveries);
        let unknown: Vec<PartitionId> = owned.iter().copied().filter(|p| !self.shown.contains_key(p)).collect();
        if !unknown.is_empty() {
            match committed(&self.consumer, &topic, &unknown, Duration::from_secs(2)) {
                Ok(stored) => {
                    self.shown.extend(unknown.iter().map(|p| (*p, stored.get(p).copied().unwrap_or_default())));
                }
                Err(error) => return tracing::debug!(%error, "positions of the group"),
            }
        }
        let sent_at = Instant::now();
        let number = self.consumer.context().expect_answer(sent_at).to_string();
        let mut list = TopicPartitionList::with_capacity(owned.len());
        for partition in owned {
            let shown = self.shown.entry(partition).or_default();
            *shown = (*shown).max((self.deliveries_position)(partition).unwrap_or_default());
            let mut element = list.add_partition(&topic, partition.0 as i32);
            if let Err(error) = element.set_offset(KafkaOffset::Offset(shown.0 as i64)) {
                return tracing::warn!(%error, "a position of the group");
            }
            element.set_metadata(&number);
        }
        self.renewed_at = Some(sent_at);
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "the lease is not renewed yet");
        }
    }
}

/// Answers rebalances.
struct MemberContext {
    link: Link,
    config: Arc<KafkaLogConfig>,
    membership: Arc<Membership>,
    is_closing: Arc<AtomicBool>,
    /// The number of the newest commit, and when it was sent while its answer is waited for.
    renewal: Mutex<(u64, Option<Instant>)>,
}

impl MemberContext {
    /// The number that the commit must carry: an answer to an older one proves nothing about this one.
    fn expect_answer(&self, sent_at: Instant) -> u64 {
        let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        *renewal = (renewal.0 + 1, Some(sent_at));
        renewal.0
    }

    fn take_answer(&self, number: Option<u64>) -> Option<Instant> {
        let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if number == Some(renewal.0) { renewal.1.take() } else { None }
    }

    /// An answer that does not come soon is not waited for any more.
    fn is_waiting(&self) -> bool {
        let renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        renewal.1.is_some_and(|sent_at| sent_at.elapsed() < self.config.session_timeout / RENEWALS_PER_SESSION)
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList, partitions: Vec<PartitionId>) {
        if let Err(error) = list.set_all_offsets(KafkaOffset::End) {
            tracing::warn!(%error, "an assignment of the group");
        }
        let assigned = consumer.incremental_assign(list).and_then(|()| consumer.pause(list));
        if let Err(error) = assigned {
            tracing::warn!(%error, ?partitions, "an assignment of the group was not taken");
            return;
        }
        counter!(REBALANCES, "kind" => "assigned").increment(1);
        tracing::info!(?partitions, "the group assigns partitions");
        self.membership.assigned(partitions);
    }

    fn give_up(&self, consumer: &BaseConsumer<Self>, partitions: &[PartitionId]) {
        if self.is_closing.load(Ordering::Acquire) || partitions.is_empty() {
            return;
        }
        if consumer.assignment_lost() || self.link.condition().replaced().is_some() {
            counter!(REBALANCES, "kind" => "lost").increment(1);
            tracing::warn!(?partitions, "the group gave our partitions to others");
            self.membership.lose(partitions);
        } else {
            counter!(REBALANCES, "kind" => "revoked").increment(1);
            tracing::info!(?partitions, "the group takes partitions back");
            let started_at = Instant::now();
            let is_clean = self.membership.revoke(partitions, started_at + self.config.revoke_within);
            tracing::info!(?partitions, is_clean, elapsed = ?started_at.elapsed(), "partitions handed over");
        }
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.link.say(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.note(&error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<PartitionId> =
            list.elements().iter().map(|element| PartitionId(element.partition() as u32)).collect();
        if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            return self.assign(consumer, list, partitions);
        }
        self.give_up(consumer, &partitions);
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        if let Err(error) = unassigned {
            tracing::warn!(%error, ?partitions, "an assignment of the group was not given back");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        let number = list.elements().first().and_then(|element| element.metadata().parse().ok());
        let sent_at = self.take_answer(number);
        match (result, sent_at) {
            (Ok(()), Some(sent_at)) => {
                self.membership.lease.renew(sent_at, self.config.session_timeout.saturating_sub(LEASE_MARGIN));
            }
            (Ok(()), None) => {}
            (Err(error), _) => tracing::debug!(%error, "the lease is not renewed"),
        }
    }
}
