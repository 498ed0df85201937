//! One deliveries partition on this node: it takes the partition, starts the consumer, the sweep, the cursor writer and one actor
//! per target, and hands them what administration says.
//!
//! Targets are supervised one by one: one that panics is made anew alone. When one of the others ends, or somebody else owns the
//! partition, all of it ends here and is made anew from what is stored: its supervisor takes the partition again.
//! A target that records name but nobody knows gets a cursor at once and waits; it is gone only when the database, read after the
//! record came, has no row of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseActFuture,
    WrapFuture,
};
use futures_util::future::join_all;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::TargetId;
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{StoreError, TargetRequest};
use sluse_schema::record::{Offset, Position};
use sluse_schema::target::{TargetConfig, TargetCursor};
use tracing::{info, warn};

use super::actor::TargetActor;
use super::board::{Board, Entry};
use super::config::{TargetPorts, TargetStageConfig};
use super::consumer::DeliveriesConsumer;
use super::cursor::Cursor;
use super::message::{
    AskAgain, Asked, Changed, Configure, DrainPartition, DrainTarget, FlushNow, FoundUnknown, FullScan, Known,
    PartFailed, Statuses, Stop, StopReading,
};
use super::sweep::Sweep;
use super::takeover::{Taken, row_at, take};
use super::writer::CursorWriter;
use crate::mailbox::{deliver_to, offer_to};
use crate::supervise::{Backoff, Exit, ExitGuard, supervise};
use crate::table::{HashMap, HashSet};

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(10) };
/// After the database was away while something was to be loaded.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What has to be loaded.
#[derive(Debug, Default)]
struct ToLoad {
    all: bool,
    targets: HashSet<TargetId>,
    requests: bool,
}

/// The actor of one deliveries partition.
#[derive(Debug)]
pub(super) struct TargetPartition {
    partition: PartitionId,
    config: TargetStageConfig,
    ports: TargetPorts,
    board: Option<Rc<Board>>,
    to_load: ToLoad,
    is_loading: bool,
    is_draining: bool,
    guard: ExitGuard,
}

impl TargetPartition {
    /// An actor that takes its partition when it starts.
    pub(super) fn launch(
        partition: PartitionId,
        config: TargetStageConfig,
        ports: TargetPorts,
        guard: ExitGuard,
    ) -> Addr<Self> {
        Self {
            partition,
            config,
            ports,
            board: None,
            to_load: ToLoad::default(),
            is_loading: false,
            is_draining: false,
            guard,
        }
        .start()
    }

