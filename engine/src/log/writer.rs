//! The one thread that writes. It takes everything that waits (appends and steps of all partitions), writes it as one batch with
//! one sync, shows the new ends to readers, and answers. So the cost of a sync is shared by whoever waits, and a step is atomic
//! because a batch is (I1). Between batches it looks after retention, free disk and, once a write failed, the store itself.
//!
//! Limits: one batch holds at most `BATCH_BYTES_MAX`; chores run every `TICK`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::PersistMode;
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{NewRecord, Offset, Record, Step, Topic};
use tokio::sync::oneshot;

use super::batch::Packer;
use super::config::Durability;
use super::group::{Due, Group};
use super::keys::{self, Running};
use super::metrics;
use super::postings::{self, NUM_OFFSETS_MAX, Postings};
use super::queue::Command;
use super::reopen::{self, Loaded};
use super::retention::Retention;
use super::shared::{Faults, Shared};
use super::store::{Store, StoreError};

/// Enough to share a sync among thousands of records, little enough to keep what waits short.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// How often retention, free disk and metrics are looked at.
const TICK: Duration = Duration::from_millis(500);
/// While commits follow each other they start this far apart: a sync costs the same for ten records and for a thousand. What comes
/// after a pause is written at once.
const GATHER: Duration = Duration::from_millis(10);
/// How often the writer looks whether the store has caught up.
const STALL_STEP: Duration = Duration::from_millis(2);

/// Where the next record of a partition goes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub next: Offset,
    /// Of the next record, but for its own timestamp.
    pub running: Running,
}

/// The writer's own state; only what is written is in it.
#[derive(Debug)]
pub struct Writer {
    pub shared: Arc<Shared>,
    pub heads: [Vec<Head>; 2],
    committed: Vec<Option<Offset>>,
    /// Next ordinal by target, loaded when a target is first written to.
    ordinals: HashMap<(PartitionId, TargetId), u64>,
    /// Written, not yet synced, in the order of their offsets (only with [`Durability::FsyncEveryMs`]).
    unsynced: Vec<(Topic, PartitionId, Vec<Record>)>,
    synced_at: Instant,
    /// When the last commit began.
    committed_at: Instant,
    retention: Retention,
    packer: Packer,
    ticked_at: Instant,
    is_closed: bool,
}

/// However the writer ends, nobody waits for it for ever.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.queue.end();
        if std::thread::panicking() {
            tracing::error!("the log's writer has panicked: the process has to be started again");
            self.0.set_trouble(Some("the log's writer has panicked: the process has to be started again".into()));
        }
        for command in self.0.queue.drain(usize::MAX, Duration::ZERO, Instant::now()).commands {
            command.refuse(|| LogError::Unavailable("the log's writer has ended".into()));
        }
    }
}

/// A topic's place in what is kept for both.
pub const fn topic_index(topic: Topic) -> usize {
    match topic {
        Topic::Uplinks => 0,
        Topic::Deliveries => 1,
    }
}

impl Writer {
    /// A writer over what the open store holds.
    pub fn new(shared: Arc<Shared>, loaded: Loaded) -> Self {
        let Loaded { heads, committed } = loaded;
        let now = Instant::now();
        let retention = Retention::default();
        Self {
            shared,
            heads,
            committed,
            retention,
            packer: Packer::default(),
            ordinals: HashMap::new(),
            unsynced: Vec::new(),
            synced_at: now,
            committed_at: now,
            ticked_at: now,
            is_closed: false,
        }
    }

    /// Writes until the log is dropped.
    pub fn run(mut self) {
        let _guard = EndGuard(Arc::clone(&self.shared));
        self.tick();
        loop {
            let drained = self.shared.queue.drain(BATCH_BYTES_MAX, self.patience(), self.committed_at + GATHER);
            if !drained.commands.is_empty() {
                self.handle(drained.commands);
            }
            self.sync_if_due();
            if self.ticked_at.elapsed() >= TICK {
                self.tick();
            }
            if drained.is_ended {
                // Dropped without a close: what was written is synced, but the start will count as unclean.
                self.sync();
                return;
            }
        }
    }

