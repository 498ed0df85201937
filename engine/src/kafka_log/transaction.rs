//! The transactional producer: made, made known to Kafka, used for one transaction at a time, and made anew when it is of no more use.
//!
//! It is served when librdkafka has something to report while records are on their way; `commit` and `abort` of librdkafka are called only when nothing is, since
//! they wait in long steps otherwise. Positions are added on a thread of their own: librdkafka does not keep the limit of time for that
//! while the group's coordinator is a broker that has left the cluster, and comes back when some other connection changes, or never
//! (librdkafka #5456, #5511). A producer that is stuck there is left to its thread; its transaction is never committed.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use metrics::counter;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::topic_partition_list::TopicPartitionList;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{NewRecord, Offset, Topic};

use super::claim::Claim;
use super::config::KafkaLogConfig;
use super::link::{Condition, Link};
use super::metrics::PRODUCERS_RENEWED;
use super::native::{self, Bell};
use super::record::{headers_of, key_of};
use crate::log::metrics::RECORDS_APPENDED;

/// While records are on their way, the limit of time is looked at this often though nothing is reported.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What has to be tried again, or was called off, is looked at this often.
const POLL: Duration = Duration::from_millis(2);
/// One try to make a producer known.
const INIT_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a failed one.
const INIT_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Beyond the limit that librdkafka was given: it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Why a transaction was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Certainly nothing of it is, or will be, in the log.
    NotWritten(String),
    /// Its commit was on the way.
    Unclear(String),
}

/// Where the records of one transaction stand in one partition, which has them in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub partition: PartitionId,
    first: Offset,
    pub newest: Offset,
    num_records: usize,
}

impl Written {
    /// The offset of the first of `num_records` records, if all were reported and nothing stands between them.
    pub fn contiguous_from(&self, num_records: usize) -> Option<Offset> {
        let is_all = self.num_records == num_records && self.newest.0 - self.first.0 + 1 == num_records as u64;
        is_all.then_some(self.first)
    }
}

type StepProducer = BaseProducer<StepContext>;

/// Why a transaction could not be filled.
enum Unfilled {
    Failed(KafkaError),
    /// librdkafka did not come back; the producer can be asked nothing more.
    Stuck,
}

impl From<KafkaError> for Unfilled {
    fn from(error: KafkaError) -> Self {
        Self::Failed(error)
    }
}

/// See the head of this file.
pub struct Producer {
    config: Arc<KafkaLogConfig>,
    condition: Arc<Condition>,
    claim: Arc<Claim>,
    topic: String,
    /// With whether it is known to Kafka.
    current: Option<(Arc<StepProducer>, bool)>,
    not_before: Instant,
    /// The last one was shut out, with this error.
    shut_out: Option<String>,
    written: Vec<Written>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Producer")
    }
}

impl Producer {
    /// None is made yet.
    pub fn new(config: Arc<KafkaLogConfig>, condition: Arc<Condition>, claim: Arc<Claim>) -> Self {
        let topic = config.topic(Topic::Deliveries);
        let (not_before, written) = (Instant::now(), Vec::new());
        Self { config, condition, claim, topic, current: None, not_before, shut_out: None, written }
    }

    /// Serves what librdkafka has to say while nothing else is to be done, and makes a producer if there is none.
    pub fn look_after(&mut self) {
        if let Some((producer, true)) = &self.current {
            native::serve(producer);
        } else if let Err(reason) = self.make_ready() {
            tracing::debug!(reason, "the transactional producer is not ready yet");
        }
    }

    /// Makes a producer and makes it known to Kafka, which ends whatever an older one under the same name left open.
    pub fn make_ready(&mut self) -> Result<(), String> {
        if matches!(self.current, Some((_, true))) {
            return Ok(());
        }
        if Instant::now() < self.not_before {
            return Err("the transactional producer is being renewed".to_owned());
        }
        if let Some(reason) = &self.shut_out {
            // A new one would shut out whoever bears our name now.
            match self.claim.is_ours() {
                Ok(true) => self.shut_out = None,
                Ok(false) => {
                    self.condition.replaced_by_another(reason);
                    return Err("another process bears this node's name".to_owned());
                }
                Err(error) => return Err(format!("who bears this node's name cannot be asked: {error}")),
            }
        }
        if self.current.is_none() {
            let (link, reports, bell) = (Link::new("step", &self.condition), Mutex::default(), Bell::default());
            let made =
                BaseProducer::from_config_and_context(&self.config.stepper(), StepContext { link, reports, bell });
            let made = made.map_err(|error| error.to_string())?;
            native::wake_me(&made);
            self.current = Some((Arc::new(made), false));
        }
        let Some((producer, is_known)) = &mut self.current else { return Err("no producer".to_owned()) };
        match producer.init_transactions(INIT_WITHIN) {
            Ok(()) => {
                *is_known = true;
                counter!(PRODUCERS_RENEWED).increment(1);
                Ok(())
            }
            Err(error) => {
                native::serve(producer);
                let is_over = matches!(&error, KafkaError::Transaction(error) if !error.is_retriable());
                if is_over {
                    self.drop_current(&error);
                }
                self.not_before = self.not_before.max(Instant::now() + INIT_AGAIN_AFTER);
                Err(format!("Kafka does not take the transactional producer: {error}"))
            }
        }
    }

