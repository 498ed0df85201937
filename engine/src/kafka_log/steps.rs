//! Steps (I1): one thread, one transactional producer. One transaction carries the due steps of all partitions of this node: their deliveries,
//! and their positions under the group's generation.
//!
//! A step is checked first: its partition is ours, it begins at the committed position, it ends within the log. Then a transaction ends
//! in one of three ways. Committed. Certainly not written: it is aborted, and what is still ours is tried again with the group's generation of
//! then. Not known: the answer to the commit stayed out; the producer is made anew, which lets Kafka end the transaction, and the
//! committed position, which Kafka gives out only when no transaction on it is open, says what happened.
//!
//! A new producer under the same name shuts out an older one (a process that was thought dead). One that is shut out itself is made anew only
//! if nobody else bears the node's name: Kafka shuts it out for a transaction that outlived its timeout, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{Offset, Step, Topic};
use tokio::sync::oneshot;

use super::claim::Claim;
use super::config::{KafkaLogConfig, OpenKafkaError};
use super::group::Group;
use super::link::Condition;
use super::membership::{Admission, Membership};
use super::metrics::{TRANSACTION_SECONDS, TRANSACTION_STEPS, TRANSACTIONS};
use super::own::Run;
use super::transaction::{Failure, Producer};

/// The thread looks after its producer this often when there is nothing to do.
const IDLE: Duration = Duration::from_millis(200);
/// After the first step of a transaction, others are waited for this long: partitions read at common moments and are done within a few
/// milliseconds of each other, and a transaction costs as much for one step as for all.
const GATHER: Duration = Duration::from_millis(10);
/// How long a step that certainly was not written is tried again here, before its caller is told.
const TRY_AGAIN_WITHIN: Duration = Duration::from_secs(5);
/// Pause before a try after a failed one.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long a committed position may be waited for: a transaction that a dead node left open ends after its timeout.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);

type Answer = oneshot::Sender<Result<(), LogError>>;
type Position = oneshot::Sender<Result<Option<Offset>, LogError>>;

enum Command {
    Step(Step, Answer, Instant),
    Committed(PartitionId, Position),
}

#[derive(Default)]
struct Inbox {
    commands: VecDeque<Command>,
    is_closed: bool,
}

/// What the thread asks the log about.
pub trait Ends: Send + 'static {
    /// Whether uplinks up to `next` are in the log.
    fn reaches(&self, partition: PartitionId, next: Offset) -> Result<bool, LogError>;
    /// Deliveries are committed, the last at `newest`; `run` are all of them, if it is known where they stand.
    fn delivered(&self, partition: PartitionId, newest: Offset, run: Option<Run>);
}

/// Where steps are handed in.
pub struct Stepper {
    inbox: Arc<(Mutex<Inbox>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stepper")
    }
}

impl Stepper {
    /// Starts the thread, which at once makes its producer known to Kafka.
    pub fn start(
        config: &Arc<KafkaLogConfig>,
        condition: &Arc<Condition>,
        membership: &Arc<Membership>,
        group: &Arc<Group>,
        claim: &Arc<Claim>,
        ends: impl Ends,
    ) -> Result<Self, OpenKafkaError> {
        let inbox = Arc::new((Mutex::new(Inbox::default()), Condvar::new()));
        let worker = Worker {
            inbox: Arc::clone(&inbox),
            producer: Producer::new(Arc::clone(config), Arc::clone(condition), Arc::clone(claim)),
            config: Arc::clone(config),
            condition: Arc::clone(condition),
            membership: Arc::clone(membership),
            group: Arc::clone(group),
            ends: Box::new(ends),
            positions: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new().name("sluse-step".into()).spawn(move || worker.run())?;
        Ok(Self { inbox, thread: Mutex::new(Some(thread)) })
    }

    fn hand_in(&self, command: Command) -> Result<(), LogError> {
        let (inbox, wake) = &*self.inbox;
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_closed {
            return Err(LogError::Unavailable("the log is closed".into()));
        }
        inbox.commands.push_back(command);
        drop(inbox);
        wake.notify_one();
        Ok(())
    }

    /// Commits a step.
    pub async fn commit(&self, step: Step) -> Result<(), LogError> {
        let (answer, answered) = oneshot::channel();
        self.hand_in(Command::Step(step, answer, Instant::now()))?;
        answered.await.unwrap_or_else(|_| Err(LogError::Unclear("the thread that commits steps has ended".into())))
    }

    /// The committed position, with no step of ours under way.
    pub async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        let (answer, answered) = oneshot::channel();
        self.hand_in(Command::Committed(partition, answer))?;
        answered.await.unwrap_or_else(|_| Err(LogError::Unavailable("the thread that commits steps has ended".into())))
    }

