//! The cursor writer of one deliveries partition: all targets that changed, with their dead letters, requests that are done and
//! lines for people, in one transaction per second or 1 000 outcomes, under the partition's epoch (I1, I8).
//!
//! The consumer's position is asked for first and the targets after it, so that every record below the stored position is in the
//! rows of that transaction or of one before. A target that died in between keeps the position it was collected with last.
//!
//! While the database is away, what was collected is kept and the next collection is laid over it: rows by target, dead letters
//! one after the other, up to a bound; beyond it targets end nothing more (I4). A write that another owner's epoch refuses ends the
//! partition here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use futures_util::future::join_all;
use metrics::{counter, gauge, histogram};
use sluse_schema::id::TargetId;
use sluse_schema::port::{CursorBatch, StoreError};
use sluse_schema::record::{Offset, Position};
use sluse_schema::target::{TargetCursor, TargetStatus};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::board::Board;
use super::input::Outbox;
use super::message::{Collect, FlushNow, FlushSoon, Known, NextOffset, PartFailed, Snapshot, Stop, WhereNext};
use super::metrics::{FLUSH_SECONDS, FLUSHES, LOADED, PartitionTotals};
use crate::mailbox::deliver_to;
use crate::supervise::{Backoff, ExitGuard};
use crate::table::HashMap;

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(10) };
/// Lines for people that are kept while the database is away; later ones are dropped.
const NUM_LOG_LINES_MAX: usize = 10_000;
/// A quiet target's status is written again after this many flushes, so that its age shows that somebody looks after it.
const REFRESH_AFTER_FLUSHES: u64 = 30;

/// What was collected and is not stored.
#[derive(Debug, Default)]
struct Pending {
    position: Option<Offset>,
    cursors: HashMap<TargetId, TargetCursor>,
    statuses: HashMap<TargetId, TargetStatus>,
    outboxes: HashMap<TargetId, Outbox>,
    requests_done: Vec<i64>,
    num_log_lines: usize,
}

impl Pending {
    fn add(&mut self, snapshot: Snapshot) {
        let target = snapshot.cursor.target;
        let mut outbox = snapshot.outbox;
        outbox.log.truncate(NUM_LOG_LINES_MAX.saturating_sub(self.num_log_lines));
        self.num_log_lines += outbox.log.len();
        self.outboxes.entry(target).or_default().append(outbox);
        self.statuses.insert(target, snapshot.status);
        self.cursors.insert(target, snapshot.cursor);
        self.requests_done.extend(snapshot.requests_done);
    }

    /// Dead letters and their bytes.
    fn num_dead_letters(&self) -> (usize, usize) {
        self.outboxes
            .values()
            .fold((0, 0), |(num, bytes), outbox| (num + outbox.dead_letters.len(), bytes + outbox.num_bytes()))
    }

    fn to_batch(&self, board: &Board, epoch: i64, position: Offset) -> CursorBatch {
        let mut batch = CursorBatch {
            partition: board.partition,
            epoch,
            cursors: self.cursors.values().cloned().collect(),
            statuses: self.statuses.values().cloned().collect(),
            dead_letters: Vec::new(),
            dead_letters_gone: Vec::new(),
            dead_letters_superseded: Vec::new(),
            requests_done: self.requests_done.clone(),
            log: Vec::new(),
            last_message_at: Vec::new(),
            position: Position { log: board.log.clone(), offset: position },
        };
        for (target, outbox) in &self.outboxes {
            batch.dead_letters.extend(outbox.dead_letters.iter().cloned());
            batch.dead_letters_gone.extend(outbox.dead_letters_gone.iter().copied());
            batch.dead_letters_superseded.extend(outbox.superseded_from.map(|from| (*target, from)));
            batch.log.extend(outbox.log.iter().cloned());
            batch.last_message_at.extend(outbox.last_message_at_ms.map(|at| (*target, at)));
        }
        batch
    }
}

