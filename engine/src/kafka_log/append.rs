//! Appends to the uplinks topic: one thread, one idempotent producer, one round per partition under way at a time.
//!
//! A round is what waits for the partition when the round before ended, at a moment that all partitions share. So appends are batched by
//! themselves, and when one fails nothing of its partition is under way behind it: everything that waits is refused, and the order of
//! acceptance is the order of the log.
//! Kafka takes a round in one or a few batches, each whole or not at all. An append of which a part may have been written is
//! [`LogError::Unclear`]; only one of which certainly nothing was written is [`LogError::Unavailable`].
//!
//! Limits: `queue_bytes_max` bytes wait; beyond it appends are refused. Waiting ends after `append_within`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use sluse_schema::beat::Beat;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{NewRecord, Offset, Topic};
use tokio::sync::oneshot;

use super::answers::{Answer, answers};
use super::config::{KafkaLogConfig, OpenKafkaError};
use super::link::{Condition, Link};
use super::metrics::APPENDS_FAILED;
use super::native::{self, Bell};
use super::own::Run;
use super::record::{headers_of, key_of};
use crate::log::metrics::{QUEUE_BYTES, QUEUE_REFUSED, RECORDS_APPENDED};

/// Records of one round, at most.
const NUM_ROUND_RECORDS_MAX: usize = 5_000;
/// Bytes of one round, at most; one append is never split.
const ROUND_BYTES_MAX: usize = 4 << 20;
/// How long the thread sleeps when nothing waits and nothing is under way.
const IDLE: Duration = Duration::from_millis(200);
/// When librdkafka's queue is full, a record is offered again after this long.
const FULL: Duration = Duration::from_millis(2);

struct Append {
    records: Vec<NewRecord>,
    answer: Answer,
}

#[derive(Default)]
struct Inbox {
    appends: Vec<(PartitionId, Append)>,
    is_closed: bool,
    /// The thread would like to be woken by an append.
    is_awaited: bool,
}

/// Where appends are handed in.
pub struct Appender {
    inbox: Arc<Mutex<Inbox>>,
    num_bytes: Arc<AtomicUsize>,
    num_bytes_max: usize,
    thread: Thread,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("num_bytes", &self.num_bytes).finish_non_exhaustive()
    }
}

impl Appender {
    /// Starts the thread. `durable` is told what was written: the last offset, and the records of which it is known where they stand.
    pub fn start(
        config: &KafkaLogConfig,
        condition: &Arc<Condition>,
        durable: impl Fn(PartitionId, Offset, Option<Run>) + Send + 'static,
    ) -> Result<Self, OpenKafkaError> {
        let (link, reports, bell) = (Link::new("append", condition), Mutex::default(), Bell::default());
        let context = AppendContext { link, reports, bell };
        let producer = BaseProducer::from_config_and_context(&config.appender(), context)
            .map_err(|error| OpenKafkaError::Config(error.to_string()))?;
        let inbox = Arc::<Mutex<Inbox>>::default();
        let num_bytes = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            producer,
            topic: config.topic(Topic::Uplinks),
            inbox: Arc::clone(&inbox),
            num_bytes: Arc::clone(&num_bytes),
            lanes: (0..config.num_partitions).map(|_| Lane::default()).collect(),
            moments: config.moments,
            next_moment: Instant::now(),
            durable: Box::new(durable),
        };
        let handle = std::thread::Builder::new().name("sluse-append".into()).spawn(move || worker.run())?;
        let (thread, num_bytes_max) = (handle.thread().clone(), config.queue_bytes_max);
        Ok(Self { inbox, num_bytes, num_bytes_max, thread, handle: Mutex::new(Some(handle)) })
    }

    /// Hands records of several partitions in; the order of calls is the order in each partition. The answers, one for each part, come
    /// when all of them are durable, or not.
    pub fn append(
        &self,
        parts: Vec<(PartitionId, Vec<NewRecord>)>,
    ) -> Result<oneshot::Receiver<Vec<Result<Offset, LogError>>>, LogError> {
        let num_bytes: usize = parts.iter().flat_map(|(_, records)| records).map(NewRecord::num_bytes).sum();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_closed {
            return Err(LogError::Unavailable("the log is closed".into()));
        }
        let num_before = self.num_bytes.load(Ordering::Relaxed);
        if num_before > 0 && num_before + num_bytes > self.num_bytes_max {
            counter!(QUEUE_REFUSED).increment(1);
            return Err(LogError::Unavailable(format!("{num_before} bytes wait for Kafka already")));
        }
        self.num_bytes.fetch_add(num_bytes, Ordering::Relaxed);
        let (answers, answered) = answers(parts.len());
        for ((partition, records), answer) in parts.into_iter().zip(answers) {
            inbox.appends.push((partition, Append { records, answer }));
        }
        let is_awaited = std::mem::take(&mut inbox.is_awaited);
        drop(inbox);
        if is_awaited {
            self.thread.unpark();
        }
        Ok(answered)
    }

    /// Takes nothing more, finishes what waits, and ends the thread. Blocks up to `append_within`.
    pub fn close(&self) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.thread.unpark();
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if handle.is_some_and(|handle| handle.join().is_err()) {
            tracing::error!("the thread that appends to Kafka has panicked");
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.close();
    }
}