    /// Takes nothing more, finishes what was handed in, and ends the thread.
    pub fn close(&self) {
        let (inbox, wake) = &*self.inbox;
        inbox.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that commits steps to Kafka has panicked");
        }
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        self.close();
    }
}

struct Pending {
    step: Step,
    answer: Answer,
    since: Instant,
}

struct Worker {
    inbox: Arc<(Mutex<Inbox>, Condvar)>,
    producer: Producer,
    config: Arc<KafkaLogConfig>,
    condition: Arc<Condition>,
    membership: Arc<Membership>,
    group: Arc<Group>,
    ends: Box<dyn Ends>,
    /// Committed positions, each valid for the assignment of this number.
    positions: BTreeMap<PartitionId, (u64, Option<Offset>)>,
}

impl Worker {
    fn run(mut self) {
        let mut pending: Vec<Pending> = Vec::new();
        loop {
            let (mut commands, mut is_closed) = self.take_commands(pending.is_empty());
            if pending.is_empty() && !is_closed && commands.iter().any(|command| matches!(command, Command::Step(..))) {
                std::thread::sleep(GATHER);
                let further;
                (further, is_closed) = self.take_commands(false);
                commands.extend(further);
            }
            for command in commands {
                match command {
                    Command::Step(step, answer, since) => pending.push(Pending { step, answer, since }),
                    Command::Committed(partition, answer) => {
                        let _ = answer.send(self.committed(partition));
                    }
                }
            }
            if pending.is_empty() {
                if is_closed {
                    return;
                }
                if self.condition.replaced().is_none() {
                    self.producer.look_after();
                }
            } else {
                let num_before = pending.len();
                pending = self.transact(pending, is_closed);
                if pending.len() == num_before {
                    std::thread::sleep(TRY_AGAIN_AFTER);
                }
            }
        }
    }

    fn take_commands(&self, may_wait: bool) -> (VecDeque<Command>, bool) {
        let (inbox, wake) = &*self.inbox;
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if may_wait && inbox.commands.is_empty() && !inbox.is_closed {
            inbox = wake.wait_timeout(inbox, IDLE).unwrap_or_else(PoisonError::into_inner).0;
        }
        (std::mem::take(&mut inbox.commands), inbox.is_closed)
    }

    /// One transaction with the first pending step of each partition. Gives back what has to be tried again.
    fn transact(&mut self, pending: Vec<Pending>, is_closed: bool) -> Vec<Pending> {
        if let Some(reason) = self.condition.replaced() {
            for Pending { step, answer, .. } in pending {
                let _ = answer.send(Err(LogError::Fenced { partition: step.partition, reason: reason.clone() }));
            }
            return Vec::new();
        }
        if let Err(reason) = self.producer.make_ready() {
            return put_off(pending, &reason, is_closed);
        }
        // The generation first, then what is owned: see `membership`.
        let Some(metadata) = self.group.metadata() else {
            return put_off(pending, "the group does not know this node yet", is_closed);
        };
        let partitions = pending.iter().map(|p| p.step.partition);
        let owned = match self.membership.begin_transaction(partitions) {
            Admission::Owned(owned) => owned,
            Admission::NotJoined => return put_off(pending, "the group has not answered yet", is_closed),
        };
        let (ready, mut later) = self.check(pending, &owned);
        if ready.is_empty() {
            self.membership.end_transaction();
            return put_off(later, "steps wait for their partition's position", is_closed);
        }
        let started_at = Instant::now();
        let written = self.write(&ready, &Arc::new(metadata));
        self.membership.end_transaction();
        let outcome = match &written {
            Ok(()) => "committed",
            Err(Failure::NotWritten(_)) => "aborted",
            Err(Failure::Unclear(_)) => "unclear",
        };
        counter!(TRANSACTIONS, "outcome" => outcome).increment(1);
        match written {
            Ok(()) => {
                histogram!(TRANSACTION_SECONDS).record(started_at.elapsed().as_secs_f64());
                histogram!(TRANSACTION_STEPS).record(ready.len() as f64);
                self.condition.set_trouble(None);
                for Pending { step, answer, .. } in ready {
                    if let Some(assignment) = owned.get(&step.partition) {
                        self.positions.insert(step.partition, (*assignment, Some(step.next)));
                    }
                    let _ = answer.send(Ok(()));
                }
                later
            }
            Err(Failure::NotWritten(reason)) => {
                tracing::info!(reason, "a transaction was aborted");
                later.extend(ready);
                put_off(later, &reason, is_closed)
            }
            Err(Failure::Unclear(reason)) => {
                tracing::warn!(reason, "the outcome of a transaction is not known");
                self.positions.clear();
                for Pending { answer, .. } in ready {
                    let _ = answer.send(Err(LogError::Unclear(reason.clone())));
                }
                later
            }
        }
    }

