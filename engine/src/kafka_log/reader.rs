//! The thread that reads: it puts readers where they are wanted, and moves what arrives into the partitions' stretches while those have
//! room. What has no room stays with librdkafka, which then fetches no more of that partition.
//!
//! Two of librdkafka's consumers serve all partitions: one at the ends, one for whoever goes back. Each partition has a queue of its own in
//! each, so that an error names its partition and one that is full holds up no other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use metrics::counter;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{Offset, Record, Topic};

use super::config::{KafkaLogConfig, OpenKafkaError};
use super::link::{Condition, Link};
use super::metrics::{FETCHED, REPOSITIONED};
use super::native;
use super::record::record_of;
use super::view::{BACK_IDLE_AFTER, Side, Stretch, View};

/// How long one request for a topic's partitions may take.
const METADATA_WITHIN: Duration = Duration::from_secs(2);
/// The thread looks around this often even when nobody wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// librdkafka's own events are served this often.
const SERVE_EVERY: Duration = Duration::from_millis(500);
/// Records moved in one go, so that those who wait for them are not kept.
const NUM_MOVED_MAX: usize = 512;

/// How long librdkafka may take to let a partition go.
const PLACED_WITHIN: Duration = Duration::from_secs(5);

type Consumer = Arc<BaseConsumer<Link>>;

/// Everything that is read from.
pub type Views = Arc<[Vec<Arc<View>>; 2]>;

/// The place of a topic in [`Views`].
pub const fn index(topic: Topic) -> usize {
    match topic {
        Topic::Uplinks => 0,
        Topic::Deliveries => 1,
    }
}

/// The thread, and what it shares.
pub struct Reader {
    back: Consumer,
    config: Arc<KafkaLogConfig>,
    is_closing: Arc<AtomicBool>,
    thread: Thread,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// Starts the thread.
    pub fn start(
        config: &Arc<KafkaLogConfig>,
        condition: &Arc<Condition>,
        views: &Views,
    ) -> Result<Self, OpenKafkaError> {
        let consumer = |name, is_live| -> Result<Consumer, OpenKafkaError> {
            let made = BaseConsumer::from_config_and_context(&config.reader(is_live), Link::new(name, condition));
            made.map(Arc::new).map_err(|error| OpenKafkaError::Config(error.to_string()))
        };
        let (live, back) = (consumer("read", true)?, consumer("sweep", false)?);
        let is_closing = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            consumers: [live, Arc::clone(&back)],
            config: Arc::clone(config),
            views: Arc::clone(views),
            is_closing: Arc::clone(&is_closing),
            sessions: HashMap::new(),
        };
        let handle = std::thread::Builder::new().name("sluse-read".into()).spawn(move || worker.run())?;
        let thread = handle.thread().clone();
        Ok(Self { back, config: Arc::clone(config), is_closing, thread, handle: Mutex::new(Some(handle)) })
    }

    /// Something is wanted.
    pub fn wake(&self) {
        self.thread.unpark();
    }

    /// Asks Kafka where a partition starts and ends. Blocks.
    pub fn ask_bounds(
        &self,
        topic: Topic,
        partition: PartitionId,
        within: Duration,
    ) -> Result<(Offset, Offset), LogError> {
        let topic = self.config.topic(topic);
        let asked = self.persist(&topic, within, |left| self.back.fetch_watermarks(&topic, partition.0 as i32, left));
        let (start, end) = asked.map_err(|error| unavailable("where the log starts and ends", &error))?;
        Ok((Offset(start.max(0) as u64), Offset(end.max(0) as u64)))
    }

    /// Asks Kafka for the first record at or after a time; `None` when there is none. Blocks.
    pub fn ask_offset_at(
        &self,
        topic: Topic,
        partition: PartitionId,
        at_ms: i64,
        within: Duration,
    ) -> Result<Option<Offset>, LogError> {
        let topic = self.config.topic(topic);
        let found = self.persist(&topic, within, |left| {
            let mut asked = TopicPartitionList::with_capacity(1);
            asked.add_partition_offset(&topic, partition.0 as i32, KafkaOffset::Offset(at_ms.max(0)))?;
            let answered = self.back.offsets_for_times(asked, left)?;
            let elements = answered.elements();
            let Some(element) = elements.first() else { return Ok(None) };
            element.error()?;
            Ok(match element.offset() {
                KafkaOffset::Offset(offset) => Some(Offset(offset as u64)),
                _ => None,
            })
        });
        found.map_err(|error| unavailable("an offset by its time", &error))
    }

    /// Asks again while partitions move, for as long as the caller waits.
    ///
    /// librdkafka answers from what it was last told of the topic. A broker that has just started may have told it of no partitions at all,
    /// and a client that only asks is not told anew by itself for minutes: so it is made to ask.
    fn persist<T>(
        &self,
        topic: &str,
        within: Duration,
        mut question: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            match question(left) {
                Err(error) if is_moving(&error) && Instant::now() < deadline => {
                    if is_unknown(&error) {
                        let _ = self.back.fetch_metadata(Some(topic), left.min(METADATA_WITHIN));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                answer => return answer,
            }
        }
    }

    /// Whether Kafka answers at all. Blocks.
    pub fn ask_anything(&self, within: Duration) -> Result<(), LogError> {
        let topic = self.config.topic(Topic::Uplinks);
        let answered = self.back.fetch_metadata(Some(&topic), within);
        answered.map(drop).map_err(|error| unavailable("the topic", &error))
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.wake();
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if handle.is_some_and(|handle| handle.join().is_err()) {
            tracing::error!("the thread that reads from Kafka has panicked");
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.close();
    }
}

fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
    )
}

fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure
                // Topics that were made a moment ago.
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

fn unavailable(what: &str, error: &KafkaError) -> LogError {
    LogError::Unavailable(format!("Kafka does not say {what}: {error}"))
}

/// One partition's queue in one of the consumers.
struct Session {
    queue: PartitionQueue<Link>,
    /// Set when the queue gets something while it was empty.
    has_news: Arc<AtomicBool>,
    /// It may hold more: it was left because the stretch was full.
    is_left_full: bool,
}

struct Worker {
    consumers: [Consumer; 2],
    config: Arc<KafkaLogConfig>,
    views: Views,
    is_closing: Arc<AtomicBool>,
    sessions: HashMap<(Topic, PartitionId, Side), Session>,
}

/// How far a queue was emptied.
#[derive(PartialEq, Eq)]
enum Emptied {
    ToTheEnd,
    NoRoom,
    Failed,
}

impl Worker {
    fn run(mut self) {
        let mut served_at = Instant::now();
        while !self.is_closing.load(Ordering::Acquire) {
            self.place_readers();
            self.rest_or_go_on();
            let is_busy = self.move_records();
            if served_at.elapsed() >= SERVE_EVERY {
                served_at = Instant::now();
                for consumer in &self.consumers {
                    // Records come through the partitions' queues; here are log lines and errors of the whole.
                    let _ = consumer.poll(Duration::ZERO);
                }
                self.close_idle();
            }
            if !is_busy {
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
        self.sessions.clear();
        for view in self.views.iter().flatten() {
            let mut state = view.lock();
            (state.live.is_open, state.back.is_open) = (false, false);
        }
    }

    fn consumer(&self, side: Side) -> &Consumer {
        match side {
            Side::Live => &self.consumers[0],
            Side::Back => &self.consumers[1],
        }
    }

    /// Puts readers where they are wanted.
    fn place_readers(&mut self) {
        let views = Arc::clone(&self.views);
        for view in views.iter().flatten() {
            for side in [Side::Live, Side::Back] {
                let Some(wanted) = view.lock().stretch(side).wanted else { continue };
                let placed = self.place(view, side, wanted, || view.open(side, wanted));
                let mut state = view.lock();
                let stretch = state.stretch(side);
                if stretch.wanted == Some(wanted) {
                    stretch.wanted = None;
                }
                note_placed(stretch, placed);
                drop(state);
                view.notify();
            }
        }
    }

    /// Lets live readers rest while this node's own records suffice, and has them go on where the stretch ends when those do not.
    fn rest_or_go_on(&mut self) {
        let views = Arc::clone(&self.views);
        for view in views.iter().flatten() {
            let mut state = view.lock();
            let live = &mut state.live;
            let next = live.reel.next();
            let may_rest = live.own.suffice(next, Instant::now());
            if !live.is_open || live.wanted.is_some() || may_rest == live.is_resting {
                continue;
            }
            live.is_resting = may_rest;
            if may_rest {
                drop(state);
                self.let_go((view.topic, view.partition, Side::Live));
            } else {
                live.own.start_over();
                drop(state);
                let placed = self.place(view, Side::Live, next, || ());
                note_placed(&mut view.lock().live, placed);
                view.notify();
            }
        }
    }

    /// Puts a reader at `from`; `begin` comes before its first record.
    fn place(&mut self, view: &View, side: Side, from: Offset, begin: impl FnOnce()) -> Result<(), KafkaError> {
        let key = (view.topic, view.partition, side);
        let (topic, partition) = (self.config.topic(view.topic), view.partition.0 as i32);
        counter!(REPOSITIONED, "topic" => view.topic.name(), "reader" => side.as_str()).increment(1);
        let consumer = Arc::clone(self.consumer(side));
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&topic, partition, KafkaOffset::Offset(from.0 as i64))?;
        if self.sessions.remove(&key).is_some() {
            consumer.incremental_unassign(&list)?;
        }
        // Until the old assignment has ended, the position is the old one.
        let deadline = Instant::now() + PLACED_WITHIN;
        while native::position(&consumer, &topic, partition).is_some() {
            if Instant::now() > deadline {
                return Err(KafkaError::Subscription("the partition is not let go of".to_owned()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        // The queue first: what arrives before it is split off would go to the consumer's own.
        let Some(mut queue) = consumer.split_partition_queue(&topic, partition) else {
            return Err(KafkaError::Subscription("the partition has no queue".to_owned()));
        };
        let has_news = Arc::new(AtomicBool::new(true));
        queue.set_nonempty_callback({
            let (has_news, thread) = (Arc::clone(&has_news), std::thread::current());
            move || {
                has_news.store(true, Ordering::Release);
                thread.unpark();
            }
        });
        begin();
        consumer.incremental_assign(&list)?;
        self.sessions.insert(key, Session { queue, has_news, is_left_full: false });
        Ok(())
    }

    /// Moves what has arrived. `true` when there is more to do at once.
    fn move_records(&mut self) -> bool {
        let mut is_busy = false;
        let mut failed = Vec::new();
        for (key, session) in &mut self.sessions {
            let (topic, partition, side) = *key;
            let view = &self.views[index(topic)][partition.0 as usize];
            if session.is_left_full && view.lock().stretch(side).reel.has_room() {
                session.is_left_full = false;
                session.has_news.store(true, Ordering::Release);
            }
            if session.is_left_full || !session.has_news.swap(false, Ordering::AcqRel) {
                continue;
            }
            let consumer = match side {
                Side::Live => &self.consumers[0],
                Side::Back => &self.consumers[1],
            };
            match empty(consumer, session, view, side, &self.config.topic(topic)) {
                Emptied::ToTheEnd => {}
                Emptied::NoRoom => {
                    session.is_left_full = true;
                    is_busy |= view.lock().stretch(side).reel.has_room();
                }
                Emptied::Failed => failed.push(*key),
            }
        }
        for key in failed {
            self.close(key);
        }
        is_busy
    }

    fn close(&mut self, key: (Topic, PartitionId, Side)) {
        let (topic, partition, side) = key;
        if !self.let_go(key) {
            return;
        }
        let view = &self.views[index(topic)][partition.0 as usize];
        view.lock().stretch(side).is_open = false;
        view.notify();
    }

    /// Has librdkafka fetch no more of it. `false` when nothing was fetched.
    fn let_go(&mut self, key: (Topic, PartitionId, Side)) -> bool {
        let (topic, partition, side) = key;
        if self.sessions.remove(&key).is_none() {
            return false;
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.config.topic(topic), partition.0 as i32);
        if let Err(error) = self.consumer(side).incremental_unassign(&list) {
            tracing::debug!(%error, "a reader of Kafka was not given up");
        }
        true
    }

    /// Whoever went back and came back needs its reader no more.
    fn close_idle(&mut self) {
        let idle: Vec<_> = self
            .sessions
            .keys()
            .filter(|(topic, partition, side)| {
                let mut state = self.views[index(*topic)][partition.0 as usize].lock();
                *side == Side::Back && state.stretch(*side).last_read_at.elapsed() > BACK_IDLE_AFTER
            })
            .copied()
            .collect();
        for key in idle {
            self.close(key);
        }
    }
}

/// Moves records from a queue into the view until one of them has no more.
fn empty(consumer: &Consumer, session: &mut Session, view: &View, side: Side, topic: &str) -> Emptied {
    let mut records: Vec<Record> = Vec::new();
    loop {
        // What this node wrote may be there already.
        let known = view.lock().stretch(side).reel.next();
        let mut outcome = Emptied::NoRoom;
        let mut passed = None;
        while records.len() < NUM_MOVED_MAX {
            match session.queue.poll(Duration::ZERO) {
                Some(Ok(message)) if u64::try_from(message.offset()).is_ok_and(|offset| offset < known.0) => {}
                Some(Ok(message)) => match record_of(&message) {
                    Some(record) => records.push(record),
                    None => {
                        tracing::error!(
                            topic,
                            partition = view.partition.0,
                            offset = message.offset(),
                            "a record is none of ours, passing it by"
                        );
                        passed = u64::try_from(message.offset() + 1).ok();
                    }
                },
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => {
                    note_failure(view, side, &error);
                    outcome = Emptied::Failed;
                    break;
                }
                None => {
                    passed = passed.max(native::position(consumer, topic, view.partition.0 as i32));
                    outcome = Emptied::ToTheEnd;
                    break;
                }
            }
        }
        counter!(FETCHED, "topic" => view.topic.name(), "reader" => side.as_str()).increment(records.len() as u64);
        let has_room = view.bring(side, &mut records, passed.map(Offset));
        if outcome != Emptied::NoRoom || !has_room {
            return outcome;
        }
    }
}

fn note_placed(stretch: &mut Stretch, placed: Result<(), KafkaError>) {
    if let Err(error) = placed {
        stretch.is_open = false;
        stretch.trouble = Some(error.to_string());
    }
}

fn note_failure(view: &View, side: Side, error: &KafkaError) {
    let is_gone = matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)
    );
    let mut state = view.lock();
    // The next attempt asks where the log starts now.
    if is_gone {
        state.bounds_at = None;
    }
    state.stretch(side).trouble = Some(error.to_string());
    drop(state);
    if !is_gone {
        tracing::info!(topic = view.topic.name(), partition = view.partition.0, %error, "a reader of Kafka failed");
    }
    view.notify();
}
