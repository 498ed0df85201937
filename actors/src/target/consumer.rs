//! The consumer of one deliveries partition: it reads the log as it grows and feeds the live targets. It waits for no receiver:
//! a target that cannot take a record is lagging from there on, and when all of them together hold too much, the one that holds
//! most becomes lagging.
//!
//! Everything here happens in turn: a batch is offered to all its targets, their answers come, then the position moves, and only
//! then a switch is answered. So the offset that a switch is answered with covers exactly what was offered before.

use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, WrapFuture};
use futures_util::future::join_all;
use metrics::counter;
use sluse_schema::id::TargetId;
use sluse_schema::port::{LogError, ReadBatch, ReadLimit};
use sluse_schema::record::{Offset, Record, Topic};
use tracing::{error, warn};

use super::actor::TargetActor;
use super::board::Board;
use super::message::{Evict, Fed, FoundUnknown, NextOffset, Offer, Stop, StopReading, Switch, WhereNext};
use super::metrics::{CONSUMED, EVICTIONS};
use crate::mailbox::deliver_to;
use crate::supervise::ExitGuard;
use crate::table::HashMap;

/// How long a wait for new records may take before the log is looked at anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After the log was away.
const TRY_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Live {
    addr: Addr<TargetActor>,
    feed: u64,
    since: Offset,
    num_loaded: usize,
    num_bytes: usize,
}

/// Feeds the live targets of one partition.
#[derive(Debug)]
pub(super) struct DeliveriesConsumer {
    board: Rc<Board>,
    next: Offset,
    live: HashMap<TargetId, Live>,
    is_stopped: bool,
    _guard: ExitGuard,
}

type Answers = Vec<(TargetId, Option<Fed>)>;

impl DeliveriesConsumer {
    /// A consumer that reads from `next` on, with no target live yet.
    pub(super) fn launch(board: &Rc<Board>, next: Offset, guard: ExitGuard) -> Addr<Self> {
        let board = Rc::clone(board);
        Self { board, next, live: HashMap::default(), is_stopped: false, _guard: guard }.start()
    }

    fn read(&self, ctx: &mut Context<Self>) {
        if self.is_stopped {
            return;
        }
        let (log, partition, from) = (std::sync::Arc::clone(&self.board.ports.log), self.board.partition, self.next);
        let config = &self.board.config;
        let limit = ReadLimit { num_records_max: config.read_records_max, num_bytes_max: config.read_bytes_max };
        let read = async move {
            let batch = log.read(Topic::Deliveries, partition, from, limit).await;
            if batch.as_ref().is_ok_and(|batch| batch.records.is_empty() && batch.next <= from) {
                let _ = tokio::time::timeout(LOOK_EVERY, log.wait_for(Topic::Deliveries, partition, from)).await;
            }
            batch
        };
        ctx.spawn(read.into_actor(self).map(|batch, actor, ctx| actor.take(batch, ctx)));
    }

    fn take(&mut self, batch: Result<ReadBatch, LogError>, ctx: &mut Context<Self>) {
        let partition = self.board.partition.0;
        match batch {
            Ok(batch) if batch.records.is_empty() => {
                self.next = self.next.max(batch.next);
                self.read(ctx);
            }
            Ok(batch) => self.offer(batch, ctx),
            Err(LogError::OutOfRange { start, .. }) => self.fall_out(start, ctx),
            Err(error) => {
                warn!(partition, %error, "the deliveries log cannot be read now");
                ctx.run_later(TRY_AGAIN, |actor, ctx| actor.read(ctx));
            }
        }
    }

    fn offer(&mut self, batch: ReadBatch, ctx: &mut Context<Self>) {
        counter!(CONSUMED).increment(batch.records.len() as u64);
        let next = batch.next;
        let mut by_target: HashMap<TargetId, Vec<Record>> = HashMap::default();
        let mut unknown: Vec<(TargetId, Offset)> = Vec::new();
        for record in batch.records {
            let target = TargetId(record.key);
            if self.live.contains_key(&target) {
                by_target.entry(target).or_default().push(record);
            } else if !self.board.has_actor(target) && unknown.iter().all(|(t, _)| *t != target) {
                unknown.push((target, record.offset));
            }
        }
        let offers: Vec<_> = by_target
            .into_iter()
            .filter_map(|(target, records)| {
                let live = self.live.get(&target)?;
                let (addr, offer) = (live.addr.clone(), Offer { feed: live.feed, since: live.since, records, next });
                Some(async move { (target, deliver_to(&addr, offer).await.ok()) })
            })
            .collect();
        let root = self.board.root.clone();
        let offered = async move {
            // Whoever is unknown gets a cursor before the position moves past its first record.
            let is_known = unknown.is_empty() || deliver_to(&root, FoundUnknown(unknown)).await.is_ok();
            (is_known, join_all(offers).await)
        };
        // Nothing else is handled meanwhile: see the head of this file.
        ctx.wait(offered.into_actor(self).map(move |(is_known, answers), actor, ctx| {
            actor.note(answers);
            if is_known {
                actor.next = next;
            } else {
                // The partition is being given up.
                actor.is_stopped = true;
            }
            actor.evict_if_full(ctx);
            actor.read(ctx);
        }));
    }