    /// Where the records of the transaction that was committed stand, by partition.
    pub fn take_written(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.written)
    }

    fn drop_current(&mut self, error: &KafkaError) {
        let is_fenced = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
        );
        tracing::warn!(%error, is_fenced, "the transactional producer is made anew");
        if is_fenced {
            self.shut_out = Some(error.to_string());
        }
        self.not_before = Instant::now() + INIT_AGAIN_AFTER;
        self.current = None;
    }

    /// One transaction with these outputs and positions.
    pub fn transact<'a>(
        &mut self,
        outputs: impl Iterator<Item = &'a (PartitionId, NewRecord)>,
        positions: &TopicPartitionList,
        metadata: &Arc<ConsumerGroupMetadata>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.config.transaction_timeout;
        self.written.clear();
        let Some((producer, true)) = &self.current else {
            return Err(Failure::NotWritten("the transactional producer is not ready".to_owned()));
        };
        producer.context().take_reports();
        if let Err(error) = producer.begin_transaction() {
            self.drop_current(&error);
            return Err(Failure::NotWritten(format!("a transaction cannot be begun: {error}")));
        }
        match fill(producer, &self.topic, outputs, positions, metadata, deadline) {
            Ok(()) => {}
            Err(Unfilled::Failed(error)) => return Err(self.abort(&error)),
            Err(Unfilled::Stuck) => return Err(self.leave()),
        }
        self.commit(deadline)
    }

    fn commit(&mut self, deadline: Instant) -> Result<(), Failure> {
        loop {
            let Some((producer, _)) = &self.current else {
                return Err(Failure::Unclear("the transactional producer is gone".to_owned()));
            };
            let Err(error) = producer.commit_transaction(left(deadline)) else {
                self.note_written();
                return Ok(());
            };
            let KafkaError::Transaction(why) = &error else {
                // The flush before it: the commit was not sent.
                return Err(self.abort(&error));
            };
            if why.txn_requires_abort() {
                return Err(self.abort(&error));
            }
            if why.is_retriable() && Instant::now() < deadline {
                native::serve_after(producer, POLL);
                continue;
            }
            self.drop_current(&error);
            return Err(Failure::Unclear(format!("the commit was not answered: {error}")));
        }
    }

    fn note_written(&mut self) {
        let Some((producer, _)) = &self.current else { return };
        let reports = producer.context().take_reports();
        counter!(RECORDS_APPENDED, "topic" => Topic::Deliveries.name()).increment(reports.num_written);
        self.written = reports.written;
    }

    /// Leaves a producer that is stuck to its thread. The next one under its name has Kafka abort what it had begun.
    fn leave(&mut self) -> Failure {
        tracing::warn!(
            "librdkafka is stuck adding positions to a transaction: the transactional producer is made anew"
        );
        self.not_before = Instant::now() + INIT_AGAIN_AFTER;
        self.current = None;
        Failure::NotWritten("the group's coordinator could not be reached for the positions".to_owned())
    }

    /// Ends a transaction whose commit was not sent: whether or not Kafka hears of the abort, it will not be committed.
    fn abort(&mut self, why: &KafkaError) -> Failure {
        // "Fenced instance" says no more than that the membership it names is over: it may have been our own, before we joined again.
        let failure = Failure::NotWritten(why.to_string());
        let is_fatal = matches!(why, KafkaError::Transaction(error) if error.is_fatal());
        if is_fatal {
            self.drop_current(why);
            return failure;
        }
        let Some((producer, _)) = &self.current else { return failure };
        let deadline = Instant::now() + self.config.transaction_timeout;
        producer.purge(PurgeConfig::default().queue().inflight());
        while producer.in_flight_count() > 0 && Instant::now() < deadline {
            native::serve_after(producer, POLL);
        }
        loop {
            match producer.abort_transaction(left(deadline)) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    native::serve_after(producer, POLL);
                }
                Err(error) => {
                    self.drop_current(&error);
                    break;
                }
            }
        }
        failure
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))
}