/// What became of one record: its offset, or why there is none. The report of a batch that was sent twice has no offsets.
type Outcome = Result<Option<Offset>, RDKafkaErrorCode>;

/// Collects delivery reports; they come on the thread that polls.
struct AppendContext {
    link: Link,
    /// Partition, place in the round, outcome.
    reports: Mutex<Vec<(usize, usize, Outcome)>>,
    bell: Bell,
}

impl AsRef<Bell> for AppendContext {
    fn as_ref(&self) -> &Bell {
        &self.bell
    }
}

impl ClientContext for AppendContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.link.say(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.note(&error, reason);
    }
}

impl ProducerContext for AppendContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        let (message, outcome) = match result {
            Ok(message) => (message, Ok(u64::try_from(message.offset()).ok().map(Offset))),
            Err((error, message)) => (message, Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))),
        };
        let partition = usize::try_from(message.partition()).unwrap_or(usize::MAX);
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push((partition, place, outcome));
    }
}

/// Appends of one partition that Kafka was given together.
struct Round {
    /// Records of each append, and who waits.
    appends: Vec<(usize, Answer)>,
    records: Vec<NewRecord>,
    outcomes: Vec<Option<Outcome>>,
    num_open: usize,
    num_bytes: usize,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Append>,
    round: Option<Round>,
    /// A moment came while something waited: the next round begins as soon as the one before has ended.
    is_due: bool,
}

struct Worker {
    producer: BaseProducer<AppendContext>,
    topic: String,
    inbox: Arc<Mutex<Inbox>>,
    num_bytes: Arc<AtomicUsize>,
    lanes: Vec<Lane>,
    moments: Beat,
    /// When rounds may begin again: librdkafka makes a request of each partition's. What comes after a pause is sent at once.
    next_moment: Instant,
    durable: Box<dyn Fn(PartitionId, Offset, Option<Run>) + Send>,
}

impl Worker {
    fn run(mut self) {
        native::wake_me(&self.producer);
        loop {
            let is_closed = self.take_in();
            self.begin_rounds(is_closed);
            if is_closed && !self.is_busy() {
                return;
            }
            self.wait();
            self.note_reports();
            gauge!(QUEUE_BYTES).set(self.num_bytes.load(Ordering::Relaxed) as f64);
        }
    }

    fn is_busy(&self) -> bool {
        self.lanes.iter().any(|lane| lane.round.is_some() || !lane.waiting.is_empty())
    }

    /// Begins the rounds that are due; in a hurry, every one that can be begun.
    fn begin_rounds(&mut self, is_in_a_hurry: bool) {
        let now = Instant::now();
        if is_in_a_hurry || now >= self.next_moment {
            for lane in &mut self.lanes {
                lane.is_due |= !lane.waiting.is_empty();
            }
            if self.lanes.iter().any(|lane| lane.is_due) {
                self.next_moment = self.moments.after(now);
            }
        }
        for partition in 0..self.lanes.len() {
            self.begin_round(partition);
        }
    }

    /// Waits for a report, for the moment at which rounds begin again, or, if that has passed, for an append.
    fn wait(&self) {
        let until_moment = self.next_moment.saturating_duration_since(Instant::now());
        if until_moment.is_zero() {
            // The moment came after the lanes were looked at.
            if self.lanes.iter().any(|lane| lane.round.is_none() && !lane.waiting.is_empty()) {
                return;
            }
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            inbox.is_awaited = true;
            if !inbox.appends.is_empty() || inbox.is_closed && !self.is_busy() {
                return;
            }
            drop(inbox);
            native::serve_when_reported(&self.producer, IDLE);
        } else {
            native::serve_when_reported(&self.producer, until_moment);
        }
    }

