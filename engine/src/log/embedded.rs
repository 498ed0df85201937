//! [`EmbeddedLog`]: the port over the writer thread, the tail in memory and the store on disk.
//!
//! Appends and steps go through the writer's queue in the order of their first poll. Reads are answered from memory where they
//! can be; what needs the disk runs on tokio's blocking pool.

use std::fs::{File, TryLockError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Assignment, Log, LogError, ReadBatch, ReadLimit, TargetBacklog};
use sluse_schema::record::{LogIdentity, NewRecord, Offset, Position, Resolution, Step, Topic};
use tokio::sync::oneshot;

use super::config::{EmbeddedLogConfig, OpenLogError};
use super::metrics;
use super::queue::Command;
use super::reopen;
use super::shared::{Faults, Shared};
use super::store::{Store, StoreError};
use super::tail_cache::Lookup;
use super::writer::Writer;

/// The log of a single node. Dropping it without [`Log::close`] counts as an unclean end.
#[derive(Debug)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    is_assigned: AtomicBool,
    /// Keeps other processes out; released last.
    _lock: File,
}

impl EmbeddedLog {
    /// Opens the log in `config.dir`, made when it is not there. Blocks while the store recovers.
    ///
    /// # Errors
    /// [`OpenLogError`] says what to do.
    pub fn open(config: EmbeddedLogConfig) -> Result<Arc<Self>, OpenLogError> {
        Self::open_with_faults(config, Arc::default())
    }

    /// Like [`EmbeddedLog::open`], with faults that a test can switch on.
    ///
    /// # Errors
    /// [`OpenLogError`].
    #[doc(hidden)]
    pub fn open_with_faults(config: EmbeddedLogConfig, faults: Arc<Faults>) -> Result<Arc<Self>, OpenLogError> {
        let lock = lock_dir(&config)?;
        let (shared, loaded) = reopen::open(config, faults)?;
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared), loaded);
        super::retention::check_free_space(&shared);
        let thread = std::thread::Builder::new().name("sluse-log".into()).spawn(move || writer.run());
        let thread = thread.map_err(|source| OpenLogError::Io { path: shared.config.dir.clone(), source })?;
        Ok(Arc::new(Self {
            shared,
            writer: Mutex::new(Some(thread)),
            is_assigned: AtomicBool::new(false),
            _lock: lock,
        }))
    }

    /// Drops the records below `before` at once, as far as the floor allows. Gives the new start.
    ///
    /// # Errors
    /// Like [`Log::commit_step`].
    #[doc(hidden)]
    pub async fn trim_to(&self, topic: Topic, partition: PartitionId, before: Offset) -> Result<Offset, LogError> {
        self.ask(|answer| Command::Trim { topic, partition, before, answer }).await
    }

    /// Hands a command to the writer and waits for its answer. The command is queued before this returns a future's first poll.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Command,
    ) -> Result<T, LogError> {
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(command(answer));
        answered.await.unwrap_or_else(|_| Err(LogError::Unclear("the log's writer has ended".into())))
    }

    /// Runs something that may wait for the disk.
    async fn in_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, LogError> {
        let store = self.shared.store()?;
        ::metrics::counter!(metrics::STORE_READS).increment(1);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| LogError::Unavailable(format!("a read of the log ended early: {error}")))?
            .map_err(Into::into)
    }

    /// A read from the store may have met a trim: then its start says so.
    fn check_start(&self, topic: Topic, partition: PartitionId, from: Offset) -> Result<(), LogError> {
        let (start, _) = self.shared.tail(topic, partition)?.bounds();
        if from < start { Err(LogError::OutOfRange { topic, partition, asked: from, start }) } else { Ok(()) }
    }
}

