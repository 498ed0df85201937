//! [`KafkaLog`]: the port over Kafka. Each part runs on a thread of its own, none on an arbiter: appends, steps, the group, reading.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Assignment, Log, LogError, ReadBatch, ReadLimit, TargetBacklog};
use sluse_schema::record::{LogIdentity, NewRecord, Offset, Position, Record, Resolution, Step, Topic};
use tokio::time::{Instant, timeout, timeout_at};

use super::append::Appender;
use super::blocks::{BLOCK, BlockIndex, Counted};
use super::claim::Claim;
use super::config::{KafkaLogConfig, OpenKafkaError};
use super::group::Group;
use super::lease::Lease;
use super::link::{Condition, Link};
use super::membership::Membership;
use super::metrics::INDEX_BLOCKS;
use super::own::Run;
use super::reader::{Reader, Views, index};
use super::steps::{Ends, Stepper};
use super::topics::Topics;
use super::view::{Attempt, Observe, View};

/// How long a read waits for Kafka.
const READ_WITHIN: Duration = Duration::from_secs(15);
/// One question to Kafka.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// A wait for new records ends after this long anyway.
const WAIT_AT_MOST: Duration = Duration::from_secs(1);
/// `/readyz` is answered within 2 s.
const HEALTH_WITHIN: Duration = Duration::from_millis(1_500);
/// What a scan takes in one go.
const SCAN: ReadLimit = ReadLimit { num_records_max: 4_096, num_bytes_max: 4 << 20 };
/// Of the block index of one partition: pairs of block and target (32 bytes each), and records whose place is kept (24 bytes each).
const NUM_POSTINGS_MAX: usize = 250_000;
const NUM_PLACES_MAX: usize = 200_000;
const NO_FLOOR: u64 = u64::MAX;

type Indexes = Arc<[Mutex<BlockIndex>]>;

fn observe(indexes: &Indexes, partition: PartitionId, from: Offset, next: Offset, records: &[Record]) {
    let mut index = indexes[partition.0 as usize].lock().unwrap_or_else(PoisonError::into_inner);
    index.observe(from, next, records);
    metrics::gauge!(INDEX_BLOCKS, "partition" => partition.to_string()).set(index.num_blocks() as f64);
}

/// The log of several nodes, in Kafka.
#[derive(Debug)]
pub struct KafkaLog {
    config: Arc<KafkaLogConfig>,
    identity: LogIdentity,
    condition: Arc<Condition>,
    membership: Arc<Membership>,
    views: Views,
    indexes: Indexes,
    appender: Arc<Appender>,
    stepper: Arc<Stepper>,
    group: Arc<Group>,
    reader: Arc<Reader>,
    floors: [Vec<AtomicU64>; 2],
    is_closed: AtomicBool,
}

impl KafkaLog {
    /// Connects, makes the topics if they are missing, and joins the group in the background.
    ///
    /// # Errors
    /// [`OpenKafkaError`] says what to do.
    pub async fn open(config: KafkaLogConfig) -> Result<Arc<Self>, OpenKafkaError> {
        config.check_properties()?;
        let config = Arc::new(config);
        let condition = Arc::new(Condition::default());
        let topics = Topics::new(&config, Link::new("admin", &condition))?;
        let cluster_id = topics.cluster_id()?;
        topics.ensure().await?;
        drop(topics);
        let identity = LogIdentity { store: config.store(&cluster_id), incarnation: 0 };

        let indexes: Indexes =
            (0..config.num_partitions).map(|_| Mutex::new(BlockIndex::new(NUM_POSTINGS_MAX, NUM_PLACES_MAX))).collect();
        let observe_deliveries = || -> Observe {
            let indexes = Arc::clone(&indexes);
            Box::new(move |partition, from, next, records| observe(&indexes, partition, from, next, records))
        };
        let views = |topic| -> Vec<Arc<View>> {
            let observe = || (topic == Topic::Deliveries).then(observe_deliveries);
            let view = |p| Arc::new(View::new(topic, PartitionId(p), config.in_memory(topic), observe()));
            (0..config.num_partitions).map(view).collect()
        };
        let views: Views = Arc::new([views(Topic::Uplinks), views(Topic::Deliveries)]);
        let membership = Arc::new(Membership::default());
        let reader = Arc::new(Reader::start(&config, &condition, &views)?);
        let ends = LogEnds { views: Arc::clone(&views), reader: Arc::clone(&reader) };
        let appender = Appender::start(&config, &condition, {
            let ends = ends.clone();
            move |partition, newest, run| ends.reach(Topic::Uplinks, partition, newest, run)
        })?;
        let appender = Arc::new(appender);
        // Before this node joins, and before its producer shuts an older one out.
        let claim = Claim::stake(&config, &condition).await?;
        let group = Arc::new(Group::start(&config, &condition, &membership, &claim, {
            let views = Arc::clone(&views);
            move |partition| {
                let state = views[index(Topic::Deliveries)][partition.0 as usize].lock();
                state.live.is_open.then(|| state.live.reel.next())
            }
        })?);
        let stepper = Arc::new(Stepper::start(&config, &condition, &membership, &group, &claim, ends)?);
        let floors = || (0..config.num_partitions).map(|_| AtomicU64::new(NO_FLOOR)).collect();
        Ok(Arc::new(Self {
            identity,
            condition,
            membership,
            views,
            indexes,
            appender,
            stepper,
            group,
            reader,
            floors: [floors(), floors()],
            is_closed: AtomicBool::new(false),
            config,
        }))
    }