    fn begin(&mut self, taken: Taken, ctx: &mut Context<Self>) {
        let Taken { epoch, next, cursors, mut configs, requests } = taken;
        info!(partition = self.partition.0, epoch, %next, num_targets = configs.len(), num_cursors = cursors.len(),
            "deliveries partition taken");
        let board = Rc::new(Board::new(self.partition, self.config, self.ports.clone(), ctx.address(), next));
        self.board = Some(Rc::clone(&board));
        let part_guard = |part: &'static str| {
            let root = ctx.address();
            ExitGuard::new(move |exit| {
                if exit != Exit::Stopped {
                    // Nobody is left to wait for the answer; a full mailbox holds such a message already.
                    let _ = offer_to(&root, PartFailed(format!("its {part} ended: {exit:?}")));
                }
            })
        };
        *board.sweep.borrow_mut() = Some(Sweep::launch(&board, part_guard("sweep")));
        *board.writer.borrow_mut() = Some(CursorWriter::launch(&board, epoch, next, part_guard("cursor writer")));
        for row in cursors {
            // A row without configuration, and not a tombstone yet: the database was read after its records came.
            let known = configs.remove(&row.target).map_or(Known::Gone, Known::Config);
            let is_settled = row.is_tombstone && row.holes.is_empty() && row.counters.pending_by_balance() == 0;
            if is_settled {
                // No actor for a tombstone; should a late record come, it goes on counting from this row.
                let entry = Entry { actor: None, known, cursor: row, status: None, is_dirty: false };
                board.targets.borrow_mut().insert(entry.cursor.target, entry);
            } else {
                self.start_target(row, known);
            }
        }
        for (target, config) in configs {
            let cursor = Cursor::new(next, self.config.bounds().num_holes_max);
            self.start_target(row_at(&cursor, target, &board.log), Known::Config(config));
        }
        self.hand_out(requests);
        *board.consumer.borrow_mut() = Some(DeliveriesConsumer::launch(&board, next, part_guard("consumer")));
        self.load(ctx);
    }

    /// Puts a target on the board and starts its actor under a supervisor.
    fn start_target(&self, row: TargetCursor, known: Known) {
        let Some(board) = self.board.clone() else { return };
        let target = row.target;
        let entry = Entry { actor: None, known, cursor: row, status: None, is_dirty: false };
        board.targets.borrow_mut().insert(target, entry);
        let (weak, num_holes_max) = (Rc::downgrade(&board), self.config.bounds().num_holes_max);
        let name = format!("target {target}");
        let mut has_started = false;
        let supervised = supervise("target", name, move |guard| {
            // The board outlives its targets: the partition releases them before it drops it.
            let board = weak.upgrade().unwrap_or_else(|| unreachable!("a released target is not made anew"));
            let (row, known) = {
                let targets = board.targets.borrow();
                let entry = targets.get(&target).unwrap_or_else(|| unreachable!("a target stays on the board"));
                (entry.cursor.clone(), entry.known.clone())
            };
            let position = board.position_of(&row);
            let (cursor, _) = Cursor::restore(&row, position, Offset::ZERO, 0, num_holes_max);
            let addr = TargetActor::launch(&board, target, cursor, known, guard);
            board.mark_dirty(target);
            if std::mem::replace(&mut has_started, true) {
                let _ = offer_to(&board.root, AskAgain);
            }
            addr
        });
        if let Some(entry) = board.targets.borrow_mut().get_mut(&target) {
            entry.actor = Some(supervised);
        }
        board.mark_dirty(target);
    }

    fn configure(&self, target: TargetId, known: Known) {
        let Some(board) = &self.board else { return };
        {
            let mut targets = board.targets.borrow_mut();
            let Some(entry) = targets.get_mut(&target) else { return };
            let is_same = match (&entry.known, &known) {
                (Known::Config(old), Known::Config(new)) => old.version == new.version && old == new,
                (Known::Gone, Known::Gone) => true,
                _ => false,
            };
            if is_same {
                return;
            }
            entry.known = known.clone();
        }
        // An actor that is being made anew reads it from the board.
        if let Some(actor) = board.actor_of(target) {
            actix_rt::spawn(async move { deliver_to(&actor, Configure(known)).await });
        }
    }

    fn hand_out(&self, requests: Vec<TargetRequest>) {
        let Some(board) = &self.board else { return };
        let mut by_target: HashMap<TargetId, Vec<TargetRequest>> = HashMap::default();
        for request in requests {
            by_target.entry(request.target).or_default().push(request);
        }
        for (target, requests) in by_target {
            if let Some(actor) = board.actor_of(target) {
                actix_rt::spawn(async move { deliver_to(&actor, Asked(requests)).await });
            }
        }
    }

    /// Loads what has to be loaded, one load at a time; what is asked for meanwhile is loaded after it.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let Some(board) = self.board.clone().filter(|_| !self.is_loading && !self.is_draining) else { return };
        let ToLoad { all, targets, requests } = std::mem::take(&mut self.to_load);
        if !all && targets.is_empty() && !requests {
            return;
        }
        self.is_loading = true;
        // Only who was known before the database is read can be missing from what it says.
        let asked: Vec<TargetId> =
            if all { board.targets.borrow().keys().copied().collect() } else { targets.iter().copied().collect() };
        let (store, partition) = (Arc::clone(&self.ports.store), self.partition);
        let wanted = asked.clone();
        let loaded = async move {
            let configs = if all {
                store.load_targets(partition, None).await?
            } else if wanted.is_empty() {
                Vec::new()
            } else {
                store.load_targets(partition, Some(&wanted)).await?
            };
            let requests = if requests || all { store.load_requests(partition).await? } else { Vec::new() };
            Ok::<_, StoreError>((configs, requests))
        };
        ctx.spawn(loaded.into_actor(self).map(move |loaded, actor, ctx| {
            actor.is_loading = false;
            match loaded {
                Ok((configs, requests)) => {
                    actor.take_over(asked, configs, &board);
                    actor.hand_out(requests);
                    actor.load(ctx);
                }
                Err(error) => {
                    warn!(partition = partition.0, %error, "targets cannot be loaded now");
                    actor.to_load.all |= all;
                    actor.to_load.targets.extend(targets);
                    actor.to_load.requests |= requests;
                    ctx.run_later(TRY_AGAIN, |actor, ctx| actor.load(ctx));
                }
            }
        }));
    }

    fn take_over(&self, asked: Vec<TargetId>, configs: Vec<Arc<TargetConfig>>, board: &Rc<Board>) {
        let mut missing: HashSet<TargetId> = asked.into_iter().collect();
        for config in configs {
            let target = config.target;
            missing.remove(&target);
            if board.targets.borrow().contains_key(&target) {
                self.configure(target, Known::Config(config));
            } else {
                // Whatever stands in the log for it lies where the consumer has not been yet, or it would be known.
                let cursor = Cursor::new(board.collected_next.get(), self.config.bounds().num_holes_max);
                self.start_target(row_at(&cursor, target, &board.log), Known::Config(config));
            }
        }
        for target in missing {
            self.configure(target, Known::Gone);
        }
    }

    fn stop_children(&mut self) {
        let Some(board) = self.board.take() else { return };
        // Whoever has no room for the message is stopped by its released address.
        if let Some(consumer) = board.consumer.borrow_mut().take() {
            let _ = offer_to(&consumer, Stop);
        }
        if let Some(sweep) = board.sweep.borrow_mut().take() {
            let _ = offer_to(&sweep, Stop);
        }
        if let Some(writer) = board.writer.borrow_mut().take() {
            let _ = offer_to(&writer, Stop);
        }
        for entry in board.targets.borrow_mut().values_mut() {
            if let Some(actor) = entry.actor.take() {
                let addr = actor.addr();
                actor.release();
                if let Some(addr) = addr {
                    let _ = offer_to(&addr, Stop);
                }
            }
        }
    }
}

