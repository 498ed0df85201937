//! The actor of one data target: it tells the machine what happens, and does what the machine asks for. All decisions are the
//! machine's.
//!
//! Tries run as tasks on the actor's arbiter, as many as the machine allows; their outcomes come back through one bounded channel.
//! When the actor ends, its tries are dropped. One that panics is made anew from the cursor that was collected last; what it sent
//! since is sent again under the same key.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseFuture,
    SpawnHandle, StreamHandler, WrapFuture,
};
use futures_util::FutureExt;
use sluse_schema::delivery::{Attempt, AttemptClass, DeliveryMeta};
use sluse_schema::id::TargetId;
use sluse_schema::port::TargetSender;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::error;

use super::board::Board;
use super::cursor::Cursor;
use super::decode_again::decode_again;
use super::input::{DecodedAgain, Effect, Input, Settings};
use super::machine::TargetMachine;
use super::message::{
    Asked, Collect, Configure, Demanded, DrainTarget, Evict, Fed, Known, Offer, Snapshot, Stop, SweepOutcome, Swept,
    Switch,
};
use super::metrics::TargetMeters;
use super::requests::Requests;
use crate::mailbox::deliver_to;
use crate::supervise::ExitGuard;
use crate::table::HashMap;

/// Outcomes that may wait for the actor; a try that ended waits for room, so nothing is lost.
const NUM_OUTCOMES_WAITING_MAX: usize = 256;
/// A lagging target counts what waits for it in the log this often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What a task came back with.
#[derive(Debug)]
pub(super) enum Outcome {
    Attempted { ticket: u64, attempt: Attempt },
    Decoded { ticket: u64, outcome: DecodedAgain },
}

/// The tasks of one actor; dropped with it.
#[derive(Debug, Default)]
struct Tasks(HashMap<u64, AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.0.values() {
            task.abort();
        }
    }
}

/// The actor of one data target.
pub(super) struct TargetActor {
    pub(super) target: TargetId,
    pub(super) machine: TargetMachine,
    pub(super) board: Rc<Board>,
    pub(super) requests: Requests,
    sender: Option<Arc<dyn TargetSender>>,
    tasks: Tasks,
    outcomes: mpsc::Sender<Outcome>,
    outcomes_in: Option<mpsc::Receiver<Outcome>>,
    effects: Vec<Effect>,
    wake: Option<(i64, SpawnHandle)>,
    is_counting: bool,
    load: (usize, usize),
    meters: TargetMeters,
    drained: Vec<oneshot::Sender<()>>,
    /// What was known of the target when the actor was made.
    first_known: Known,
    _guard: ExitGuard,
}

impl TargetActor {
    /// Starts the actor of a target that stands on the board.
    pub(super) fn launch(
        board: &Rc<Board>,
        target: TargetId,
        cursor: Cursor,
        known: Known,
        guard: ExitGuard,
    ) -> Addr<Self> {
        let first_id = board.new_incarnation();
        let seed = (target.0 as u64) ^ first_id;
        let machine = TargetMachine::new(target, cursor, board.config.bounds(), first_id, seed);
        let (outcomes, outcomes_in) = mpsc::channel(NUM_OUTCOMES_WAITING_MAX);
        let actor = Self {
            target,
            machine,
            board: Rc::clone(board),
            requests: Requests::default(),
            sender: None,
            tasks: Tasks::default(),
            outcomes,
            outcomes_in: Some(outcomes_in),
            effects: Vec::new(),
            wake: None,
            is_counting: false,
            load: (0, 0),
            meters: TargetMeters::new(target),
            drained: Vec::new(),
            first_known: known,
            _guard: guard,
        };
        actor.start()
    }