    fn patience(&self) -> Duration {
        let until_tick = TICK.saturating_sub(self.ticked_at.elapsed());
        match self.shared.config.durability {
            Durability::FsyncEveryMs(ms) if !self.unsynced.is_empty() => {
                Duration::from_millis(ms).saturating_sub(self.synced_at.elapsed()).min(until_tick)
            }
            _ => until_tick,
        }
    }

    fn tick(&mut self) {
        self.ticked_at = Instant::now();
        ::metrics::gauge!(metrics::QUEUE_BYTES).set(self.shared.queue.num_bytes() as f64);
        if self.shared.store.load().is_none() {
            return self.try_reopen();
        }
        super::retention::check_free_space(&self.shared);
        if !self.is_closed
            && let Err(error) = self.trim_what_is_due()
        {
            self.lose_store(&error.to_string());
        }
    }

    fn trim_what_is_due(&mut self) -> Result<(), StoreError> {
        let Some(store) = self.shared.store.load_full() else { return Ok(()) };
        self.retention.trim_due(&self.shared, &store, super::clock::now_ms())
    }

    fn handle(&mut self, commands: Vec<Command>) {
        let mut group = Group::of(&commands);
        for command in commands {
            if self.shared.store.load().is_none() {
                let trouble = self.shared.trouble().unwrap_or_default();
                command.refuse(|| LogError::Unavailable(trouble.clone()));
                continue;
            }
            match command {
                Command::Append { parts, answer } if !self.is_closed => self.append(&mut group, parts, answer),
                Command::Step { step, answer } if !self.is_closed => self.step(&mut group, step, answer),
                Command::Committed { partition, answer } => group.due.push(Due::Committed(answer, partition)),
                Command::Append { .. } | Command::Step { .. } => {
                    command.refuse(|| LogError::Unavailable("the log is closed".into()));
                }
                Command::Trim { topic, partition, before, answer } => {
                    self.write(std::mem::take(&mut group));
                    answer.send(self.trim_now(topic, partition, before)).ok();
                }
                Command::Close { answer } => {
                    self.write(std::mem::take(&mut group));
                    answer.send(self.close()).ok();
                }
            }
        }
        self.write(group);
    }

    fn append(
        &mut self,
        group: &mut Group,
        parts: Vec<(PartitionId, Vec<NewRecord>)>,
        answer: oneshot::Sender<Result<Vec<Offset>, LogError>>,
    ) {
        let mut firsts = Vec::with_capacity(parts.len());
        for (partition, records) in parts {
            firsts.push(self.heads[topic_index(Topic::Uplinks)][partition.0 as usize].next);
            for record in records {
                self.add(group, Topic::Uplinks, partition, record);
            }
        }
        group.due.push(Due::Append(answer, firsts));
    }

    /// Takes a step into the group, or refuses it: it must start at the committed position (I8), and end in what readers see.
    fn step(&mut self, group: &mut Group, step: Step, answer: oneshot::Sender<Result<(), LogError>>) {
        if let Err(reason) = self.check_step(&step) {
            let refused = LogError::Fenced { partition: step.partition, reason };
            return group.due.push(Due::Fenced(answer, refused));
        }
        self.committed[step.partition.0 as usize] = Some(step.next);
        group.moved.insert(step.partition, step.next);
        for (partition, record) in step.outputs {
            self.add(group, Topic::Deliveries, partition, record);
        }
        group.due.push(Due::Step(answer));
    }

    fn check_step(&self, step: &Step) -> Result<(), String> {
        let Ok(tail) = self.shared.tail(Topic::Uplinks, step.partition) else {
            return Err("there is no such partition".into());
        };
        if let Some(committed) = self.committed[step.partition.0 as usize]
            && committed != step.from
        {
            return Err(format!("the step starts at {}, the committed position is {committed}", step.from));
        }
        if step.next < step.from || (step.next == step.from && !step.outputs.is_empty()) {
            return Err(format!("the step goes from {} to {}", step.from, step.next));
        }
        let (_, end) = tail.bounds();
        if step.next > end {
            return Err(format!("the step goes to {}, the log ends at {end}", step.next));
        }
        match step.outputs.iter().find(|(p, _)| p.0 >= self.shared.config.num_partitions) {
            Some((p, _)) => Err(format!("an output goes to partition {p}, which does not exist")),
            None => Ok(()),
        }
    }

