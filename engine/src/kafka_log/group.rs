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
use rdkafka::error::KafkaError;
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
/// How long the threads are waited for at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// What the clocks of this node and of the group's coordinator may run apart in one session.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// The member and its thread.
pub struct Group {
    consumer: Arc<BaseConsumer<MemberContext>>,
    config: Arc<KafkaLogConfig>,
    is_closing: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
        };
        let refused = |error: KafkaError| OpenKafkaError::Config(error.to_string());
        let consumer = Arc::new(BaseConsumer::from_config_and_context(&config.member(), context).map_err(refused)?);
        consumer.subscribe(&[&config.topic(Topic::Uplinks)]).map_err(refused)?;
        let member = Member {
            consumer: Arc::clone(&consumer),
            membership: Arc::clone(membership),
            is_closing: Arc::clone(&is_closing),
        };
        let keeper = LeaseKeeper {
            consumer: Arc::clone(&consumer),
            config: Arc::clone(config),
            membership: Arc::clone(membership),
            is_closing: Arc::clone(&is_closing),
            shown: BTreeMap::new(),
            deliveries_position: Box::new(deliveries_position),
        };
        let threads = vec![
            std::thread::Builder::new().name("sluse-group".into()).spawn(move || member.run())?,
            std::thread::Builder::new().name("sluse-lease".into()).spawn(move || keeper.run())?,
        ];
        Ok(Self { consumer, config: Arc::clone(config), is_closing, threads: Mutex::new(threads) })
    }

    /// What a transaction names its group by; `None` while the group knows this node in no generation.
    pub fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        native::group_metadata(&self.consumer)
    }

    /// The committed position of a partition, once no transaction that could move it is under way any more.
    pub fn committed(&self, partition: PartitionId, within: Duration) -> Result<Option<Offset>, LogError> {
        let topic = self.config.topic(Topic::Uplinks);
        let positions = committed(&self.consumer, &topic, &[partition], within)
            .map_err(|error| LogError::Unavailable(format!("committed positions cannot be read: {error}")))?;
        Ok(positions.get(&partition).copied())
    }

    /// Ends the thread; the group keeps what this node owned until its session runs out, or it comes back.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = Instant::now() + CLOSE_WITHIN;
        for thread in threads {
            // One that waits for a broker that is away is left to itself: it ends when librdkafka gives up.
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the Kafka group has panicked");
            }
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
) -> Result<BTreeMap<PartitionId, Offset>, KafkaError> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        asked.add_partition(topic, partition.0 as i32);
    }
    let answered = consumer.committed_offsets(asked, within)?;
    let mut positions = BTreeMap::new();
    for element in answered.elements() {
        element.error()?;
        if let KafkaOffset::Offset(offset) = element.offset() {
            positions.insert(PartitionId(element.partition() as u32), Offset(offset as u64));
        }
    }
    Ok(positions)
}

/// The thread that polls.
struct Member {
    consumer: Arc<BaseConsumer<MemberContext>>,
    membership: Arc<Membership>,
    is_closing: Arc<AtomicBool>,
}

impl Member {
    fn run(self) {
        while !self.is_closing.load(Ordering::Acquire) {
            // Rebalances are answered inside.
            if let Some(Err(error)) = self.consumer.poll(POLL) {
                tracing::debug!(%error, "kafka group");
            }
            // Only this says that the group knows another process under our name; a refused commit may name a membership of our own
            // that is over.
            if let Some((code, reason)) = self.consumer.client().fatal_error() {
                self.consumer.context().link.replaced_by_another(&format!("{code}: {reason}"));
            }
            if self.consumer.context().link.condition().replaced().is_some() {
                let owned = self.membership.owned();
                if !owned.is_empty() {
                    self.membership.lose(&owned);
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

/// The thread that renews the lease: a commit that the group answers is the proof that it still counts on us. What is committed is for
/// people to look at. It waits for its answers, however long they take, so it is not the thread that polls.
struct LeaseKeeper {
    consumer: Arc<BaseConsumer<MemberContext>>,
    config: Arc<KafkaLogConfig>,
    membership: Arc<Membership>,
    is_closing: Arc<AtomicBool>,
    /// What the group shows as our positions in the deliveries topic.
    shown: BTreeMap<PartitionId, Offset>,
    deliveries_position: Box<dyn Fn(PartitionId) -> Option<Offset> + Send>,
}

impl LeaseKeeper {
    fn run(mut self) {
        let interval = self.config.session_timeout / RENEWALS_PER_SESSION;
        let mut renewed_at: Option<Instant> = None;
        while !self.is_closing.load(Ordering::Acquire) {
            let is_due = !self.membership.lease.is_held() || renewed_at.is_none_or(|at| at.elapsed() >= interval);
            let owned = self.membership.owned();
            if is_due && !owned.is_empty() && self.consumer.context().link.condition().replaced().is_none() {
                let sent_at = Instant::now();
                match self.commit(&owned) {
                    Ok(()) => {
                        let lasts = self.config.session_timeout.saturating_sub(LEASE_MARGIN);
                        self.membership.lease.renew(sent_at, lasts);
                        renewed_at = Some(sent_at);
                    }
                    Err(error) => tracing::debug!(%error, "the lease is not renewed"),
                }
            }
            std::thread::sleep(POLL);
        }
    }

    fn commit(&mut self, owned: &[PartitionId]) -> Result<(), KafkaError> {
        let topic = self.config.topic(Topic::Deliveries);
        let unknown: Vec<PartitionId> = owned.iter().copied().filter(|p| !self.shown.contains_key(p)).collect();
        if !unknown.is_empty() {
            let stored = committed(&self.consumer, &topic, &unknown, Duration::from_secs(2))?;
            self.shown.extend(unknown.iter().map(|p| (*p, stored.get(p).copied().unwrap_or_default())));
        }
        let mut list = TopicPartitionList::with_capacity(owned.len());
        for partition in owned {
            let shown = self.shown.entry(*partition).or_default();
            *shown = (*shown).max((self.deliveries_position)(*partition).unwrap_or_default());
            list.add_partition_offset(&topic, partition.0 as i32, KafkaOffset::Offset(shown.0 as i64))?;
        }
        // What is not ours any more is looked up again when it comes back.
        self.shown.retain(|partition, _| owned.contains(partition));
        self.consumer.commit(&list, CommitMode::Sync)
    }
}

/// Answers rebalances.
struct MemberContext {
    link: Link,
    config: Arc<KafkaLogConfig>,
    membership: Arc<Membership>,
    is_closing: Arc<AtomicBool>,
}

impl MemberContext {
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
}