    /// Tells the machine something and does what follows.
    pub(super) fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        let now = self.board.ports.clock.now();
        let mut effects = std::mem::take(&mut self.effects);
        self.machine.follow_store_blocked(self.board.is_store_blocked.get());
        self.machine.step(input, now, &mut effects);
        for effect in effects.drain(..) {
            self.perform(effect, ctx);
        }
        self.effects = effects;
        let load = self.machine.load();
        self.board.adjust_load(self.load, load);
        self.load = load;
        self.board.mark_dirty(self.target);
        self.arm(ctx);
        self.count_ahead_while_lagging(ctx);
        if !self.drained.is_empty() && self.machine.is_quiet() {
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Send { ticket, meta, body } => self.send(ticket, meta, body),
            Effect::Decode { ticket, meta, payload } => {
                let ports = self.board.ports.clone();
                let decoded = async move { decode_again(&ports, &meta, payload).await };
                let panicked = || DecodedAgain::Failed("the decoder's port failed: this is a bug of Sluse".to_owned());
                self.spawn(ticket, decoded, panicked, |ticket, outcome| Outcome::Decoded { ticket, outcome });
            }
            Effect::Cancel { ticket } => {
                if let Some(task) = self.tasks.0.remove(&ticket) {
                    task.abort();
                }
            }
            Effect::AskLive { feed } => self.switch(feed, Some(ctx.address()), ctx),
            Effect::GoLagging { feed } => self.switch(feed, None, ctx),
            Effect::Demand { demand, from, num_records_max, num_bytes_max } => {
                let demanded =
                    Demanded { target: self.target, to: ctx.address(), demand, from, num_records_max, num_bytes_max };
                let sweep = self.board.sweep.borrow().clone();
                let asked = async move {
                    match sweep {
                        Some(sweep) => deliver_to(&sweep, demanded).await.is_ok(),
                        None => false,
                    }
                };
                ctx.spawn(asked.into_actor(self).map(move |is_asked, actor, ctx| {
                    if !is_asked {
                        actor.step(Input::DemandFailed { demand }, ctx);
                    }
                }));
            }
            Effect::ReplayEnded { letter } => self.replay_ended(letter, ctx),
            Effect::Tried { class, latency_ms } => self.meters.tried(class, latency_ms),
            Effect::Ended(ended) => {
                self.board.count_outcomes(1);
                self.meters.ended(ended);
            }
            Effect::Malformed { offset, error } => {
                error!(target_id = self.target.0, partition = self.board.partition.0, %offset, error,
                    "a delivery record cannot be read and is discarded");
            }
        }
    }

    fn send(&mut self, ticket: u64, meta: Arc<DeliveryMeta>, body: bytes::Bytes) {
        let sender = self.sender.clone();
        let attempt = async move {
            match sender {
                Some(sender) => sender.send(&meta, body).await,
                None => Attempt::failed(AttemptClass::Misconfigured, "there is no sender for this target"),
            }
        };
        let panicked = || Attempt::failed(AttemptClass::Transient, "the sender failed: this is a bug of Sluse");
        self.spawn(ticket, attempt, panicked, |ticket, attempt| Outcome::Attempted { ticket, attempt });
    }

    /// Runs something as a task of its own. A panic in it is an outcome like another, so that no ticket stays open for ever.
    fn spawn<T: 'static>(
        &mut self,
        ticket: u64,
        work: impl Future<Output = T> + 'static,
        panicked: impl FnOnce() -> T + 'static,
        outcome: impl FnOnce(u64, T) -> Outcome + 'static,
    ) {
        let outcomes = self.outcomes.clone();
        let task = actix_rt::spawn(async move {
            let done = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| panicked());
            // Closed only when the actor ended: whoever comes next sends it again.
            let _ = outcomes.send(outcome(ticket, done)).await;
        });
        self.tasks.0.insert(ticket, task.abort_handle());
    }

    fn switch(&mut self, feed: u64, to: Option<Addr<Self>>, ctx: &mut Context<Self>) {
        let is_joining = to.is_some();
        let switch = Switch { target: self.target, feed, to };
        let consumer = self.board.consumer.borrow().clone();
        let answer = async move {
            match consumer {
                Some(consumer) => deliver_to(&consumer, switch).await.ok().flatten(),
                None => None,
            }
        };
        ctx.spawn(answer.into_actor(self).map(move |answer, actor, ctx| {
            let input = match answer {
                Some(next) if is_joining => Input::Joined { feed, next },
                Some(next) => Input::Left { feed, next },
                None => Input::AskFailed { feed },
            };
            actor.step(input, ctx);
        }));
    }

    /// Wakes the machine when time alone changes something. A timer that is early does no harm; so it is only replaced by earlier.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let now = self.board.ports.clock.now();
        let Some(at_ms) = self.machine.next_wake_at_ms(now) else { return };
        if let Some((armed_at_ms, timer)) = self.wake {
            if armed_at_ms <= at_ms {
                return;
            }
            ctx.cancel_future(timer);
        }
        let wait = Duration::from_millis((at_ms - now.at_ms).clamp(1, 3_600_000) as u64);
        let timer = ctx.run_later(wait, |actor, ctx| {
            actor.wake = None;
            actor.step(Input::Tick, ctx);
        });
        self.wake = Some((at_ms, timer));
    }

    /// Counts what waits in the log, from where the last count ended, for as long as the target lags.
    fn count_ahead_while_lagging(&mut self, ctx: &mut Context<Self>) {
        if self.is_counting || self.machine.fed() == sluse_schema::target::Feed::Live {
            return;
        }
        self.is_counting = true;
        let (log, partition, target) = (Arc::clone(&self.board.ports.log), self.board.partition, self.target);
        let from = self.machine.cursor().counted_until();
        let count = async move {
            let until = log.bounds(sluse_schema::record::Topic::Deliveries, partition).await.ok()?.1;
            let backlog =
                if until > from { log.backlog(partition, target, from, until).await.ok()? } else { Default::default() };
            tokio::task::yield_now().await;
            Some((until, backlog))
        };
        ctx.spawn(count.into_actor(self).map(move |counted, actor, ctx| {
            if let Some((until, backlog)) = counted
                && backlog.num_records > 0
            {
                let first_at_ms = backlog.first.map(|(_, at_ms)| at_ms);
                actor.step(Input::Counted { from, until, num: backlog.num_records, first_at_ms }, ctx);
            }
            ctx.run_later(COUNT_EVERY, |actor, ctx| {
                actor.is_counting = false;
                actor.count_ahead_while_lagging(ctx);
            });
        }));
    }

    fn configure(&mut self, known: Known, ctx: &mut Context<Self>) {
        match known {
            Known::NotYet => {}
            Known::Gone => self.step(Input::Deleted, ctx),
            Known::Config(config) => {
                let (sender, trouble) = match self.board.ports.senders.make(&config) {
                    Ok(sender) => (Some(sender), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                self.sender = sender;
                self.meters.set_kind(config.kind.as_str());
                let settings = Settings { organization: config.organization, policy: config.policy, trouble };
                self.step(Input::Configured(settings), ctx);
            }
        }
    }
}

impl Actor for TargetActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(mut outcomes) = self.outcomes_in.take() {
            ctx.add_stream(futures_util::stream::poll_fn(move |cx| outcomes.poll_recv(cx)));
        }
        let known = std::mem::replace(&mut self.first_known, Known::NotYet);
        self.configure(known, ctx);
        self.step(Input::Tick, ctx);
    }
}

