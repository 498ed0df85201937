//! The consumer of one uplinks partition: it reads while there is room, hands each uplink to its device's actor, and moves the
//! position when a run of them is done. What it keeps open is bounded by its [`Window`]; beyond that the partition is paused.
//!
//! Its life: take (epoch, positions) → replay `[S, P)` for state → live from P → drain or lose. It never restarts in place: when a
//! fence refuses it, it stops as failed, and its supervisor makes a new one that takes the partition again.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle, WrapFuture,
};
use metrics::counter;
use sluse_schema::beat::Beat;
use sluse_schema::id::DeviceId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{LogError, ReadBatch, ReadLimit};
use sluse_schema::record::{Offset, Record, Topic};
use sluse_schema::uplink::UplinkMeta;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::config::{DevicePorts, DeviceStageConfig};
use super::devices::Slot;
use super::message::{Abandon, Drain};
use super::metrics::PAUSES;
use super::offsets::Window;
use super::take::{BACKOFF, Taken, take};
use crate::device::{DeviceContext, Mode, Outcome, Uplink, UplinkDone};
use crate::persist::FailureLister;
use crate::supervise::ExitGuard;
use crate::table::{HashMap, HashSet};

/// Records brought by one read at most; more would make one turn of the arbiter long.
const NUM_READ_MAX: usize = 512;
/// Reading goes on when at least this share of the window is free: many small reads cost more than they save.
const ROOM_SHARE: usize = 8;
/// Failed decodes that wait for the list of failures.
const NUM_FAILURES_WAITING_MAX: usize = 1_000;

/// The actor of one uplinks partition.
#[derive(Debug)]
pub struct PartitionConsumer {
    pub(crate) partition: PartitionId,
    pub(crate) partition_label: Arc<str>,
    pub(crate) config: DeviceStageConfig,
    pub(crate) ports: DevicePorts,
    pub(crate) shared: Arc<DeviceContext>,
    pub(crate) epoch: i64,
    pub(crate) window: Window,
    /// Uplinks below it are replayed for state; `None` once live.
    replay_until: Option<Offset>,
    pub(crate) log_end: Offset,
    pub(crate) slots: HashMap<DeviceId, Slot>,
    pub(crate) num_incarnations: u64,
    /// Devices that wait for their activation.
    pub(crate) to_activate: Vec<DeviceId>,
    pub(crate) is_activating: bool,
    /// Devices whose configuration has to be read again.
    pub(crate) stale: HashSet<DeviceId>,
    pub(crate) is_reloading: bool,
    /// Devices that changed since they were stored last.
    pub(crate) dirty: HashSet<DeviceId>,
    /// S: everything below it is stored.
    pub(crate) state_position: Offset,
    pub(crate) is_flushing: bool,
    /// While many devices wait to be stored, they wait until then.
    pub(crate) flush_many_at: Instant,
    /// P, for flushes that must not be ahead of it.
    pub(crate) committed: watch::Sender<u64>,
    is_fetching: bool,
    beat: Beat,
    /// The moment after the last read; who finds nothing more to read waits for it.
    next_beat: Instant,
    /// Whether the last read left something.
    is_behind: bool,
    pub(crate) is_committing: bool,
    /// Commits what is done by then; set with the first that is done after a step.
    pub(crate) step_timer: Option<SpawnHandle>,
    is_taken: bool,
    pub(crate) draining: Option<oneshot::Sender<bool>>,
    pub(crate) guard: ExitGuard,
}

