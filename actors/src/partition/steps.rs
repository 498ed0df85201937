//! Committing steps (I1). A step whose outcome is unclear is settled first: the committed position says whether it was applied,
//! and only what lies beyond it is tried again, with the same outputs. So the deliveries log holds each delivery once.

use std::sync::Arc;
use std::time::Instant;

use actix::{ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};
use metrics::{counter, gauge, histogram};
use sluse_schema::port::{Log, LogError};
use sluse_schema::record::Step;
use tracing::{error, warn};

use super::consumer::PartitionConsumer;
use super::metrics::{DELIVERIES, LAG_RECORDS, LAG_SECONDS, OPEN_UPLINKS, STEP_SECONDS, STEP_UPLINKS, UPLINKS};
use super::take::BACKOFF;
use crate::clock::now_ms;
use crate::device::Outcome;

/// The partition is not ours any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the partition is lost: {0}")]
pub struct Lost(String);

/// Commits a step, however long the log is away.
///
/// # Errors
/// [`Lost`] when the log refuses us: nothing more may be written for the partition.
pub async fn commit(log: &dyn Log, step: Step) -> Result<(), Lost> {
    let mut num_failures = 0;
    loop {
        match log.commit_step(step.clone()).await {
            Ok(()) => return Ok(()),
            Err(error @ (LogError::Unclear(_) | LogError::Fenced { .. })) => {
                let was_fenced = matches!(error, LogError::Fenced { .. });
                warn!(partition = step.partition.0, %error, "settling a step");
                match log.committed(step.partition).await {
                    Ok(Some(position)) if position == step.next => return Ok(()),
                    Ok(position) if was_fenced || position.is_some_and(|p| p != step.from) => {
                        return Err(Lost(format!("{error}, committed position is {position:?}")));
                    }
                    Ok(_) => {}
                    Err(error) => warn!(partition = step.partition.0, %error, "cannot read the committed position yet"),
                }
            }
            Err(error) => warn!(partition = step.partition.0, %error, "cannot commit a step yet"),
        }
        num_failures += 1;
        tokio::time::sleep(BACKOFF.random_delay(num_failures)).await;
    }
}

impl PartitionConsumer {
    /// Commits now if a full step waits or everything that was read is done, or soon if anything is done.
    pub(super) fn commit_when_due(&mut self, ctx: &mut Context<Self>) {
        if self.is_committing {
            return;
        }
        if self.window.is_step_full() || self.window.is_all_done() || self.draining.is_some() {
            self.commit_now(ctx);
        } else if self.window.num_done() > 0 && self.step_timer.is_none() {
            let timer = ctx.run_later(self.config.step_interval, |actor, ctx| {
                actor.step_timer = None;
                actor.commit_now(ctx);
            });
            self.step_timer = Some(timer);
        }
    }

    fn commit_now(&mut self, ctx: &mut Context<Self>) {
        if self.is_committing {
            return;
        }
        if let Some(timer) = self.step_timer.take() {
            ctx.cancel_future(timer);
        }
        if self.is_replaying() {
            return self.pass_replayed(ctx);
        }
        let Some((step, outcomes)) = self.window.take_step(self.partition) else {
            return self.settle_drain(ctx);
        };
        self.is_committing = true;
        let log = Arc::clone(&self.ports.log);
        let (next, num_outputs, started_at) = (step.next, step.outputs.len(), Instant::now());
        let commit = async move { commit(log.as_ref(), step).await };
        ctx.spawn(commit.into_actor(self).map(move |result, actor, ctx| {
            actor.is_committing = false;
            match result {
                Ok(()) => {
                    histogram!(STEP_SECONDS).record(started_at.elapsed().as_secs_f64());
                    actor.committed.send_replace(next.0);
                    actor.publish(&outcomes, num_outputs);
                    actor.fetch_when_room(ctx);
                    actor.commit_when_due(ctx);
                    actor.settle_drain(ctx);
                }
                Err(lost) => {
                    error!(partition = actor.partition.0, %lost, "partition lost, starting it anew if it is still ours");
                    actor.give_up(ctx);
                }
            }
        }));
    }

    /// Replayed uplinks change state alone: their steps were committed before.
    fn pass_replayed(&mut self, ctx: &mut Context<Self>) {
        while self.window.take_step(self.partition).is_some() {}
        self.end_replay_when_done(ctx);
        self.fetch_when_room(ctx);
    }

    /// Drops the partition with its actors; the supervisor takes it again.
    pub(crate) fn give_up(&mut self, ctx: &mut Context<Self>) {
        self.guard.mark_failed();
        ctx.stop();
    }

    fn publish(&self, outcomes: &[Outcome], num_outputs: usize) {
        let partition = self.partition_label.clone();
        for outcome in Outcome::ALL {
            let num = outcomes.iter().filter(|o| **o == outcome).count();
            if num > 0 {
                counter!(UPLINKS, "partition" => partition.clone(), "outcome" => outcome.as_str())
                    .increment(num as u64);
            }
        }
        counter!(DELIVERIES, "partition" => partition.clone()).increment(num_outputs as u64);
        histogram!(STEP_UPLINKS).record(outcomes.len() as f64);
        gauge!(OPEN_UPLINKS, "partition" => partition.clone()).set(self.window.num_entries() as f64);
        let lag_records = self.log_end.0.saturating_sub(self.window.from().0);
        gauge!(LAG_RECORDS, "partition" => partition.clone()).set(lag_records as f64);
        let lag_seconds = self.window.oldest_received_at_ms().map_or(0.0, |at| (now_ms() - at).max(0) as f64 / 1e3);
        gauge!(LAG_SECONDS, "partition" => partition).set(lag_seconds);
    }
}
