//! The sweep of one deliveries partition: it reads for the targets that lag, each from its own cursor, in the order they ask.
//!
//! It waits for none: a target asks only for what it has room for, and one that is full does not ask. Every target has at most one
//! read waiting here, so the queue is bounded by their number. When all targets of the partition together hold more than its
//! window, reads get small, so that everyone still moves.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, WrapFuture};
use metrics::counter;
use sluse_schema::port::{LogError, ReadLimit};
use tracing::warn;

use super::board::Board;
use super::message::{Demanded, Stop, SweepOutcome, Swept};
use super::metrics::SWEPT;
use crate::mailbox::deliver_to;
use crate::supervise::ExitGuard;

/// Reads under way at once.
const NUM_READS_MAX: usize = 4;
/// What one read brings while the partition's targets hold too much.
const SMALL_RECORDS_MAX: usize = 8;
const SMALL_BYTES_MAX: usize = 64 << 10;

/// Reads for lagging targets.
#[derive(Debug)]
pub(super) struct Sweep {
    board: Rc<Board>,
    queue: VecDeque<Demanded>,
    num_reading: usize,
    _guard: ExitGuard,
}

impl Sweep {
    pub(super) fn launch(board: &Rc<Board>, guard: ExitGuard) -> Addr<Self> {
        let board = Rc::clone(board);
        Self { board, queue: VecDeque::new(), num_reading: 0, _guard: guard }.start()
    }

    fn read_next(&mut self, ctx: &mut Context<Self>) {
        while self.num_reading < NUM_READS_MAX
            && let Some(demanded) = self.queue.pop_front()
        {
            self.num_reading += 1;
            let limit = self.limit_of(&demanded);
            let (log, partition) = (Arc::clone(&self.board.ports.log), self.board.partition);
            let read = async move {
                let Demanded { target, to, demand, from, .. } = demanded;
                let outcome = match log.read_target(partition, target, from, limit).await {
                    Ok(batch) => {
                        counter!(SWEPT).increment(batch.records.len() as u64);
                        SweepOutcome::Read { records: batch.records, next: batch.next, end: batch.end }
                    }
                    Err(LogError::OutOfRange { start, .. }) => SweepOutcome::FellOut { start },
                    Err(error) => {
                        warn!(target_id = target.0, partition = partition.0, %error, "a lagging target cannot be read for now");
                        SweepOutcome::Failed
                    }
                };
                // A target that ended meanwhile asks again when it is made anew.
                let _ = deliver_to(&to, Swept { demand, from, outcome }).await;
            };
            ctx.spawn(read.into_actor(self).map(|(), actor, ctx| {
                actor.num_reading -= 1;
                actor.read_next(ctx);
            }));
        }
    }

    fn limit_of(&self, demanded: &Demanded) -> ReadLimit {
        let (board, config) = (&self.board, &self.board.config);
        let is_full = board.num_loaded.get() > config.window_records || board.num_bytes.get() > config.window_bytes;
        let (num_records_max, num_bytes_max) =
            if is_full { (SMALL_RECORDS_MAX, SMALL_BYTES_MAX) } else { (usize::MAX, usize::MAX) };
        ReadLimit {
            num_records_max: demanded.num_records_max.min(num_records_max),
            num_bytes_max: demanded.num_bytes_max.min(num_bytes_max),
        }
    }
}

impl Actor for Sweep {
    type Context = Context<Self>;
}

impl Handler<Demanded> for Sweep {
    type Result = ();

    fn handle(&mut self, demanded: Demanded, ctx: &mut Self::Context) {
        self.queue.push_back(demanded);
        self.read_next(ctx);
    }
}

impl Handler<Stop> for Sweep {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