impl Drop for TargetActor {
    fn drop(&mut self) {
        self.board.adjust_load(self.load, (0, 0));
        self.meters.forget();
    }
}

impl StreamHandler<Outcome> for TargetActor {
    fn handle(&mut self, outcome: Outcome, ctx: &mut Self::Context) {
        let input = match outcome {
            Outcome::Attempted { ticket, attempt } => {
                self.tasks.0.remove(&ticket);
                Input::Attempted { ticket, attempt }
            }
            Outcome::Decoded { ticket, outcome } => {
                self.tasks.0.remove(&ticket);
                Input::Decoded { ticket, outcome }
            }
        };
        self.step(input, ctx);
    }

    fn finished(&mut self, _: &mut Self::Context) {
        // The sending half is a field of this actor: the stream ends with it.
    }
}

impl Handler<Offer> for TargetActor {
    type Result = Fed;

    fn handle(&mut self, offer: Offer, ctx: &mut Self::Context) -> Fed {
        let Offer { feed, since, records, next } = offer;
        self.step(Input::Offer { feed, since, records, next }, ctx);
        Fed { go_on: self.machine.is_fed_by(feed), num_loaded: self.load.0, num_bytes: self.load.1 }
    }
}

impl Handler<Swept> for TargetActor {
    type Result = ();