    /// Puts what came in into its lanes. `true` once closed.
    fn take_in(&mut self) -> bool {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.is_awaited = false;
        let (appends, is_closed) = (std::mem::take(&mut inbox.appends), inbox.is_closed);
        drop(inbox);
        for (partition, append) in appends {
            self.lanes[partition.0 as usize].waiting.push_back(append);
        }
        is_closed
    }

    fn begin_round(&mut self, partition: usize) {
        let lane = &mut self.lanes[partition];
        if lane.round.is_some() || lane.waiting.is_empty() || !lane.is_due {
            return;
        }
        lane.is_due = false;
        let (appends, outcomes) = (Vec::new(), Vec::new());
        let mut round = Round { appends, records: Vec::new(), outcomes, num_open: 0, num_bytes: 0 };
        while let Some(append) = lane.waiting.front() {
            let num_bytes: usize = append.records.iter().map(NewRecord::num_bytes).sum();
            let is_full = round.records.len() + append.records.len() > NUM_ROUND_RECORDS_MAX
                || round.num_bytes + num_bytes > ROUND_BYTES_MAX;
            if is_full && !round.records.is_empty() {
                break;
            }
            let Some(append) = lane.waiting.pop_front() else { break };
            round.appends.push((append.records.len(), append.answer));
            round.num_bytes += num_bytes;
            round.records.extend(append.records);
        }
        round.outcomes = vec![None; round.records.len()];
        let mut failed = None;
        for (place, record) in round.records.iter().enumerate() {
            let outcome = match failed {
                // Nothing is sent behind a record that was not taken.
                Some(code) => Err(code),
                None => self.send(partition, place, record),
            };
            match outcome {
                Ok(()) => round.num_open += 1,
                Err(code) => {
                    failed = Some(code);
                    round.outcomes[place] = Some(Err(code));
                }
            }
        }
        self.lanes[partition].round = Some(round);
        if self.lanes[partition].round.as_ref().is_some_and(|round| round.num_open == 0) {
            self.end_round(partition);
        }
    }

    fn send(&self, partition: usize, place: usize, record: &NewRecord) -> Result<(), RDKafkaErrorCode> {
        let (key, value) = (key_of(record), record.value.as_ref());
        let mut sent = BaseRecord::with_opaque_to(&self.topic, place)
            .partition(partition as i32)
            .key(key.as_str())
            .payload(value)
            .timestamp(record.timestamp_ms)
            .headers(headers_of(record));
        loop {
            match self.producer.send(sent) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    sent = back;
                    native::serve_after(&self.producer, FULL);
                }
                Err((error, _)) => return Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument)),
            }
        }
    }

    fn note_reports(&mut self) {
        let reports =
            std::mem::take(&mut *self.producer.context().reports.lock().unwrap_or_else(PoisonError::into_inner));
        for (partition, place, outcome) in reports {
            let Some(round) = self.lanes.get_mut(partition).and_then(|lane| lane.round.as_mut()) else { continue };
            if round.outcomes[place].replace(outcome).is_none() {
                round.num_open -= 1;
            }
        }
        for partition in 0..self.lanes.len() {
            if self.lanes[partition].round.as_ref().is_some_and(|round| round.num_open == 0) {
                self.end_round(partition);
            }
        }
    }

    fn end_round(&mut self, partition: usize) {
        let lane = &mut self.lanes[partition];
        let Some(round) = lane.round.take() else { return };
        self.num_bytes.fetch_sub(round.num_bytes, Ordering::Relaxed);
        let outcomes: Vec<Outcome> = round.outcomes.into_iter().flatten().collect();
        if let Some(newest) = outcomes.iter().filter_map(|outcome| outcome.ok()).max() {
            if let Some(newest) = newest {
                (self.durable)(PartitionId(partition as u32), newest, run_of(round.records, &outcomes));
            }
            self.producer.context().link.condition().set_trouble(None);
        }
        let num_written = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        counter!(RECORDS_APPENDED, "topic" => Topic::Uplinks.name()).increment(num_written as u64);
        let mut first = 0;
        let mut failure = None;
        for (num_records, answer) in round.appends {
            let verdict = verdict(&outcomes[first..first + num_records], &mut failure);
            first += num_records;
            count_failure(&verdict);
            answer.give(verdict);
        }
        let Some(code) = failure else { return };
        tracing::warn!(partition, error = %code, "Kafka did not take an append, what waits behind it is refused");
        for append in lane.waiting.drain(..) {
            self.num_bytes.fetch_sub(append.records.iter().map(NewRecord::num_bytes).sum(), Ordering::Relaxed);
            let refused = Err(LogError::Unavailable(format!("an append before this one failed: {code}")));
            count_failure(&refused);
            append.answer.give(refused);
        }
    }
}