    /// Sorts out what may go into this transaction; the others are answered, or kept for the next.
    fn check(&mut self, pending: Vec<Pending>, owned: &BTreeMap<PartitionId, u64>) -> (Vec<Pending>, Vec<Pending>) {
        let (mut ready, mut later, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
        for pending in pending {
            let partition = pending.step.partition;
            if taken.contains(&partition) {
                later.push(pending);
                continue;
            }
            let checked = match owned.get(&partition) {
                None => Err(LogError::Fenced { partition, reason: "the group did not give it to this node".into() }),
                Some(assignment) => self.check_step(&pending.step, *assignment),
            };
            match checked {
                Ok(()) => {
                    taken.insert(partition);
                    ready.push(pending);
                }
                Err(error) => drop(pending.answer.send(Err(error))),
            }
        }
        (ready, later)
    }

    fn check_step(&mut self, step: &Step, assignment: u64) -> Result<(), LogError> {
        let partition = step.partition;
        let committed = match self.positions.get(&partition) {
            Some((of, position)) if *of == assignment => *position,
            _ => {
                let position = self.group.committed(partition, self.config.transaction_timeout)?;
                self.positions.insert(partition, (assignment, position));
                position
            }
        };
        let fenced = |reason: String| Err(LogError::Fenced { partition, reason });
        if let Some(committed) = committed
            && committed != step.from
        {
            return fenced(format!("the step begins at {} and the committed position is {committed}", step.from));
        }
        if step.next < step.from || !self.ends.reaches(partition, step.next)? {
            return fenced(format!("the step ends at {}, beyond the log's end", step.next));
        }
        Ok(())
    }

    fn write(&mut self, steps: &[Pending], metadata: &Arc<ConsumerGroupMetadata>) -> Result<(), Failure> {
        let uplinks = self.config.topic(Topic::Uplinks);
        let mut positions = TopicPartitionList::with_capacity(steps.len());
        for Pending { step, .. } in steps {
            let offset = KafkaOffset::Offset(step.next.0 as i64);
            positions
                .add_partition_offset(&uplinks, step.partition.0 as i32, offset)
                .map_err(|error| Failure::NotWritten(error.to_string()))?;
        }
        let outputs = steps.iter().flat_map(|p| p.step.outputs.iter());
        self.producer.transact(outputs, &positions, metadata)?;
        for written in self.producer.take_written() {
            let partition = written.partition;
            let outputs = steps.iter().flat_map(|p| p.step.outputs.iter());
            let records: Vec<_> = outputs.filter(|(p, _)| *p == partition).map(|(_, new)| new.clone()).collect();
            let first = written.contiguous_from(records.len());
            self.ends.delivered(
                partition,
                written.newest,
                first.map(|first| Run { first, records, is_transaction: true }),
            );
        }
        Ok(())
    }

    /// The committed position, stable.
    fn committed(&mut self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        if let Some(reason) = self.condition.replaced() {
            return Err(LogError::Fenced { partition, reason });
        }
        // A transaction of ours whose outcome is not known ends here.
        self.producer.make_ready().map_err(LogError::Unavailable)?;
        self.positions.remove(&partition);
        self.group.committed(partition, SETTLE_WITHIN)
    }
}

/// Keeps steps that were not written for another try; those that were tried for long enough are answered.
fn put_off(pending: Vec<Pending>, reason: &str, is_closed: bool) -> Vec<Pending> {
    let mut kept = Vec::new();
    for pending in pending {
        if is_closed || pending.since.elapsed() > TRY_AGAIN_WITHIN {
            let _ = pending.answer.send(Err(LogError::Unavailable(reason.to_owned())));
        } else {
            kept.push(pending);
        }
    }
    kept
}