/// Writes the cursors of one partition.
#[derive(Debug)]
pub(super) struct CursorWriter {
    board: Rc<Board>,
    epoch: i64,
    stored_next: Offset,
    pending: Pending,
    is_flushing: bool,
    num_failures: u32,
    not_before: Option<tokio::time::Instant>,
    num_flushes: u64,
    /// Who waits for everything until now; answered by a flush that starts after they asked.
    waiting: Vec<oneshot::Sender<bool>>,
    wants_flush: bool,
    _guard: ExitGuard,
}

impl CursorWriter {
    pub(super) fn launch(board: &Rc<Board>, epoch: i64, stored_next: Offset, guard: ExitGuard) -> Addr<Self> {
        let board = Rc::clone(board);
        Self {
            board,
            epoch,
            stored_next,
            pending: Pending::default(),
            is_flushing: false,
            num_failures: 0,
            not_before: None,
            num_flushes: 0,
            waiting: Vec::new(),
            wants_flush: false,
            _guard: guard,
        }
        .start()
    }

    /// Asks where the consumer is, collects what changed, and writes it.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        if self.is_flushing {
            return;
        }
        self.is_flushing = true;
        self.wants_flush = false;
        self.num_flushes += 1;
        let answered = std::mem::take(&mut self.waiting);
        self.refresh_quiet_ones();
        let board = Rc::clone(&self.board);
        let collected = async move {
            let consumer = board.consumer.borrow().clone()?;
            let NextOffset(next) = deliver_to(&consumer, WhereNext).await.ok()?;
            let dirty = board.take_dirty();
            let snapshots = join_all(dirty.into_iter().map(|target| {
                let actor = board.actor_of(target);
                async move {
                    match actor {
                        Some(actor) => (target, deliver_to(&actor, Collect { partition_next: next }).await.ok()),
                        None => (target, None),
                    }
                }
            }))
            .await;
            Some((next, snapshots))
        };
        ctx.spawn(collected.into_actor(self).map(move |collected, actor, ctx| match collected {
            Some((next, snapshots)) => {
                actor.lay_over(next, snapshots);
                actor.store(answered, ctx);
            }
            // The consumer ended; so will this partition.
            None => actor.finish(false, answered, ctx),
        }));
    }

    fn refresh_quiet_ones(&self) {
        let turn = self.num_flushes % REFRESH_AFTER_FLUSHES;
        let due: Vec<TargetId> = {
            let targets = self.board.targets.borrow();
            targets.keys().copied().filter(|target| target.0.unsigned_abs() % REFRESH_AFTER_FLUSHES == turn).collect()
        };
        for target in due {
            self.board.mark_dirty(target);
        }
    }

    fn lay_over(&mut self, next: Offset, snapshots: Vec<(TargetId, Option<Snapshot>)>) {
        let mut targets = self.board.targets.borrow_mut();
        for (target, snapshot) in snapshots {
            let Some(entry) = targets.get_mut(&target) else { continue };
            if let Some(snapshot) = snapshot {
                entry.cursor = snapshot.cursor.clone();
                entry.status = Some(snapshot.status.clone());
                self.pending.add(snapshot);
            } else if entry.actor.is_some() {
                // It died with what it took since: its row must not follow the partition's position any further.
                let offset = self.board.position_of(&entry.cursor);
                entry.cursor.position = Some(Position { log: self.board.log.clone(), offset });
                self.pending.cursors.insert(target, entry.cursor.clone());
            }
        }
        drop(targets);
        self.board.collected_next.set(next);
        self.pending.position = Some(next);
    }

    fn store(&mut self, answered: Vec<oneshot::Sender<bool>>, ctx: &mut Context<Self>) {
        let position = self.pending.position.unwrap_or(self.stored_next);
        let has_nothing = self.pending.cursors.is_empty() && position == self.stored_next;
        if has_nothing {
            self.finish(true, answered, ctx);
            return;
        }
        let batch = self.pending.to_batch(&self.board, self.epoch, position);
        let store = Arc::clone(&self.board.ports.store);
        let started_at = Instant::now();
        let stored = async move { store.store_cursors(&batch).await };
        ctx.spawn(stored.into_actor(self).map(move |stored, actor, ctx| {
            histogram!(FLUSH_SECONDS).record(started_at.elapsed().as_secs_f64());
            let is_stored = actor.note_stored(stored, position);
            actor.finish(is_stored, answered, ctx);
        }));
    }

    fn note_stored(&mut self, stored: Result<(), StoreError>, position: Offset) -> bool {
        let partition = self.board.partition.0;
        match stored {
            Ok(()) => {
                counter!(FLUSHES, "outcome" => "stored").increment(1);
                self.pending = Pending::default();
                self.stored_next = position;
                self.num_failures = 0;
                self.not_before = None;
                self.board.is_store_blocked.set(false);
                true
            }
            Err(StoreError::Fenced { current, ours, .. }) => {
                counter!(FLUSHES, "outcome" => "fenced").increment(1);
                warn!(partition, current, ours, "another owner took this deliveries partition");
                let root = self.board.root.clone();
                let why = format!("epoch {ours} was refused, {current} owns the partition");
                actix_rt::spawn(async move { deliver_to(&root, PartFailed(why)).await });
                // Nothing may be written any more; what was collected is the new owner's to do again.
                self.not_before = Some(tokio::time::Instant::now() + Duration::from_secs(3_600));
                false
            }
            Err(error) => {
                let is_refused = matches!(error, StoreError::Refused(_));
                counter!(FLUSHES, "outcome" => if is_refused { "refused" } else { "unavailable" }).increment(1);
                self.num_failures = self.num_failures.saturating_add(1);
                self.not_before = Some(tokio::time::Instant::now() + BACKOFF.random_delay(self.num_failures));
                self.block_if_full();
                if is_refused {
                    error!(partition, %error, "cursors cannot be written");
                } else if self.num_failures.is_power_of_two() {
                    warn!(partition, num_failures = self.num_failures, %error, "cursors wait for the database");
                }
                false
            }
        }
    }

    fn block_if_full(&self) {
        let (num, num_bytes) = self.pending.num_dead_letters();
        let config = &self.board.config;
        let is_full = num >= config.dead_letters_max || num_bytes >= config.dead_letter_bytes_max;
        if is_full && !self.board.is_store_blocked.replace(true) {
            error!(
                partition = self.board.partition.0,
                num_dead_letters = num,
                num_bytes,
                "too many dead letters wait for the database: nothing more is sent until it is back"
            );
        }
    }

    fn finish(&mut self, is_stored: bool, answered: Vec<oneshot::Sender<bool>>, ctx: &mut Context<Self>) {
        self.is_flushing = false;
        for waiting in answered {
            let _ = waiting.send(is_stored);
        }
        self.show();
        if !self.waiting.is_empty() || (self.wants_flush && is_stored) {
            self.flush(ctx);
        }
    }

    fn show(&self) {
        let partition = self.board.partition.to_string();
        let mut totals = PartitionTotals::default();
        for entry in self.board.targets.borrow().values() {
            if let Some(status) = &entry.status {
                let kind = if let Known::Config(config) = &entry.known { config.kind.as_str() } else { "unknown" };
                totals.add(kind, status);
            }
        }
        totals.show(&partition);
        gauge!(LOADED, "partition" => partition).set(self.board.num_loaded.get() as f64);
    }

    /// A flush by time: when something changed, and not while the database is given time to come back.
    fn flush_if_due(&mut self, ctx: &mut Context<Self>) {
        if self.not_before.is_none_or(|at| tokio::time::Instant::now() >= at) {
            self.flush(ctx);
        }
    }
}

impl Actor for CursorWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.board.config.flush_every, Self::flush_if_due);
    }
}

impl Handler<FlushSoon> for CursorWriter {
    type Result = ();

    fn handle(&mut self, _: FlushSoon, ctx: &mut Self::Context) {
        if self.is_flushing {
            self.wants_flush = true;
        } else {
            self.flush_if_due(ctx);
        }
    }
}

impl Handler<FlushNow> for CursorWriter {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, _: FlushNow, ctx: &mut Self::Context) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.waiting.push(answer);
        self.flush(ctx);
        Box::pin(async move { answered.await.unwrap_or(false) })
    }
}

impl Handler<Stop> for CursorWriter {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