    /// Until when this node may act for what it owns.
    pub fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.membership.lease)
    }

    /// Drops the records below `before` at once, as far as the floor allows. Gives the new start.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    #[doc(hidden)]
    pub async fn trim_to(&self, topic: Topic, partition: PartitionId, before: Offset) -> Result<Offset, LogError> {
        let floor = self.floors[index(topic)][partition.0 as usize].load(Ordering::Acquire);
        let before = before.min(Offset(floor));
        let failed = |error: rdkafka::error::KafkaError| LogError::Unavailable(error.to_string());
        let admin: AdminClient<Link> =
            AdminClient::from_config_and_context(&self.config.admin(), Link::new("admin", &self.condition))
                .map_err(failed)?;
        let mut list = TopicPartitionList::with_capacity(1);
        let name = self.config.topic(topic);
        list.add_partition_offset(&name, partition.0 as i32, KafkaOffset::Offset(before.0 as i64)).map_err(failed)?;
        let trimmed = admin.delete_records(&list, &AdminOptions::new()).await.map_err(failed)?;
        for element in trimmed.elements() {
            element.error().map_err(failed)?;
        }
        let view = self.view(topic, partition)?;
        let end = view.lock().end;
        Ok(view.set_bounds(before, end).0)
    }

    /// Whether nothing of a partition is fetched, since this node's own records suffice.
    #[doc(hidden)]
    pub fn is_reader_resting(&self, topic: Topic, partition: PartitionId) -> bool {
        self.view(topic, partition).is_ok_and(|view| view.lock().live.is_resting)
    }

    fn view(&self, topic: Topic, partition: PartitionId) -> Result<&Arc<View>, LogError> {
        self.views[index(topic)].get(partition.0 as usize).ok_or_else(|| {
            let num_partitions = self.config.num_partitions;
            LogError::Unavailable(format!("there is no partition {partition}, the log has {num_partitions}"))
        })
    }

    fn index(&self, partition: PartitionId) -> MutexGuard<'_, BlockIndex> {
        self.indexes[partition.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the block that `[from, until)` lies in, from its beginning, for the index; counts what is asked for on the way.
    async fn count_by_reading(
        &self,
        view: &View,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, LogError> {
        let mut at = Offset(from.0 / BLOCK * BLOCK).max(view.lock().start);
        let mut backlog = TargetBacklog::default();
        while at < until {
            let batch = self.read_view(view, at, SCAN, None, false).await?;
            observe(&self.indexes, view.partition, at, batch.next, &batch.records);
            let counted = batch.records.iter().filter(|r| r.key == target.0 && r.offset >= from && r.offset < until);
            for record in counted {
                backlog.num_records += 1;
                backlog.first.get_or_insert((record.offset, record.timestamp_ms));
            }
            at = batch.next;
        }
        Ok(backlog)
    }

    /// Asks Kafka something, off the arbiter.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let reader = Arc::clone(&self.reader);
        let answered = tokio::task::spawn_blocking(move || question(&reader)).await;
        answered.unwrap_or_else(|error| Err(LogError::Unavailable(format!("a question to Kafka ended early: {error}"))))
    }

    async fn ask_bounds(&self, view: &View) -> Result<(Offset, Offset), LogError> {
        let (topic, partition) = (view.topic, view.partition);
        let (start, end) = self.ask(move |reader| reader.ask_bounds(topic, partition, ASK_WITHIN)).await?;
        Ok(view.set_bounds(start, end))
    }

    /// Reads from wherever `from` is in memory, or has a reader put there.
    async fn read_view(
        &self,
        view: &View,
        from: Offset,
        limit: ReadLimit,
        key: Option<i64>,
        may_move_live: bool,
    ) -> Result<ReadBatch, LogError> {
        let deadline = Instant::now() + READ_WITHIN;
        let mut changes = view.subscribe();
        let mut turn = None;
        loop {
            changes.borrow_and_update();
            match view.try_read(from, limit, key, may_move_live, turn.is_some()) {
                Attempt::Done(outcome) => return outcome,
                Attempt::AskBounds => drop(self.ask_bounds(view).await?),
                Attempt::GoBack => turn = Some(view.back_turn.lock().await),
                Attempt::Wait => {
                    self.reader.wake();
                    if timeout_at(deadline, changes.changed()).await.is_err() {
                        let trouble = view.trouble().or_else(|| self.condition.trouble());
                        let trouble = trouble.unwrap_or_else(|| "it does not answer".to_owned());
                        return Err(LogError::Unavailable(format!("Kafka gives no records: {trouble}")));
                    }
                }
            }
        }
    }
}