impl Actor for TargetPartition {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (ports, config, partition) = (self.ports.clone(), self.config, self.partition);
        let taken = async move {
            let mut num_failures = 0;
            loop {
                match take(&ports, &config, partition).await {
                    Ok(taken) => break taken,
                    Err(error) => {
                        num_failures += 1;
                        warn!(partition = partition.0, %error, "a deliveries partition cannot be taken now");
                        tokio::time::sleep(BACKOFF.random_delay(num_failures)).await;
                    }
                }
            }
        };
        ctx.spawn(taken.into_actor(self).map(|taken, actor, ctx| {
            if !actor.is_draining {
                actor.begin(taken, ctx);
            }
        }));
    }
}

impl Drop for TargetPartition {
    fn drop(&mut self) {
        self.stop_children();
    }
}

impl Handler<FoundUnknown> for TargetPartition {
    type Result = ();

    fn handle(&mut self, FoundUnknown(found): FoundUnknown, ctx: &mut Self::Context) {
        let Some(board) = self.board.clone() else { return };
        for (target, offset) in found {
            if board.has_actor(target) {
                continue;
            }
            let tombstone = board.targets.borrow().get(&target).map(|entry| entry.cursor.clone());
            if let Some(mut row) = tombstone {
                row.position = Some(Position { log: board.log.clone(), offset });
                self.start_target(row, Known::Gone);
            } else {
                let cursor = Cursor::new(offset, self.config.bounds().num_holes_max);
                self.start_target(row_at(&cursor, target, &board.log), Known::NotYet);
                self.to_load.targets.insert(target);
            }
        }
        self.load(ctx);
    }
}

