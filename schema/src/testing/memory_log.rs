//! A log in memory that behaves like a real one: order, durability, atomic steps, fences, retention, incarnations. Tests switch
//! faults on and off and look inside.
//!
//! Limits: everything is kept until it is trimmed by hand. `MemoryLog::with_gaps` leaves an offset free after every append and
//! step, as Kafka's transactions do, so that nobody who is tested on it takes offsets for dense.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};

use crate::id::TargetId;
use crate::partition::PartitionId;
use crate::port::log::{Assignment, AssignmentDone, Log, LogError, ReadBatch, ReadLimit, TargetBacklog};
use crate::record::{LogIdentity, NewRecord, Offset, Position, Record, Resolution, Step, Topic};

/// One partition of one topic.
#[derive(Debug, Default)]
struct Stored {
    records: VecDeque<Record>,
    start: Offset,
    end: Offset,
    floor: Option<Offset>,
}

impl Stored {
    fn push(&mut self, new: NewRecord) -> Offset {
        let NewRecord { key, timestamp_ms, headers, value } = new;
        let offset = self.end;
        self.records.push_back(Record { offset, key, timestamp_ms, headers, value });
        self.end = offset.next();
        offset
    }

    fn from(&self, from: Offset) -> impl Iterator<Item = &Record> {
        let first = self.records.partition_point(|r| r.offset < from);
        self.records.range(first..)
    }
}

/// An append that waits while appends are paused. Its place in the order is taken.
#[derive(Debug)]
struct Waiting {
    partition: PartitionId,
    records: Vec<NewRecord>,
    answer: oneshot::Sender<Offset>,
}

#[derive(Debug)]
struct Inner {
    incarnation: u64,
    uplinks: Vec<Stored>,
    deliveries: Vec<Stored>,
    committed: Vec<Option<Offset>>,
    owned: Vec<bool>,
    /// Ends of each topic's partitions when an incarnation ended; the first is incarnation 1.
    ended: Vec<[Vec<Offset>; 2]>,
    assignments: VecDeque<Assignment>,
    waiting: VecDeque<Waiting>,
    is_paused: bool,
    is_unavailable: bool,
    is_full: bool,
    is_closed: bool,
    next_step_unclear: Option<bool>,
    has_gaps: bool,
}

impl Inner {
    fn topic(&mut self, topic: Topic) -> &mut Vec<Stored> {
        match topic {
            Topic::Uplinks => &mut self.uplinks,
            Topic::Deliveries => &mut self.deliveries,
        }
    }

    fn stored(&mut self, topic: Topic, partition: PartitionId) -> Result<&mut Stored, LogError> {
        if self.is_unavailable {
            return Err(LogError::Unavailable("switched off by the test".into()));
        }
        let num_partitions = self.uplinks.len();
        self.topic(topic).get_mut(partition.0 as usize).ok_or_else(|| {
            LogError::Unavailable(format!("there is no partition {partition}, the log has {num_partitions}"))
        })
    }

    fn append(&mut self, partition: PartitionId, records: Vec<NewRecord>) -> Offset {
        let has_gaps = self.has_gaps;
        let stored = &mut self.uplinks[partition.0 as usize];
        let first = stored.end;
        let has_records = !records.is_empty();
        for record in records {
            stored.push(record);
        }
        if has_records && has_gaps {
            stored.end = stored.end.next();
        }
        first
    }

    fn check_step(&self, step: &Step) -> Result<(), String> {
        let index = step.partition.0 as usize;
        let Some(uplinks) = self.uplinks.get(index) else { return Err("there is no such partition".into()) };
        if !self.owned[index] {
            return Err("it is not assigned to this node".into());
        }
        if let Some(committed) = self.committed[index]
            && committed != step.from
        {
            return Err(format!("the step starts at {}, the committed position is {committed}", step.from));
        }
        if step.next < step.from || (step.next == step.from && !step.outputs.is_empty()) {
            return Err(format!("the step goes from {} to {}", step.from, step.next));
        }
        if step.next > uplinks.end {
            return Err(format!("the step goes to {}, the log ends at {}", step.next, uplinks.end));
        }
        match step.outputs.iter().find(|(p, _)| p.0 as usize >= self.deliveries.len()) {
            Some((p, _)) => Err(format!("an output goes to partition {p}, which does not exist")),
            None => Ok(()),
        }
    }