impl PartitionConsumer {
    /// A consumer that takes its partition when it starts.
    pub fn new(
        partition: PartitionId,
        config: DeviceStageConfig,
        beat: Beat,
        ports: DevicePorts,
        guard: ExitGuard,
    ) -> Self {
        let (failures, listed) = mpsc::channel(NUM_FAILURES_WAITING_MAX);
        FailureLister::spawn(Arc::clone(&ports.store), listed);
        let shared = DeviceContext {
            log: Arc::new(ports.log.identity()),
            partition,
            num_partitions: ports.log.num_partitions(),
            decoder: Arc::clone(&ports.decoder),
            tail: Arc::clone(&ports.tail),
            failures,
        };
        Self {
            partition,
            partition_label: partition.to_string().into(),
            config,
            ports,
            shared: Arc::new(shared),
            epoch: 0,
            window: Window::new(Offset::ZERO, config.limits),
            replay_until: None,
            log_end: Offset::ZERO,
            slots: HashMap::default(),
            num_incarnations: 0,
            to_activate: Vec::new(),
            is_activating: false,
            stale: HashSet::default(),
            is_reloading: false,
            dirty: HashSet::default(),
            state_position: Offset::ZERO,
            is_flushing: false,
            flush_many_at: Instant::now(),
            committed: watch::channel(0).0,
            is_fetching: false,
            beat,
            next_beat: Instant::now(),
            is_behind: true,
            is_committing: false,
            step_timer: None,
            is_taken: false,
            draining: None,
            guard,
        }
    }

    pub(crate) fn is_replaying(&self) -> bool {
        self.replay_until.is_some()
    }

    fn begin(&mut self, taken: Taken, ctx: &mut Context<Self>) {
        self.epoch = taken.epoch;
        self.is_taken = true;
        self.state_position = taken.state;
        self.committed.send_replace(taken.committed.0);
        self.ports.log.set_retention_floor(Topic::Uplinks, self.partition, taken.state);
        self.window = Window::new(taken.state, self.config.limits);
        self.replay_until = (taken.state < taken.committed).then_some(taken.committed);
        // Partitions take turns within the interval: all of them at once would be felt as a delay every time.
        let turn = |interval: Duration| interval * self.partition.0 / self.ports.log.num_partitions().max(1);
        self.flush_many_at = Instant::now() + turn(self.config.flush_interval_max);
        ctx.run_later(turn(self.config.flush_interval), |actor, ctx| {
            ctx.run_interval(actor.config.flush_interval, Self::flush_when_due);
        });
        ctx.run_interval(Duration::from_secs(10), Self::tidy);
        self.fetch_when_room(ctx);
        self.settle_drain(ctx);
    }

