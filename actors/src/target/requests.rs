//! What people ask of a target: rewinds and replays, worked off in the order they came, a rewind before a replay that waits for
//! the receiver.
//!
//! A request is done when its effect stands in the machine, and leaves the list in the same transaction as the cursor that has it.
//! Limits: 64 dead letters of a replay in memory at once; the ids of 1 000 requests that are done are remembered, since a list
//! that was read before they were written still names them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use sluse_schema::delivery::DeadLetter;
use sluse_schema::id::{DeadLetterId, TargetId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Log, LogError, TargetRequest, TargetRequestKind};
use sluse_schema::record::{Offset, Topic};
use tracing::{info, warn};

use super::actor::TargetActor;
use super::input::Input;
use crate::table::HashSet;

const NUM_LETTERS_LOADED_MAX: usize = 64;
const NUM_DONE_REMEMBERED: usize = 1_000;
/// After the log or the database was away.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The requests of one target.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: VecDeque<TargetRequest>,
    known: HashSet<i64>,
    remembered: VecDeque<i64>,
    is_rewinding: bool,
    replay: Option<Replay>,
    done: Vec<i64>,
}

#[derive(Debug)]
struct Replay {
    request: i64,
    ids: VecDeque<DeadLetterId>,
    open: HashSet<DeadLetterId>,
    is_loading: bool,
}

impl Requests {
    /// Adds requests; those that are known already are ignored.
    pub(super) fn add(&mut self, requests: Vec<TargetRequest>) {
        for request in requests {
            if self.known.insert(request.id) {
                self.waiting.push_back(request);
            }
        }
    }

    /// Requests that are done since this was asked last.
    pub(super) fn take_done(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.done)
    }

    fn finish(&mut self, request: i64) {
        self.done.push(request);
        self.remembered.push_back(request);
        if self.remembered.len() > NUM_DONE_REMEMBERED
            && let Some(oldest) = self.remembered.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// The next request that can be worked on: a rewind, or a replay when none is under way.
    fn next(&mut self) -> Option<TargetRequest> {
        if self.is_rewinding {
            return None;
        }
        let is_replaying = self.replay.is_some();
        let i = self.waiting.iter().position(|r| !is_replaying || !matches!(r.kind, TargetRequestKind::Replay(_)))?;
        self.waiting.remove(i)
    }
}

impl TargetActor {
    /// Starts what can be started.
    pub(super) fn work_off_requests(&mut self, ctx: &mut Context<Self>) {
        while let Some(request) = self.requests.next() {
            match request.kind {
                TargetRequestKind::Replay(ids) => {
                    let replay =
                        Replay { request: request.id, ids: ids.into(), open: HashSet::default(), is_loading: false };
                    self.requests.replay = Some(replay);
                    self.replay_on(ctx);
                }
                TargetRequestKind::RewindToTime(_) | TargetRequestKind::RewindToOffset(_) => self.rewind(request, ctx),
            }
        }
    }

    fn rewind(&mut self, request: TargetRequest, ctx: &mut Context<Self>) {
        self.requests.is_rewinding = true;
        self.step(Input::PrepareRewind, ctx);
        let (log, partition, target) = (Arc::clone(&self.board.ports.log), self.board.partition, self.target);
        let position = self.machine.cursor().position();
        let kind = request.kind.clone();
        let range = async move { range_of(log.as_ref(), partition, target, &kind, position).await };
        ctx.spawn(range.into_actor(self).map(move |range, actor, ctx| {
            actor.requests.is_rewinding = false;
            match range {
                Ok((to, num_in_range)) => {
                    info!(target_id = target.0, partition = partition.0, %to, num_in_range, "target rewound");
                    actor.requests.finish(request.id);
                    actor.step(Input::Rewind { to, num_in_range }, ctx);
                    actor.work_off_requests(ctx);
                }
                Err(error) => {
                    warn!(target_id = target.0, partition = partition.0, %error, "a rewind waits for the log");
                    actor.requests.waiting.push_front(request);
                    actor.step(Input::AbandonRewind, ctx);
                    ctx.run_later(TRY_AGAIN, |actor, ctx| actor.work_off_requests(ctx));
                }
            }
        }));
    }

    /// Loads the next dead letters of the replay when those before have ended.
    fn replay_on(&mut self, ctx: &mut Context<Self>) {
        let Some(replay) = &mut self.requests.replay else { return };
        if replay.is_loading || !replay.open.is_empty() {
            return;
        }
        if replay.ids.is_empty() {
            let request = replay.request;
            self.requests.replay = None;
            self.requests.finish(request);
            self.board.mark_dirty(self.target);
            self.work_off_requests(ctx);
            return;
        }
        replay.is_loading = true;
        let num = replay.ids.len().min(NUM_LETTERS_LOADED_MAX);
        let ids: Vec<DeadLetterId> = replay.ids.iter().take(num).copied().collect();
        let (store, target) = (Arc::clone(&self.board.ports.store), self.target);
        let loaded = async move { store.load_dead_letters(target, &ids).await };
        ctx.spawn(loaded.into_actor(self).map(move |loaded, actor, ctx| {
            let Some(replay) = &mut actor.requests.replay else { return };
            replay.is_loading = false;
            match loaded {
                Ok(letters) => {
                    replay.ids.drain(..num);
                    // A letter that was purged, or ended before a restart, is not there any more.
                    let letters: Vec<(DeadLetterId, DeadLetter)> = letters;
                    replay.open = letters.iter().map(|(id, _)| *id).collect();
                    actor.step(Input::Replay(letters), ctx);
                    actor.replay_on(ctx);
                }
                Err(error) => {
                    warn!(target_id = target.0, %error, "a replay waits for the database");
                    ctx.run_later(TRY_AGAIN, |actor, ctx| actor.replay_on(ctx));
                }
            }
        }));
    }

    pub(super) fn replay_ended(&mut self, letter: DeadLetterId, ctx: &mut Context<Self>) {
        let Some(replay) = &mut self.requests.replay else { return };
        replay.open.remove(&letter);
        if replay.open.is_empty() {
            // Later, since the machine's step that said so is not over.
            ctx.run_later(Duration::from_millis(1), |actor, ctx| actor.replay_on(ctx));
        }
    }
}

/// Where a rewind goes, and how many records stand between there and the target's position.
async fn range_of(
    log: &dyn Log,
    partition: PartitionId,
    target: TargetId,
    kind: &TargetRequestKind,
    position: Offset,
) -> Result<(Offset, u64), LogError> {
    let asked = match kind {
        TargetRequestKind::RewindToTime(at_ms) => log.offset_at(Topic::Deliveries, partition, *at_ms).await?,
        TargetRequestKind::RewindToOffset(offset) => Offset(*offset),
        TargetRequestKind::Replay(_) => position,
    };
    let (start, _) = log.bounds(Topic::Deliveries, partition).await?;
    let to = asked.max(start);
    if to >= position {
        return Ok((to, 0));
    }
    Ok((to, log.backlog(partition, target, to, position).await?.num_records))
}