    fn apply_step(&mut self, step: Step) {
        self.committed[step.partition.0 as usize] = Some(step.next);
        let mut touched: Vec<usize> = Vec::new();
        for (partition, record) in step.outputs {
            let index = partition.0 as usize;
            self.deliveries[index].push(record);
            if self.has_gaps && !touched.contains(&index) {
                touched.push(index);
            }
        }
        for index in touched {
            self.deliveries[index].end = self.deliveries[index].end.next();
        }
    }
}

/// The in-memory [`Log`]. It owns all of its partitions from the start, as an embedded log does.
#[derive(Debug)]
pub struct MemoryLog {
    store: String,
    num_partitions: u32,
    inner: Mutex<Inner>,
    changed: Notify,
    assigned: Notify,
}

impl MemoryLog {
    /// A log with dense offsets and `num_partitions` partitions in each topic.
    pub fn new(num_partitions: u32) -> Arc<Self> {
        Self::build(num_partitions, false, fresh_name())
    }

    /// A log that leaves an offset free after every append and step.
    pub fn with_gaps(num_partitions: u32) -> Arc<Self> {
        Self::build(num_partitions, true, fresh_name())
    }

    /// The same log every time: its name, which keys of deliveries are made of, is given.
    pub fn named(num_partitions: u32, has_gaps: bool, store: &str) -> Arc<Self> {
        Self::build(num_partitions, has_gaps, format!("memory:{store}"))
    }