fn lock_dir(config: &EmbeddedLogConfig) -> Result<File, OpenLogError> {
    let failed = |source| OpenLogError::Io { path: config.dir.clone(), source };
    std::fs::create_dir_all(&config.dir).map_err(failed)?;
    let options = File::options().create(true).truncate(false).write(true).open(config.dir.join("lock"));
    let lock = options.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenLogError::Locked { dir: config.dir.clone() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shared.queue.end();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's writer has panicked");
        }
        reopen::release(&self.shared);
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn identity(&self) -> LogIdentity {
        self.shared.incarnations.read().unwrap_or_else(PoisonError::into_inner).identity.clone()
    }

    fn num_partitions(&self) -> u32 {
        self.shared.config.num_partitions
    }

    async fn append(&self, partition: PartitionId, records: Vec<NewRecord>) -> Result<Offset, LogError> {
        let [answer] = <[_; 1]>::try_from(self.append_all(vec![(partition, records)]).await)
            .unwrap_or_else(|_| [Err(LogError::Unclear("the log gave no answer".into()))]);
        answer
    }

    async fn append_all(&self, parts: Vec<(PartitionId, Vec<NewRecord>)>) -> Vec<Result<Offset, LogError>> {
        let num_parts = parts.len();
        let is_known = |(partition, _): &(PartitionId, _)| self.shared.tail(Topic::Uplinks, *partition).map(drop);
        let appended = match parts.iter().try_for_each(is_known).and_then(|()| self.shared.check_room()) {
            Ok(()) => self.ask(|answer| Command::Append { parts, answer }).await,
            Err(refused) => Err(refused),
        };
        match appended {
            Ok(firsts) => firsts.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); num_parts],
        }
    }

    async fn commit_step(&self, step: Step) -> Result<(), LogError> {
        self.ask(|answer| Command::Step { step, answer }).await
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.shared.tail(Topic::Uplinks, partition)?;
        self.ask(|answer| Command::Committed { partition, answer }).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        match self.shared.tail(topic, partition)?.read(from, limit, None) {
            Lookup::Cached(batch) => Ok(batch),
            Lookup::Gone { start } => Err(LogError::OutOfRange { topic, partition, asked: from, start }),
            Lookup::InStore { end } => {
                let batch = self.in_store(move |store| store.read(topic, partition, from, end, limit)).await?;
                self.check_start(topic, partition, from)?;
                match batch.records.first() {
                    Some(first) if first.offset == from => Ok(batch),
                    _ => Err(LogError::Unavailable(format!(
                        "the record at {from} of {}/{partition} is missing from the log's store",
                        topic.name()
                    ))),
                }
            }
        }
    }

    async fn wait_for(&self, topic: Topic, partition: PartitionId, offset: Offset) {
        match self.shared.tail(topic, partition) {
            Ok(tail) => tail.wait_for(offset).await,
            Err(_) => std::future::pending().await,
        }
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<(Offset, Offset), LogError> {
        Ok(self.shared.tail(topic, partition)?.bounds())
    }

    async fn offset_at(&self, topic: Topic, partition: PartitionId, at_ms: i64) -> Result<Offset, LogError> {
        let bounds = self.shared.tail(topic, partition)?.bounds();
        self.in_store(move |store| store.offset_at(topic, partition, bounds, at_ms)).await
    }

    async fn read_target(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        let topic = Topic::Deliveries;
        match self.shared.tail(topic, partition)?.read(from, limit, Some(target.0)) {
            Lookup::Cached(batch) => Ok(batch),
            Lookup::Gone { start } => Err(LogError::OutOfRange { topic, partition, asked: from, start }),
            Lookup::InStore { end } => {
                let batch = self.in_store(move |store| store.read_target(partition, target, from, end, limit)).await?;
                self.check_start(topic, partition, from)?;
                Ok(batch)
            }
        }
    }

    async fn backlog(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, LogError> {
        let (start, end) = self.shared.tail(Topic::Deliveries, partition)?.bounds();
        let (from, until) = (from.max(start), until.min(end));
        if from >= until {
            return Ok(TargetBacklog::default());
        }
        self.in_store(move |store| store.backlog(partition, target, from, until)).await
    }

    async fn resolve(&self, topic: Topic, partition: PartitionId, stored: &Position) -> Result<Resolution, LogError> {
        let bounds = self.shared.tail(topic, partition)?.bounds();
        let incarnations = self.shared.incarnations.read().unwrap_or_else(PoisonError::into_inner);
        Ok(incarnations.resolve(topic, partition, stored, bounds))
    }

    fn set_retention_floor(&self, topic: Topic, partition: PartitionId, floor: Offset) {
        self.shared.set_floor(topic, partition, floor);
    }

    async fn next_assignment(&self) -> Assignment {
        if self.is_assigned.swap(true, Ordering::AcqRel) {
            // Nobody else can take a partition of an embedded log.
            std::future::pending::<()>().await;
        }
        Assignment::Assigned((0..self.num_partitions()).map(PartitionId).collect())
    }

    async fn health(&self) -> Result<(), LogError> {
        match self.shared.trouble() {
            Some(trouble) => Err(LogError::Unavailable(trouble)),
            None => self.shared.check_room(),
        }
    }

    async fn close(&self) -> Result<(), LogError> {
        self.ask(|answer| Command::Close { answer }).await
    }
}