    /// Takes a record into its partition's batch.
    fn add(&mut self, group: &mut Group, topic: Topic, partition: PartitionId, new: NewRecord) {
        let head = &mut self.heads[topic_index(topic)][partition.0 as usize];
        let offset = head.next;
        head.running.max_timestamp_ms = head.running.max_timestamp_ms.max(new.timestamp_ms);
        let running = head.running;
        head.next = offset.next();
        head.running.bytes_before += new.num_bytes() as u64;
        group.push(topic, partition, offset, running, new, &mut self.packer);
    }

    /// Writes a group and answers it; on failure nobody knows what is on the disk until the store was opened again.
    fn write(&mut self, mut group: Group) {
        let due = std::mem::take(&mut group.due);
        group.seal_all(&mut self.packer);
        if group.items.is_empty() && group.moved.is_empty() {
            return self.answer_written(due);
        }
        let started_at = Instant::now();
        self.committed_at = started_at;
        match self.commit(&mut group) {
            Ok(()) => {
                ::metrics::histogram!(metrics::COMMIT_SECONDS).record(started_at.elapsed().as_secs_f64());
                self.show(group);
                self.answer_written(due);
            }
            Err(error) => {
                let why = error.to_string();
                self.lose_store(&why);
                self.answer(due, |is_read| match is_read {
                    true => LogError::Unavailable(why.clone()),
                    false => LogError::Unclear(why.clone()),
                });
            }
        }
    }

    fn commit(&mut self, group: &mut Group) -> Result<(), StoreError> {
        let Some(store) = self.shared.store.load_full() else { return Err(StoreError::Fault("the store is not open")) };
        self.wait_until_caught_up(&store)?;
        if Faults::is_due(&self.shared.faults.num_commits_failing_unwritten) {
            return Err(StoreError::Fault("a test made the write fail before it was made"));
        }
        let mode = match self.shared.config.durability {
            Durability::FsyncBeforeAck => PersistMode::SyncData,
            Durability::FsyncEveryMs(_) => PersistMode::Buffer,
        };
        let mut batch = store.batch(Some(mode));
        for (topic, partition, key, value) in group.items.drain(..) {
            batch.insert(store.keyspace(topic, partition), key, value);
        }
        for (partition, next) in &group.moved {
            batch.insert(&store.meta, keys::committed_key(*partition), next.0.to_be_bytes());
        }
        for ((partition, target), offsets) in group.postings.drain() {
            let mut ordinal = self.next_ordinal(&store, partition, target, Offset(offsets[0]))?;
            for offsets in offsets.chunks(NUM_OFFSETS_MAX) {
                let key = postings::key(partition, target, Offset(offsets[0]));
                batch.insert(&store.index, key, Postings::encode(ordinal, offsets));
                ordinal += offsets.len() as u64;
            }
            self.ordinals.insert((partition, target), ordinal);
        }
        batch.commit()?;
        if Faults::is_due(&self.shared.faults.num_commits_failing_written) {
            return Err(StoreError::Fault("a test made the write fail after it was made"));
        }
        Ok(())
    }

    fn next_ordinal(
        &self,
        store: &Store,
        partition: PartitionId,
        target: TargetId,
        before: Offset,
    ) -> Result<u64, StoreError> {
        match self.ordinals.get(&(partition, target)) {
            Some(ordinal) => Ok(*ordinal),
            None => Ok(store.last_postings(partition, target, before)?.map_or(0, |p| p.next_ordinal())),
        }
    }

    /// fjall makes a writer wait when tables are not written fast enough, but it would wait for ever once its worker has failed.
    fn wait_until_caught_up(&self, store: &Store) -> Result<(), StoreError> {
        if !store.is_behind() {
            return Ok(());
        }
        let started_at = Instant::now();
        while store.is_behind() {
            store.persist(PersistMode::Buffer)?; // refused when the store is poisoned
            std::thread::sleep(STALL_STEP);
        }
        ::metrics::histogram!(metrics::STALL_SECONDS).record(started_at.elapsed().as_secs_f64());
        Ok(())
    }