    /// Reads on if the window has room for it. At most one read is under way.
    pub(crate) fn fetch_when_room(&mut self, ctx: &mut Context<Self>) {
        if self.is_fetching || !self.is_taken || self.draining.is_some() {
            return;
        }
        if self.replay_until.is_some_and(|until| self.window.next() >= until) {
            return;
        }
        let Some((num_records, num_bytes)) = self.window.room() else {
            counter!(PAUSES, "partition" => self.partition_label.clone()).increment(1);
            return;
        };
        if num_records < self.window.num_open_max() / ROOM_SHARE {
            return;
        }
        self.is_fetching = true;
        let limit = ReadLimit { num_records_max: num_records.min(NUM_READ_MAX), num_bytes_max: num_bytes };
        let (log, partition, from) = (Arc::clone(&self.ports.log), self.partition, self.window.next());
        let (next_beat, is_behind) = (self.next_beat, self.is_behind);
        let read = async move {
            if !is_behind {
                tokio::time::sleep_until(next_beat).await;
            }
            let mut num_failures = 0;
            loop {
                match log.read(Topic::Uplinks, partition, from, limit).await {
                    Ok(batch) if batch.records.is_empty() && batch.next == from => {
                        log.wait_for(Topic::Uplinks, partition, from).await;
                        tokio::time::sleep_until(next_beat).await;
                    }
                    Err(LogError::Unavailable(error)) => {
                        num_failures += 1;
                        warn!(partition = partition.0, error, "cannot read uplinks yet");
                        tokio::time::sleep(BACKOFF.random_delay(num_failures)).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        ctx.spawn(read.into_actor(self).map(|outcome, actor, ctx| {
            actor.is_fetching = false;
            match outcome {
                Ok(batch) => actor.take_in(batch, ctx),
                Err(error) => {
                    error!(partition = actor.partition.0, %error, "cannot read uplinks, starting the partition anew");
                    actor.give_up(ctx);
                }
            }
        }));
    }

    fn take_in(&mut self, batch: ReadBatch, ctx: &mut Context<Self>) {
        self.log_end = batch.end;
        self.is_behind = batch.next < batch.end;
        self.next_beat = self.beat.after(Instant::now().into_std()).into();
        let until = self.replay_until.unwrap_or(Offset(u64::MAX));
        for record in batch.records.into_iter().take_while(|r| r.offset < until) {
            self.hand_out(record, ctx);
        }
        self.window.skip_to(batch.next.min(until));
        self.end_replay_when_done(ctx);
        self.activate_when_due(ctx);
        self.commit_when_due(ctx);
        self.fetch_when_room(ctx);
    }

    fn hand_out(&mut self, record: Record, ctx: &mut Context<Self>) {
        let meta = match UplinkMeta::of_record(&record) {
            Ok(meta) => meta,
            Err(error) => {
                error!(partition = self.partition.0, offset = record.offset.0, %error, "a record is no uplink, passing it by");
                return self.window.skip_to(record.offset.next());
            }
        };
        let uplink = Arc::new(Uplink { offset: record.offset, meta, value: record.value });
        self.window.open(Arc::clone(&uplink));
        let mode = if self.is_replaying() { Mode::Replay } else { Mode::Live };
        self.give_to_device(uplink, mode, ctx);
    }

    /// Once everything below P is applied, the window starts anew at P, live.
    pub(crate) fn end_replay_when_done(&mut self, ctx: &mut Context<Self>) {
        let Some(until) = self.replay_until else { return };
        if self.window.next() >= until && self.window.num_entries() == 0 {
            info!(partition = self.partition.0, committed = until.0, "device states are up to the committed position");
            self.replay_until = None;
            self.window = Window::new(until, self.config.limits);
            self.fetch_when_room(ctx);
            self.settle_drain(ctx);
        }
    }

    /// Marks an uplink done that no device's actor handled.
    pub(crate) fn finish_without_device(&mut self, offset: Offset, outcome: Outcome) {
        self.window.finish(offset, outcome, Vec::new());
    }

    /// Answers a drain once everything read is committed and stored.
    pub(crate) fn settle_drain(&mut self, ctx: &mut Context<Self>) {
        if self.draining.is_none() || self.is_committing || self.is_flushing {
            return;
        }
        if !self.is_taken || self.is_replaying() {
            return self.answer_drain();
        }
        if !self.window.is_settled() {
            return;
        }
        if self.dirty.is_empty() && self.state_position == self.window.from() {
            return self.answer_drain();
        }
        self.flush(ctx);
    }

    pub(crate) fn answer_drain(&mut self) {
        if let Some(answer) = self.draining.take() {
            let _ = answer.send(self.window.num_entries() == 0);
        }
    }
}

impl Actor for PartitionConsumer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (log, store, partition) = (Arc::clone(&self.ports.log), Arc::clone(&self.ports.store), self.partition);
        let taken = async move { take(log.as_ref(), store.as_ref(), partition).await };
        ctx.spawn(taken.into_actor(self).map(|taken, actor, ctx| actor.begin(taken, ctx)));
    }
}

impl Handler<UplinkDone> for PartitionConsumer {
    type Result = ();

    fn handle(&mut self, done: UplinkDone, ctx: &mut Self::Context) {
        self.device_finished(done.device, done.outcome);
        self.window.finish(done.offset, done.outcome, done.outputs);
        self.commit_when_due(ctx);
    }
}

impl Handler<Drain> for PartitionConsumer {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (answer, drained) = oneshot::channel();
        self.draining = Some(answer);
        // What was fetched and not begun is simply read again by whoever comes next.
        self.commit_when_due(ctx);
        self.settle_drain(ctx);
        Box::pin(async move { drained.await.unwrap_or(false) }.into_actor(self))
    }
}

impl Handler<Abandon> for PartitionConsumer {
    type Result = ();

    fn handle(&mut self, _: Abandon, ctx: &mut Self::Context) {
        self.slots.clear();
        ctx.stop();
    }
}