/// The first records of a round, as far as they stand one behind the other.
fn run_of(mut records: Vec<NewRecord>, outcomes: &[Outcome]) -> Option<Run> {
    let first = outcomes.first().copied()?.ok()??;
    let places = (first.0..).map(|offset| Ok(Some(Offset(offset))));
    let num = outcomes.iter().zip(places).take_while(|(outcome, place)| *outcome == place).count();
    records.truncate(num);
    Some(Run { first, records, is_transaction: false })
}

fn count_failure(verdict: &Result<Offset, LogError>) {
    match verdict {
        Ok(_) => {}
        Err(LogError::Unclear(_)) => counter!(APPENDS_FAILED, "outcome" => "unclear").increment(1),
        Err(_) => counter!(APPENDS_FAILED, "outcome" => "unavailable").increment(1),
    }
}

/// Whether a record that failed so is certainly not in the log.
fn is_certainly_unwritten(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::QueueFull
            | RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidArgument
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
    )
}

/// What one append is told. `failure` is the first failure of its round so far: what stands behind it is not accepted either, though
/// it may have been written.
fn verdict(outcomes: &[Outcome], failure: &mut Option<RDKafkaErrorCode>) -> Result<Offset, LogError> {
    let before = *failure;
    let first_failed = outcomes.iter().find_map(|outcome| outcome.as_ref().err().copied());
    *failure = before.or(first_failed);
    let Some(code) = *failure else {
        return Ok(outcomes.first().and_then(|outcome| outcome.ok().flatten()).unwrap_or_default());
    };
    let is_unwritten = outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|code| is_certainly_unwritten(*code)));
    if is_unwritten {
        Err(LogError::Unavailable(format!("Kafka refuses it: {code}")))
    } else {
        Err(LogError::Unclear(format!("Kafka did not acknowledge it: {code}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sluse_schema::record::Headers;

    const LATE: Outcome = Err(RDKafkaErrorCode::MessageTimedOut);
    const LARGE: Outcome = Err(RDKafkaErrorCode::MessageSizeTooLarge);

    /// The verdicts of a round whose appends have these outcomes: the offset, `?` for unclear, `-` for not written.
    fn verdicts(appends: &[&[Outcome]]) -> Vec<String> {
        let mut failure = None;
        let told = appends.iter().map(|outcomes| match verdict(outcomes, &mut failure) {
            Ok(offset) => offset.to_string(),
            Err(LogError::Unclear(_)) => "?".to_owned(),
            Err(_) => "-".to_owned(),
        });
        told.collect()
    }

    #[test]
    fn what_stands_behind_a_failure_is_not_accepted_even_when_it_was_written() {
        let ok = |offset| Ok(Some(Offset(offset)));
        assert_eq!(verdicts(&[&[ok(5), ok(6)], &[ok(7)]]), ["5", "7"]);
        assert_eq!(verdicts(&[&[ok(5)], &[LATE], &[ok(6)], &[LARGE]]), ["5", "?", "?", "-"]);
        assert_eq!(verdicts(&[&[LARGE], &[LARGE, LARGE]]), ["-", "-"]);
        assert_eq!(verdicts(&[&[ok(5), LARGE]]), ["?"]);
    }

    #[test]
    fn a_run_ends_where_something_may_stand_between_and_an_offset_that_is_not_known_is_none() {
        let ok = |offset| Ok(Some(Offset(offset)));
        let run = |outcomes: &[Outcome]| {
            let new = NewRecord { key: 1, timestamp_ms: 0, headers: Headers::default(), value: Bytes::new() };
            run_of(vec![new; outcomes.len()], outcomes).map(|run| (run.first.0, run.records.len()))
        };
        assert_eq!(run(&[ok(5), ok(6), ok(7)]), Some((5, 3)));
        assert_eq!(run(&[ok(5), ok(6), ok(8)]), Some((5, 2)));
        assert_eq!(run(&[ok(5), LATE, ok(6)]), Some((5, 1)));
        assert_eq!(run(&[ok(5), Ok(None), ok(7)]), Some((5, 1)));
        assert_eq!(run(&[Ok(None), ok(1)]), None);
        assert_eq!(run(&[LATE, ok(1)]), None);
    }
}