impl Handler<AskAgain> for TargetPartition {
    type Result = ();

    fn handle(&mut self, _: AskAgain, ctx: &mut Self::Context) {
        self.to_load.requests = true;
        self.load(ctx);
    }
}

impl Handler<PartFailed> for TargetPartition {
    type Result = ();

    fn handle(&mut self, PartFailed(why): PartFailed, ctx: &mut Self::Context) {
        if self.is_draining {
            return;
        }
        warn!(partition = self.partition.0, why, "a deliveries partition starts anew from what is stored");
        self.guard.mark_failed();
        self.stop_children();
        ctx.stop();
    }
}

impl Handler<Stop> for TargetPartition {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.is_draining = true;
        self.stop_children();
        ctx.stop();
    }
}

impl Handler<Changed> for TargetPartition {
    type Result = ();

    fn handle(&mut self, Changed(changes): Changed, ctx: &mut Self::Context) {
        let num_partitions = self.ports.log.num_partitions();
        for change in changes.iter() {
            match change.entity {
                ChangedEntity::Target => {
                    let target = TargetId(change.entity_id);
                    if partition_of_target(target, num_partitions) == self.partition {
                        self.to_load.targets.insert(target);
                    }
                }
                ChangedEntity::TargetRequest => self.to_load.requests = true,
                // They carry the organisation of their targets, or take their targets with them.
                ChangedEntity::Application | ChangedEntity::Organization => self.to_load.all = true,
                _ => {}
            }
        }
        self.load(ctx);
    }
}

impl Handler<FullScan> for TargetPartition {
    type Result = ();

    fn handle(&mut self, _: FullScan, ctx: &mut Self::Context) {
        self.to_load.all = true;
        self.load(ctx);
    }
}

impl Handler<Statuses> for TargetPartition {
    type Result = MessageResult<Statuses>;

    fn handle(&mut self, _: Statuses, _: &mut Self::Context) -> Self::Result {
        let statuses = self
            .board
            .as_ref()
            .map(|board| board.targets.borrow().values().filter_map(|entry| entry.status.clone()).collect());
        MessageResult(statuses.unwrap_or_default())
    }
}

impl Handler<DrainPartition> for TargetPartition {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, DrainPartition { deadline }: DrainPartition, _: &mut Self::Context) -> Self::Result {
        self.is_draining = true;
        let board = self.board.clone();
        let drained = async move {
            let Some(board) = board else { return true };
            let (consumer, writer) = (board.consumer.borrow().clone(), board.writer.borrow().clone());
            if let Some(consumer) = consumer {
                let _ = deliver_to(&consumer, StopReading).await;
            }
            let actors: Vec<Addr<TargetActor>> = {
                let targets = board.targets.borrow();
                targets.values().filter_map(|entry| entry.actor.as_ref()?.addr()).collect()
            };
            let quiet = join_all(actors.iter().map(|actor| deliver_to(actor, DrainTarget)));
            let is_quiet = tokio::time::timeout_at(deadline, quiet).await.is_ok();
            // What is in flight still is sent again under the same key by whoever comes next. Everything else is written.
            let Some(writer) = writer else { return false };
            let grace = deadline.max(tokio::time::Instant::now() + Duration::from_secs(1));
            let is_stored = tokio::time::timeout_at(grace, deliver_to(&writer, FlushNow)).await;
            is_quiet && matches!(is_stored, Ok(Ok(true)))
        };
        Box::pin(drained.into_actor(self).map(|is_clean, actor, ctx| {
            actor.stop_children();
            ctx.stop();
            is_clean
        }))
    }
}
