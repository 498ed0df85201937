//! One seat in the group: the consumer that holds it, and its answers when partitions come and go. What the answers have to wait for is
//! in [`membership`](super::membership).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use metrics::counter;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::Topic;

use super::config::KafkaLogConfig;
use super::link::{Condition, Link};
use super::membership::Membership;
use super::metrics::REBALANCES;

/// A consumer that is a member of the group, or on its way to be one.
pub type Seat = BaseConsumer<MemberContext>;

/// What every seat of this node is made from.
#[derive(Clone, Debug)]
pub struct SeatMaker {
    pub config: Arc<KafkaLogConfig>,
    pub condition: Arc<Condition>,
    pub membership: Arc<Membership>,
    pub is_closing: Arc<AtomicBool>,
}

impl SeatMaker {
    /// Joins the group in the background, once the seat is polled.
    pub fn make(&self) -> Result<Seat, KafkaError> {
        let context = MemberContext {
            link: Link::new("group", &self.condition),
            config: Arc::clone(&self.config),
            membership: Arc::clone(&self.membership),
            is_closing: Arc::clone(&self.is_closing),
            is_given_up: AtomicBool::new(false),
        };
        let seat = BaseConsumer::from_config_and_context(&self.config.member(), context)?;
        self.join(&seat)?;
        Ok(seat)
    }

    fn join(&self, seat: &Seat) -> Result<(), KafkaError> {
        seat.subscribe(&[&self.config.topic(Topic::Uplinks)])
    }

    /// Gives up what the seat has, in order, leaves the group and joins it again: that moves the group, as nothing else does that a static
    /// member can do.
    pub fn rejoin(&self, seat: &Seat) -> Result<(), KafkaError> {
        seat.unsubscribe();
        self.join(seat)
    }
}

/// Answers rebalances.
#[derive(Debug)]
pub struct MemberContext {
    pub link: Link,
    config: Arc<KafkaLogConfig>,
    membership: Arc<Membership>,
    is_closing: Arc<AtomicBool>,
    is_given_up: AtomicBool,
}

impl MemberContext {
    /// From now on nothing that this seat hears changes what this node owns: another takes its place.
    pub fn give_up_seat(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }

    fn is_mute(&self) -> bool {
        self.is_closing.load(Ordering::Acquire) || self.is_given_up.load(Ordering::Acquire)
    }

    fn assign(&self, consumer: &Seat, list: &mut TopicPartitionList, partitions: Vec<PartitionId>) {
        if let Err(error) = list.set_all_offsets(KafkaOffset::End) {
            tracing::warn!(%error, "an assignment of the group");
        }
        let assigned = consumer.incremental_assign(list).and_then(|()| consumer.pause(list));
        if let Err(error) = assigned {
            tracing::warn!(%error, ?partitions, "an assignment of the group was not taken");
            return;
        }
        if self.is_mute() {
            return;
        }
        counter!(REBALANCES, "kind" => "assigned").increment(1);
        tracing::info!(?partitions, "the group assigns partitions");
        self.membership.assigned(partitions);
    }

    fn give_up(&self, consumer: &Seat, partitions: &[PartitionId]) {
        if self.is_mute() || partitions.is_empty() {
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
    fn rebalance(&self, consumer: &Seat, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
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