    fn build(num_partitions: u32, has_gaps: bool, store: String) -> Arc<Self> {
        assert!(num_partitions > 0, "a topic has at least one partition");
        let stored = || (0..num_partitions).map(|_| Stored::default()).collect();
        let inner = Inner {
            incarnation: 1,
            uplinks: stored(),
            deliveries: stored(),
            committed: vec![None; num_partitions as usize],
            owned: vec![true; num_partitions as usize],
            ended: Vec::new(),
            assignments: [Assignment::Assigned((0..num_partitions).map(PartitionId).collect())].into(),
            waiting: VecDeque::new(),
            is_paused: false,
            is_unavailable: false,
            is_full: false,
            is_closed: false,
            next_step_unclear: None,
            has_gaps,
        };
        Arc::new(Self {
            store,
            num_partitions,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            assigned: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While on, every call answers [`LogError::Unavailable`].
    pub fn set_unavailable(&self, is_unavailable: bool) {
        self.lock().is_unavailable = is_unavailable;
    }

    /// While on, appends answer [`LogError::Full`]; steps go through.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// The next step answers [`LogError::Unclear`], and was applied or was not.
    pub fn fail_next_step_unclear(&self, applied: bool) {
        self.lock().next_step_unclear = Some(applied);
    }

    /// While on, appends take their place in the order and wait; then they are made in that order.
    pub fn pause_appends(&self, is_paused: bool) {
        let mut inner = self.lock();
        inner.is_paused = is_paused;
        if is_paused {
            return;
        }
        while let Some(Waiting { partition, records, answer }) = inner.waiting.pop_front() {
            let first = inner.append(partition, records);
            answer.send(first).ok();
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// How many appends wait behind [`MemoryLog::pause_appends`].
    pub fn num_waiting_appends(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Drops the records below `offset`, but nothing at or beyond the retention floor. Gives the new start.
    pub fn trim_to(&self, topic: Topic, partition: PartitionId, offset: Offset) -> Offset {
        let floor = self.lock().topic(topic)[partition.0 as usize].floor;
        self.trim_past_floor_to(topic, partition, floor.map_or(offset, |floor| offset.min(floor)))
    }

    /// Drops the records below `offset` whatever the floor says, as Kafka's retention does.
    pub fn trim_past_floor_to(&self, topic: Topic, partition: PartitionId, offset: Offset) -> Offset {
        let mut inner = self.lock();
        let stored = &mut inner.topic(topic)[partition.0 as usize];
        stored.start = stored.start.max(offset.min(stored.end));
        while stored.records.front().is_some_and(|r| r.offset < stored.start) {
            stored.records.pop_front();
        }
        stored.start
    }

    /// Everything that is kept in a partition.
    pub fn records(&self, topic: Topic, partition: PartitionId) -> Vec<Record> {
        self.lock().topic(topic)[partition.0 as usize].records.iter().cloned().collect()
    }

    /// The floor that was set for a partition.
    pub fn retention_floor(&self, topic: Topic, partition: PartitionId) -> Option<Offset> {
        self.lock().topic(topic)[partition.0 as usize].floor
    }

    /// Ends the incarnation, as an unclean start of an embedded log does. Nothing is lost.
    pub fn raise_incarnation(&self) {
        let mut inner = self.lock();
        let ends = [&inner.uplinks, &inner.deliveries].map(|topic| topic.iter().map(|p| p.end).collect());
        inner.ended.push(ends);
        inner.incarnation += 1;
    }

    /// Opens a log that was closed: the first assignment comes again.
    pub fn reopen(&self) {
        let mut inner = self.lock();
        inner.is_closed = false;
        inner.owned.fill(true);
        inner.assignments = [Assignment::Assigned((0..self.num_partitions).map(PartitionId).collect())].into();
        drop(inner);
        self.assigned.notify_waiters();
    }

    /// Gives partitions to this node: the next [`Log::next_assignment`] says so.
    pub fn assign(&self, partitions: Vec<PartitionId>) {
        let mut inner = self.lock();
        for partition in &partitions {
            inner.owned[partition.0 as usize] = true;
        }
        inner.assignments.push_back(Assignment::Assigned(partitions));
        drop(inner);
        self.assigned.notify_waiters();
    }

    /// Asks this node to give partitions up, and completes when it has. Steps for them are fenced from then on (I8).
    pub fn revoke(self: &Arc<Self>, partitions: Vec<PartitionId>) -> oneshot::Receiver<()> {
        let (send, receive) = oneshot::channel();
        let log = Arc::clone(self);
        let lost = partitions.clone();
        let done = AssignmentDone::new(move || {
            log.lose(&lost);
            send.send(()).ok();
        });
        self.lock().assignments.push_back(Assignment::Revoked { partitions, done });
        self.assigned.notify_waiters();
        receive
    }

    /// Takes partitions away without asking, as a group does with a node that slept: steps for them are fenced (I8).
    pub fn lose(&self, partitions: &[PartitionId]) {
        let mut inner = self.lock();
        for partition in partitions {
            inner.owned[partition.0 as usize] = false;
        }
    }
}

#[async_trait]
impl Log for MemoryLog {
    fn identity(&self) -> LogIdentity {
        LogIdentity { store: self.store.clone(), incarnation: self.lock().incarnation }
    }

    fn num_partitions(&self) -> u32 {
        self.num_partitions
    }

    async fn append(&self, partition: PartitionId, records: Vec<NewRecord>) -> Result<Offset, LogError> {
        let waiting = {
            let mut inner = self.lock();
            inner.stored(Topic::Uplinks, partition)?;
            if inner.is_closed {
                return Err(LogError::Unavailable("the log is closed".into()));
            }
            if inner.is_full {
                return Err(LogError::Full { free_bytes: 0, reserve_bytes: 1 });
            }
            if inner.is_paused {
                let (answer, waiting) = oneshot::channel();
                inner.waiting.push_back(Waiting { partition, records, answer });
                Err(waiting)
            } else {
                Ok(inner.append(partition, records))
            }
        };
        match waiting {
            Ok(first) => {
                self.changed.notify_waiters();
                Ok(first)
            }
            Err(waiting) => waiting.await.map_err(|_| LogError::Unclear("the log was dropped".into())),
        }
    }

    async fn commit_step(&self, step: Step) -> Result<(), LogError> {
        {
            let mut inner = self.lock();
            if inner.is_unavailable {
                return Err(LogError::Unavailable("switched off by the test".into()));
            }
            if inner.is_closed {
                return Err(LogError::Unavailable("the log is closed".into()));
            }
            if let Err(reason) = inner.check_step(&step) {
                return Err(LogError::Fenced { partition: step.partition, reason });
            }
            match inner.next_step_unclear.take() {
                Some(false) => return Err(LogError::Unclear("the test asked for it, nothing was applied".into())),
                Some(true) => {
                    inner.apply_step(step);
                    drop(inner);
                    self.changed.notify_waiters();
                    return Err(LogError::Unclear("the test asked for it, the step was applied".into()));
                }
                None => inner.apply_step(step),
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        let mut inner = self.lock();
        inner.stored(Topic::Uplinks, partition)?;
        Ok(inner.committed[partition.0 as usize])
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        let mut inner = self.lock();
        let stored = inner.stored(topic, partition)?;
        read_matching(topic, partition, stored, from, limit, |_| true)
    }

    async fn wait_for(&self, topic: Topic, partition: PartitionId, offset: Offset) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut inner = self.lock();
                if inner.topic(topic).get(partition.0 as usize).is_some_and(|stored| stored.end > offset) {
                    return;
                }
            }
            changed.await;
        }
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<(Offset, Offset), LogError> {
        let mut inner = self.lock();
        let stored = inner.stored(topic, partition)?;
        Ok((stored.start, stored.end))
    }

    async fn offset_at(&self, topic: Topic, partition: PartitionId, at_ms: i64) -> Result<Offset, LogError> {
        let mut inner = self.lock();
        let stored = inner.stored(topic, partition)?;
        Ok(stored.records.iter().find(|r| r.timestamp_ms >= at_ms).map_or(stored.end, |r| r.offset))
    }

    async fn read_target(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        let mut inner = self.lock();
        let stored = inner.stored(Topic::Deliveries, partition)?;
        read_matching(Topic::Deliveries, partition, stored, from, limit, |r| r.key == target.0)
    }

    async fn backlog(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, LogError> {
        let mut inner = self.lock();
        let stored = inner.stored(Topic::Deliveries, partition)?;
        let mut waiting = stored.from(from).take_while(|r| r.offset < until).filter(|r| r.key == target.0);
        let first = waiting.next().map(|r| (r.offset, r.timestamp_ms));
        Ok(TargetBacklog { num_records: u64::from(first.is_some()) + waiting.count() as u64, first })
    }

    async fn resolve(&self, topic: Topic, partition: PartitionId, stored: &Position) -> Result<Resolution, LogError> {
        let mut inner = self.lock();
        let incarnation = inner.incarnation;
        let (start, end) = {
            let bounds = inner.stored(topic, partition)?;
            (bounds.start, bounds.end)
        };
        if stored.log.store != self.store || stored.log.incarnation > incarnation || stored.log.incarnation == 0 {
            return Ok(Resolution::OtherLog);
        }
        let ended = inner.ended.get(stored.log.incarnation as usize - 1);
        let end = ended.map_or(end, |ends| ends[usize::from(topic == Topic::Deliveries)][partition.0 as usize]);
        let offset = stored.offset.min(end);
        Ok(if offset < start { Resolution::Expired { start } } else { Resolution::At(offset) })
    }

    fn set_retention_floor(&self, topic: Topic, partition: PartitionId, floor: Offset) {
        if let Some(stored) = self.lock().topic(topic).get_mut(partition.0 as usize) {
            stored.floor = Some(floor);
        }
    }

    async fn next_assignment(&self) -> Assignment {
        loop {
            let assigned = self.assigned.notified();
            tokio::pin!(assigned);
            assigned.as_mut().enable();
            if let Some(assignment) = self.lock().assignments.pop_front() {
                return assignment;
            }
            assigned.await;
        }
    }

    async fn is_assigned(&self, partition: PartitionId) -> Result<bool, LogError> {
        Ok(self.lock().owned.get(partition.0 as usize).copied().unwrap_or(false))
    }

    async fn health(&self) -> Result<(), LogError> {
        let inner = self.lock();
        if inner.is_unavailable || inner.is_closed {
            return Err(LogError::Unavailable("switched off or closed by the test".into()));
        }
        if inner.is_full { Err(LogError::Full { free_bytes: 0, reserve_bytes: 1 }) } else { Ok(()) }
    }

    async fn close(&self) -> Result<(), LogError> {
        self.pause_appends(false);
        self.lock().is_closed = true;
        Ok(())
    }
}

fn fresh_name() -> String {
    format!("memory:{}", uuid::Uuid::new_v4())
}

/// Reads what `is_wanted`, and goes on behind everything that was looked at.
fn read_matching(
    topic: Topic,
    partition: PartitionId,
    stored: &Stored,
    from: Offset,
    limit: ReadLimit,
    is_wanted: impl Fn(&Record) -> bool,
) -> Result<ReadBatch, LogError> {
    if from < stored.start {
        return Err(LogError::OutOfRange { topic, partition, asked: from, start: stored.start });
    }
    let mut records: Vec<Record> = Vec::new();
    let mut num_bytes = 0;
    for record in stored.from(from).filter(|r| is_wanted(r)) {
        num_bytes += record.num_bytes();
        let is_over = records.len() >= limit.num_records_max.max(1) || num_bytes > limit.num_bytes_max;
        if is_over && !records.is_empty() {
            let next = records.last().map_or(from, |r| r.offset.next());
            return Ok(ReadBatch { records, next, end: stored.end });
        }
        records.push(record.clone());
    }
    Ok(ReadBatch { records, next: stored.end.max(from), end: stored.end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::log_conformance::{LogFixture, LogMaker};

    struct Fixture(Arc<MemoryLog>);

    #[async_trait]
    impl LogFixture for Fixture {
        fn log(&self) -> Arc<dyn Log> {
            Arc::clone(&self.0) as Arc<dyn Log>
        }

        async fn reopen(&mut self) {
            self.0.close().await.unwrap();
            self.0.reopen();
        }

        async fn reopen_uncleanly(&mut self) -> bool {
            self.0.raise_incarnation();
            true
        }

        async fn trim(&mut self, topic: Topic, partition: PartitionId, before: Offset) -> bool {
            self.0.trim_to(topic, partition, before);
            true
        }
    }

    struct Maker(fn(u32) -> Arc<MemoryLog>);

    #[async_trait]
    impl LogMaker for Maker {
        type Fixture = Fixture;

        async fn make(&self, num_partitions: u32) -> Fixture {
            Fixture((self.0)(num_partitions))
        }
    }

    mod dense {
        crate::log_conformance!(super::Maker(super::MemoryLog::new));
    }

    mod with_gaps {
        crate::log_conformance!(super::Maker(super::MemoryLog::with_gaps));
    }

    fn record(text: &str) -> NewRecord {
        crate::testing::log_conformance::record(1, 1, text)
    }

    #[tokio::test]
    async fn an_unclear_step_was_applied_or_was_not_as_the_test_chose() {
        let log = MemoryLog::new(1);
        let p = PartitionId(0);
        log.append(p, vec![record("u")]).await.unwrap();
        let step = || Step { partition: p, from: Offset(0), next: Offset(1), outputs: vec![(p, record("d"))] };
        log.fail_next_step_unclear(false);
        assert!(matches!(log.commit_step(step()).await, Err(LogError::Unclear(_))));
        assert_eq!(log.committed(p).await.unwrap(), None);
        log.fail_next_step_unclear(true);
        assert!(matches!(log.commit_step(step()).await, Err(LogError::Unclear(_))));
        assert_eq!(log.committed(p).await.unwrap(), Some(Offset(1)));
        assert_eq!(log.records(Topic::Deliveries, p).len(), 1);
    }

    #[tokio::test]
    async fn paused_appends_wait_in_order_and_are_invisible() {
        let log = MemoryLog::new(1);
        let p = PartitionId(0);
        log.pause_appends(true);
        let appends = ["a", "b"].map(|text| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.append(p, vec![record(text)]).await })
        });
        while log.num_waiting_appends() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(log.records(Topic::Uplinks, p).is_empty());
        log.pause_appends(false);
        for append in appends {
            append.await.unwrap().unwrap();
        }
        assert_eq!(log.records(Topic::Uplinks, p).len(), 2);
    }

    #[tokio::test]
    async fn i8_a_step_for_a_lost_partition_is_fenced() {
        let log = MemoryLog::new(2);
        let p = PartitionId(1);
        log.next_assignment().await;
        log.append(p, vec![record("u")]).await.unwrap();
        let revoked = log.revoke(vec![p]);
        let step = || Step { partition: p, from: Offset(0), next: Offset(1), outputs: vec![] };
        let Assignment::Revoked { partitions, done } = log.next_assignment().await else { panic!("it was revoked") };
        assert_eq!(partitions, [p]);
        drop(done);
        revoked.await.unwrap();
        assert!(matches!(log.commit_step(step()).await, Err(LogError::Fenced { .. })));
        log.assign(vec![p]);
        log.commit_step(step()).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_log_refuses_appends_and_takes_steps() {
        let log = MemoryLog::new(1);
        let p = PartitionId(0);
        log.append(p, vec![record("u")]).await.unwrap();
        log.set_full(true);
        assert!(matches!(log.append(p, vec![record("v")]).await, Err(LogError::Full { .. })));
        log.commit_step(Step { partition: p, from: Offset(0), next: Offset(1), outputs: vec![] }).await.unwrap();
        log.set_full(false);
        log.set_unavailable(true);
        assert!(matches!(log.bounds(Topic::Uplinks, p).await, Err(LogError::Unavailable(_))));
    }
}