    fn handle(&mut self, Swept { demand, from, outcome }: Swept, ctx: &mut Self::Context) {
        match outcome {
            SweepOutcome::Read { records, next, end } => {
                self.step(Input::Swept { demand, from, records, next, end }, ctx);
            }
            SweepOutcome::Failed => self.step(Input::DemandFailed { demand }, ctx),
            SweepOutcome::FellOut { start } => self.count_what_fell_out(demand, start, ctx),
        }
    }
}

impl TargetActor {
    fn count_what_fell_out(&mut self, demand: u64, start: sluse_schema::record::Offset, ctx: &mut Context<Self>) {
        let (log, partition, target) = (Arc::clone(&self.board.ports.log), self.board.partition, self.target);
        let until = self.machine.cursor().counted_until();
        let left = async move {
            if until > start {
                log.backlog(partition, target, start, until).await.ok()
            } else {
                Some(Default::default())
            }
        };
        ctx.spawn(left.into_actor(self).map(move |left, actor, ctx| {
            let is_current = actor.machine.cursor().counted_until() == until;
            if let Some(left) = left.filter(|_| is_current) {
                let num_before = actor.machine.cursor().counters().expired;
                actor.step(Input::FellOut { start, num_left: left.num_records }, ctx);
                let num_expired = actor.machine.cursor().counters().expired - num_before;
                error!(target_id = target.0, partition = partition.0, %start, num_expired,
                    "deliveries fell out of the log before they could be sent");
            }
            actor.step(Input::DemandFailed { demand }, ctx);
        }));
    }
}

impl Handler<Evict> for TargetActor {
    type Result = ();

    fn handle(&mut self, _: Evict, ctx: &mut Self::Context) {
        self.step(Input::Evict, ctx);
    }
}

impl Handler<Configure> for TargetActor {
    type Result = ();

    fn handle(&mut self, Configure(known): Configure, ctx: &mut Self::Context) {
        self.configure(known, ctx);
    }
}

impl Handler<Asked> for TargetActor {
    type Result = ();

    fn handle(&mut self, Asked(requests): Asked, ctx: &mut Self::Context) {
        self.requests.add(requests);
        self.work_off_requests(ctx);
    }
}

impl Handler<Collect> for TargetActor {
    type Result = MessageResult<Collect>;

    fn handle(&mut self, Collect { partition_next }: Collect, _: &mut Self::Context) -> Self::Result {
        if !self.machine.is_conserved() {
            error!(target_id = self.target.0, cursor = ?self.machine.cursor(), "a target's records are not all accounted for");
        }
        let now = self.board.ports.clock.now();
        let status = self.machine.status(now);
        self.meters.gauge(&status);
        let snapshot = Snapshot {
            cursor: self.machine.to_row(&self.board.log, partition_next),
            status,
            outbox: self.machine.take_outbox(),
            requests_done: self.requests.take_done(),
        };
        // A live target that is ahead of the partition's stored position, or that still holds something, is written again.
        if snapshot.cursor.position.is_some() {
            self.board.mark_dirty(self.target);
        }
        MessageResult(snapshot)
    }
}

impl Handler<DrainTarget> for TargetActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: DrainTarget, ctx: &mut Self::Context) -> Self::Result {
        let (drained, is_drained) = oneshot::channel();
        self.drained.push(drained);
        self.step(Input::Drain, ctx);
        Box::pin(async move {
            let _ = is_drained.await;
        })
    }
}

impl Handler<Stop> for TargetActor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