    fn note(&mut self, answers: Answers) {
        for (target, answer) in answers {
            match answer {
                Some(fed) if fed.go_on => {
                    if let Some(live) = self.live.get_mut(&target) {
                        (live.num_loaded, live.num_bytes) = (fed.num_loaded, fed.num_bytes);
                    }
                }
                Some(_) => {
                    self.live.remove(&target);
                }
                None => {
                    // It ended while it held our offer: its row must stay where it was, and it reads on from there.
                    self.live.remove(&target);
                    self.board.mark_dirty(target);
                }
            }
        }
    }

    fn evict_if_full(&mut self, ctx: &mut Context<Self>) {
        let (config, board) = (&self.board.config, &self.board);
        if board.num_loaded.get() <= config.window_records && board.num_bytes.get() <= config.window_bytes {
            return;
        }
        let share = |live: &Live| {
            let records = live.num_loaded as f64 / config.window_records as f64;
            records.max(live.num_bytes as f64 / config.window_bytes as f64)
        };
        let Some((target, live)) = self.live.iter().max_by(|a, b| share(a.1).total_cmp(&share(b.1))) else { return };
        let (target, addr) = (*target, live.addr.clone());
        counter!(EVICTIONS).increment(1);
        // It stays on the list until it says so itself: were it left out before, its switch would be answered with an offset
        // beyond what it was offered.
        ctx.wait(async move { deliver_to(&addr, Evict).await.is_ok() }.into_actor(self).map(
            move |is_alive, actor, _| {
                if !is_alive {
                    actor.board.mark_dirty(target);
                }
            },
        ));
    }

    /// The log no longer has what comes next here: every live target reads on from its own cursor, and counts what is gone. Only
    /// when all have left does the position move, so that no switch is answered with an offset beyond what was offered.
    fn fall_out(&mut self, start: Offset, ctx: &mut Context<Self>) {
        if self.live.is_empty() {
            error!(partition = self.board.partition.0, next = %self.next, %start, "the consumer fell out of the deliveries log");
            self.next = self.next.max(start);
            self.read(ctx);
            return;
        }
        let told = self.live.iter().map(|(target, live)| {
            let (target, addr) = (*target, live.addr.clone());
            async move { (target, deliver_to(&addr, Evict).await.is_ok()) }
        });
        ctx.wait(join_all(told).into_actor(self).map(move |told, actor, ctx| {
            for (target, _) in told.into_iter().filter(|(_, is_alive)| !is_alive) {
                actor.live.remove(&target);
                actor.board.mark_dirty(target);
            }
            ctx.run_later(Duration::from_millis(20), move |actor, ctx| actor.fall_out(start, ctx));
        }));
    }
}

impl Actor for DeliveriesConsumer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.read(ctx);
    }
}

impl Handler<Switch> for DeliveriesConsumer {
    type Result = MessageResult<Switch>;

    fn handle(&mut self, Switch { target, feed, to }: Switch, _: &mut Self::Context) -> Self::Result {
        let Some(addr) = to else {
            let is_fed = self.live.get(&target).is_some_and(|live| live.feed == feed);
            return MessageResult(is_fed.then(|| {
                self.live.remove(&target);
                self.next
            }));
        };
        let live = Live { addr, feed, since: self.next, num_loaded: 0, num_bytes: 0 };
        self.live.insert(target, live);
        MessageResult(Some(self.next))
    }
}

impl Handler<WhereNext> for DeliveriesConsumer {
    type Result = NextOffset;

    fn handle(&mut self, _: WhereNext, _: &mut Self::Context) -> NextOffset {
        NextOffset(self.next)
    }
}

impl Handler<StopReading> for DeliveriesConsumer {
    type Result = ();

    fn handle(&mut self, _: StopReading, _: &mut Self::Context) {
        self.is_stopped = true;
    }
}

impl Handler<Stop> for DeliveriesConsumer {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