/// Hands everything over, waits until it is written, and adds the positions.
fn fill<'a>(
    producer: &Arc<StepProducer>,
    topic: &str,
    outputs: impl Iterator<Item = &'a (PartitionId, NewRecord)>,
    positions: &TopicPartitionList,
    metadata: &Arc<ConsumerGroupMetadata>,
    deadline: Instant,
) -> Result<(), Unfilled> {
    for (partition, record) in outputs {
        send(producer, topic, *partition, record)?;
    }
    while producer.in_flight_count() > 0 {
        native::serve_when_reported(producer, LOOK_EVERY);
        if let Some(code) = producer.context().failed() {
            return Err(KafkaError::MessageProduction(code).into());
        }
        if Instant::now() > deadline {
            return Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut).into());
        }
    }
    if let Some(code) = producer.context().failed() {
        return Err(KafkaError::MessageProduction(code).into());
    }
    add_positions(producer, positions, metadata, deadline)
}

/// See the head of this file.
fn add_positions(
    producer: &Arc<StepProducer>,
    positions: &TopicPartitionList,
    metadata: &Arc<ConsumerGroupMetadata>,
    deadline: Instant,
) -> Result<(), Unfilled> {
    let (answer, answered) = mpsc::channel();
    let within = left(deadline);
    let adding = std::thread::Builder::new().name("sluse-positions".into()).spawn({
        let (producer, positions, metadata) = (Arc::clone(producer), positions.clone(), Arc::clone(metadata));
        move || {
            let added = producer.send_offsets_to_transaction(&positions, &metadata, within);
            drop(producer);
            let _ = answer.send(added);
        }
    });
    if adding.is_err() {
        return Err(KafkaError::MessageProduction(RDKafkaErrorCode::CriticalSystemResource).into());
    }
    match answered.recv_timeout(within + STUCK_AFTER) {
        Ok(added) => Ok(added?),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Unfilled::Stuck),
    }
}

fn send(producer: &StepProducer, topic: &str, partition: PartitionId, record: &NewRecord) -> Result<(), KafkaError> {
    let (key, value) = (key_of(record), record.value.as_ref());
    let mut sent = BaseRecord::to(topic)
        .partition(partition.0 as i32)
        .key(key.as_str())
        .payload(value)
        .timestamp(record.timestamp_ms)
        .headers(headers_of(record));
    loop {
        match producer.send(sent) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                sent = back;
                native::serve_after(producer, POLL);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// What was reported of one transaction's records.
#[derive(Debug, Default)]
struct Reports {
    written: Vec<Written>,
    num_written: u64,
    failed: Option<RDKafkaErrorCode>,
}

impl Reports {
    fn note(&mut self, partition: PartitionId, offset: Offset) {
        match self.written.iter_mut().find(|written| written.partition == partition) {
            Some(written) => {
                (written.first, written.newest) = (written.first.min(offset), written.newest.max(offset));
                written.num_records += 1;
            }
            None => self.written.push(Written { partition, first: offset, newest: offset, num_records: 1 }),
        }
    }
}

struct StepContext {
    link: Link,
    reports: Mutex<Reports>,
    bell: Bell,
}

impl AsRef<Bell> for StepContext {
    fn as_ref(&self) -> &Bell {
        &self.bell
    }
}

impl StepContext {
    fn take_reports(&self) -> Reports {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self) -> Option<RDKafkaErrorCode> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).failed
    }
}

impl ClientContext for StepContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.link.say(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.note(&error, reason);
    }
}

impl ProducerContext for StepContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                let partition = PartitionId(u32::try_from(message.partition()).unwrap_or_default());
                reports.num_written += 1;
                // The report of a batch that was sent twice has no offsets: what it was about is missing in the count.
                let Some(offset) = u64::try_from(message.offset()).ok().map(Offset) else { return };
                reports.note(partition, offset);
            }
            Err((error, _)) => {
                reports.failed.get_or_insert(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
            }
        }
    }
}