    /// Shows what was written, now or with the next sync.
    fn show(&mut self, group: Group) {
        let [uplinks, deliveries] = group.shown;
        let topics = [(Topic::Uplinks, uplinks), (Topic::Deliveries, deliveries)];
        for (topic, partitions) in topics {
            let mut num_records = 0;
            for (partition, records) in partitions {
                num_records += records.len() as u64;
                match self.shared.config.durability {
                    Durability::FsyncBeforeAck => self.publish(topic, partition, records),
                    Durability::FsyncEveryMs(_) => self.unsynced.push((topic, partition, records)),
                }
            }
            if num_records > 0 {
                ::metrics::counter!(metrics::RECORDS_APPENDED, "topic" => topic.name()).increment(num_records);
            }
        }
    }

    fn publish(&self, topic: Topic, partition: PartitionId, records: Vec<Record>) {
        if let Ok(tail) = self.shared.tail(topic, partition) {
            tail.publish(records);
        }
    }

    fn sync_if_due(&mut self) {
        if let Durability::FsyncEveryMs(ms) = self.shared.config.durability
            && !self.unsynced.is_empty()
            && self.synced_at.elapsed() >= Duration::from_millis(ms)
        {
            self.sync();
        }
    }

    fn sync(&mut self) {
        self.synced_at = Instant::now();
        if self.unsynced.is_empty() {
            return;
        }
        let Some(store) = self.shared.store.load_full() else { return };
        match store.persist(PersistMode::SyncData) {
            Ok(()) => {
                for (topic, partition, records) in std::mem::take(&mut self.unsynced) {
                    self.publish(topic, partition, records);
                }
            }
            Err(error) => {
                drop(store);
                self.lose_store(&error.to_string());
            }
        }
    }

    fn answer_written(&self, due: Vec<Due>) {
        for due in due {
            match due {
                Due::Append(answer, firsts) => answer.send(Ok(firsts)).is_ok(),
                Due::Step(answer) => answer.send(Ok(())).is_ok(),
                Due::Fenced(answer, refused) => answer.send(Err(refused)).is_ok(),
                Due::Committed(answer, partition) => {
                    answer.send(Ok(self.committed.get(partition.0 as usize).copied().flatten())).is_ok()
                }
            };
        }
    }

    /// Answers that it failed; `error` is asked whether nothing but a read was wanted.
    fn answer(&self, due: Vec<Due>, error: impl Fn(bool) -> LogError) {
        for due in due {
            match due {
                Due::Append(answer, _) => answer.send(Err(error(false))).is_ok(),
                Due::Step(answer) => answer.send(Err(error(false))).is_ok(),
                Due::Fenced(answer, refused) => answer.send(Err(refused)).is_ok(),
                Due::Committed(answer, _) => answer.send(Err(error(true))).is_ok(),
            };
        }
    }

    fn trim_now(&mut self, topic: Topic, partition: PartitionId, before: Offset) -> Result<Offset, LogError> {
        let store = self.shared.store()?;
        let trimmed = self.retention.trim_to(&self.shared, &store, topic, partition, before);
        trimmed.map_err(|error| {
            drop(store);
            self.lose_store(&error.to_string());
            LogError::Unclear(error.to_string())
        })?;
        Ok(self.shared.tail(topic, partition)?.bounds().0)
    }

    fn close(&mut self) -> Result<(), LogError> {
        if self.is_closed {
            return Ok(());
        }
        self.sync();
        let store = self.shared.store()?;
        reopen::mark_clean(&store)?;
        self.is_closed = true;
        self.shared.set_trouble(Some("the log is closed".into()));
        Ok(())
    }

    /// The store failed: nothing of it is used any more, and what was under way is unclear until it is open again.
    fn lose_store(&mut self, why: &str) {
        tracing::warn!(why, "a write to the log failed, the store is opened again");
        self.shared.set_trouble(Some(format!("the log's store failed and is being opened again: {why}")));
        reopen::release(&self.shared);
        self.unsynced.clear();
        self.ordinals.clear();
        self.try_reopen();
    }

    fn try_reopen(&mut self) {
        match reopen::reopen(&self.shared) {
            Ok(Loaded { heads, committed }) => {
                (self.heads, self.committed) = (heads, committed);
                self.retention = Retention::default();
                self.shared.set_trouble(None);
                ::metrics::counter!(metrics::STORE_REOPENED).increment(1);
                tracing::info!("the log's store is open again");
            }
            Err(error) => {
                tracing::error!(%error, "the log's store cannot be opened again, the log takes nothing until it can");
                self.shared.set_trouble(Some(format!("the log's store cannot be opened again: {error}")));
            }
        }
    }
}