/// What steps are checked against, and who is told what was written.
#[derive(Clone)]
struct LogEnds {
    views: Views,
    reader: Arc<Reader>,
}

impl LogEnds {
    fn reach(&self, topic: Topic, partition: PartitionId, newest: Offset, run: Option<Run>) {
        let Some(view) = self.views[index(topic)].get(partition.0 as usize) else { return };
        if view.reach(newest, run) {
            self.reader.wake();
        }
    }
}

impl Ends for LogEnds {
    fn reaches(&self, partition: PartitionId, next: Offset) -> Result<bool, LogError> {
        let Some(view) = self.views[index(Topic::Uplinks)].get(partition.0 as usize) else { return Ok(false) };
        if next <= view.lock().end {
            return Ok(true);
        }
        let (start, end) = self.reader.ask_bounds(Topic::Uplinks, partition, ASK_WITHIN)?;
        Ok(next <= view.set_bounds(start, end).1)
    }

    fn delivered(&self, partition: PartitionId, newest: Offset, run: Option<Run>) {
        self.reach(Topic::Deliveries, partition, newest, run);
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn identity(&self) -> LogIdentity {
        self.identity.clone()
    }

    fn num_partitions(&self) -> u32 {
        self.config.num_partitions
    }

    async fn append(&self, partition: PartitionId, records: Vec<NewRecord>) -> Result<Offset, LogError> {
        self.view(Topic::Uplinks, partition)?;
        if records.is_empty() {
            return Ok(self.bounds(Topic::Uplinks, partition).await?.1);
        }
        let [answer] = <[_; 1]>::try_from(self.append_all(vec![(partition, records)]).await)
            .unwrap_or_else(|_| [Err(LogError::Unclear("the log gave no answer".into()))]);
        answer
    }

    async fn append_all(&self, parts: Vec<(PartitionId, Vec<NewRecord>)>) -> Vec<Result<Offset, LogError>> {
        if parts.iter().any(|(_, records)| records.is_empty()) {
            return join_all(parts.into_iter().map(|(partition, records)| self.append(partition, records))).await;
        }
        let num_parts = parts.len();
        let is_known = |(partition, _): &(PartitionId, _)| self.view(Topic::Uplinks, *partition).map(drop);
        if num_parts == 0 {
            return Vec::new();
        }
        match parts.iter().try_for_each(is_known).and_then(|()| self.appender.append(parts)) {
            Ok(answered) => answered.await.unwrap_or_default(),
            Err(error) => vec![Err(error); num_parts],
        }
    }

    async fn commit_step(&self, step: Step) -> Result<(), LogError> {
        self.view(Topic::Uplinks, step.partition)?;
        self.stepper.commit(step).await
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.view(Topic::Uplinks, partition)?;
        self.stepper.committed(partition).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        let view = self.view(topic, partition)?;
        self.read_view(view, from, limit, None, true).await
    }

    async fn wait_for(&self, topic: Topic, partition: PartitionId, offset: Offset) {
        let Ok(view) = self.view(topic, partition) else { return std::future::pending().await };
        let mut changes = view.subscribe();
        let reached = async {
            loop {
                changes.borrow_and_update();
                if view.lock().end > offset {
                    return;
                }
                let _ = changes.changed().await;
            }
        };
        let _ = timeout(WAIT_AT_MOST, reached).await;
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<(Offset, Offset), LogError> {
        let view = self.view(topic, partition)?;
        match view.recent_bounds() {
            Some(bounds) => Ok(bounds),
            None => self.ask_bounds(view).await,
        }
    }

    async fn offset_at(&self, topic: Topic, partition: PartitionId, at_ms: i64) -> Result<Offset, LogError> {
        let view = self.view(topic, partition)?;
        let found = self.ask(move |reader| reader.ask_offset_at(topic, partition, at_ms, ASK_WITHIN)).await?;
        let Some(mut at) = found else { return Ok(self.bounds(topic, partition).await?.1) };
        at = at.max(view.lock().start);
        if topic == Topic::Uplinks {
            return Ok(at);
        }
        // Kafka counts the marks of transactions too, and those bear the time of the commit: the record comes after it.
        let (_, end) = self.bounds(topic, partition).await?;
        while at < end {
            let batch = self.read_view(view, at, SCAN, None, false).await?;
            if let Some(record) = batch.records.iter().find(|record| record.timestamp_ms >= at_ms) {
                return Ok(record.offset);
            }
            at = batch.next;
        }
        Ok(at)
    }

    async fn read_target(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        let view = self.view(Topic::Deliveries, partition)?;
        let (start, end) = {
            let state = view.lock();
            (state.start, state.end)
        };
        // What the index says concerns others is passed without reading it.
        let at = if from < start { from } else { self.index(partition).skip(target.0, from, end.max(from)) };
        if at > from && at >= end {
            return Ok(ReadBatch { records: Vec::new(), next: at, end });
        }
        self.read_view(view, at, limit, Some(target.0), false).await
    }

    async fn backlog(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, LogError> {
        let view = self.view(Topic::Deliveries, partition)?;
        let (start, end) = self.bounds(Topic::Deliveries, partition).await?;
        let (mut at, until) = (from.max(start), until.min(end));
        let mut backlog = TargetBacklog::default();
        while at < until {
            let counted = self.index(partition).count(target.0, at, until);
            match counted {
                Counted::Upto(upto, part) => {
                    backlog.num_records += part.num_records;
                    backlog.first = backlog.first.or(part.first);
                    at = upto;
                }
                // Read once, from the block's beginning, so that the index knows it from then on.
                Counted::Unknown(upto) => {
                    let part = self.count_by_reading(view, target, at, upto).await?;
                    backlog.num_records += part.num_records;
                    backlog.first = backlog.first.or(part.first);
                    at = upto;
                }
            }
        }
        Ok(backlog)
    }

    async fn resolve(&self, topic: Topic, partition: PartitionId, stored: &Position) -> Result<Resolution, LogError> {
        if stored.log.store != self.identity.store || stored.log.incarnation > self.identity.incarnation {
            return Ok(Resolution::OtherLog);
        }
        let (start, end) = self.bounds(topic, partition).await?;
        if stored.offset < start {
            return Ok(Resolution::Expired { start });
        }
        if stored.offset > end {
            tracing::error!(
                topic = topic.name(),
                partition = partition.0,
                stored = %stored.offset,
                %end,
                "a stored position lies beyond the topic's end: the topic has lost records, or was made anew"
            );
        }
        Ok(Resolution::At(stored.offset.min(end)))
    }

    /// Kafka's retention knows no floor: what fell out is counted expired.
    fn set_retention_floor(&self, topic: Topic, partition: PartitionId, floor: Offset) {
        if let Some(stored) = self.floors[index(topic)].get(partition.0 as usize) {
            stored.store(floor.0, Ordering::Release);
        }
    }

    async fn next_assignment(&self) -> Assignment {
        self.membership.next_assignment().await
    }

    /// Waits until the group has answered lately: what this node remembers from before it slept is no answer.
    async fn is_assigned(&self, partition: PartitionId) -> Result<bool, LogError> {
        self.membership.lease.held().await;
        Ok(self.membership.owned().contains(&partition))
    }

    async fn health(&self) -> Result<(), LogError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(LogError::Unavailable("the log is closed".into()));
        }
        if let Some(reason) = self.condition.replaced() {
            return Err(LogError::Unavailable(reason));
        }
        self.ask(|reader| reader.ask_anything(HEALTH_WITHIN)).await
    }

    async fn close(&self) -> Result<(), LogError> {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let (appender, stepper, group) =
            (Arc::clone(&self.appender), Arc::clone(&self.stepper), Arc::clone(&self.group));
        // Each of these waits for a thread.
        let closed = tokio::task::spawn_blocking(move || {
            appender.close();
            stepper.close();
            group.close();
        });
        closed.await.map_err(|error| LogError::Unavailable(format!("the log was not closed: {error}")))
    }
}
