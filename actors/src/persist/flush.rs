//! One flush: every changed device's row, in chunks, each in one transaction with the state position.
//!
//! The position moves with the last chunk only, to where the partition was committed when the flush began: a row may be ahead of it
//! (it names its own offset, so replay skips what it holds), but never ahead of the committed position, or a crash would make
//! an uplink look handled whose deliveries were not written.

use std::sync::Arc;
use std::time::Instant;

use actix::{ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use futures_util::future::join_all;
use metrics::{counter, gauge, histogram};
use sluse_schema::device::DeviceState;
use sluse_schema::id::DeviceId;
use sluse_schema::port::{DeviceStore, StateBatch, StoreError};
use sluse_schema::record::{LogIdentity, Offset, Position, Topic};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::device::{DeviceActor, TakeState};
use crate::mailbox::deliver_to;
use crate::partition::consumer::PartitionConsumer;
use crate::partition::devices::Slot;
use crate::partition::metrics::{FLUSH_SECONDS, STATE_LAG_RECORDS, STATES_STORED, STORE_FAILURES};
use crate::supervise::Backoff;

const BACKOFF: Backoff =
    Backoff { base: std::time::Duration::from_millis(200), max: std::time::Duration::from_secs(5) };

/// What a flush needs of its partition.
struct Flush {
    store: Arc<dyn DeviceStore>,
    batch: StateBatch,
    log: Arc<LogIdentity>,
    devices: Vec<(DeviceId, Addr<DeviceActor>)>,
    num_rows_max: usize,
    /// The state position so far, and where it may go if every row is written.
    from: Offset,
    to: Offset,
    committed: watch::Receiver<u64>,
    partition_label: Arc<str>,
}

/// How a flush ended.
struct Flushed {
    position: Offset,
    /// Devices whose actor was gone when asked: their change is not stored.
    missed: Vec<DeviceId>,
}

impl Flush {
    async fn run(mut self) -> Result<Flushed, StoreError> {
        let mut missed = Vec::new();
        let devices = std::mem::take(&mut self.devices);
        let num_chunks = devices.len().div_ceil(self.num_rows_max).max(1);
        for i in 0..num_chunks {
            let chunk = devices.iter().skip(i * self.num_rows_max).take(self.num_rows_max);
            let taken = join_all(
                chunk.map(|(device, addr)| async move { deliver_to(addr, TakeState).await.map_err(|_| *device) }),
            )
            .await;
            self.batch.states.clear();
            for outcome in taken {
                match outcome {
                    Ok(taken) => self.batch.states.push(*taken.0),
                    Err(device) => missed.push(device),
                }
            }
            let is_last = i + 1 == num_chunks;
            let position = if is_last && missed.is_empty() { self.to } else { self.from };
            self.batch.position = Position { log: LogIdentity::clone(&self.log), offset: position };
            self.wait_until_committed().await;
            self.store().await?;
            tokio::task::yield_now().await;
        }
        Ok(Flushed { position: self.batch.position.offset, missed })
    }

    /// No row may be ahead of the committed position.
    async fn wait_until_committed(&mut self) {
        let applied = |s: &DeviceState| s.applied.as_ref().filter(|(log, _)| log.store == self.log.store).map(|a| a.1);
        let newest = self.batch.states.iter().filter_map(applied).max().unwrap_or(0);
        let _ = self.committed.wait_for(|committed| *committed >= newest).await;
    }

    async fn store(&self) -> Result<(), StoreError> {
        let mut num_failures = 0;
        loop {
            match self.store.store_states(&self.batch).await {
                Ok(()) => {
                    counter!(STATES_STORED).increment(self.batch.states.len() as u64);
                    return Ok(());
                }
                Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
                Err(error) => {
                    num_failures += 1;
                    counter!(STORE_FAILURES, "partition" => self.partition_label.clone()).increment(1);
                    warn!(partition = self.batch.partition.0, %error, "cannot store device states yet");
                    tokio::time::sleep(BACKOFF.random_delay(num_failures)).await;
                }
            }
        }
    }
}

impl PartitionConsumer {
    /// Begins a flush unless one is under way, nothing changed, or so much did that it is worth waiting for more.
    pub(crate) fn flush_when_due(&mut self, ctx: &mut Context<Self>) {
        let lag = self.committed.borrow().saturating_sub(self.state_position.0);
        gauge!(STATE_LAG_RECORDS, "partition" => self.partition_label.clone()).set(lag as f64);
        let has_moved = *self.committed.borrow() > self.state_position.0;
        let num_dirty = self.dirty.len();
        let is_worth_waiting = num_dirty > self.config.num_flush_soon_max
            && num_dirty < self.config.num_flush_waiting_max
            && self.flush_many_at > tokio::time::Instant::now();
        if !self.is_flushing && !self.is_replaying() && !is_worth_waiting && (has_moved || !self.dirty.is_empty()) {
            self.flush(ctx);
        }
    }

    /// Stores every changed device and moves the state position to where the partition is committed now.
    pub(crate) fn flush(&mut self, ctx: &mut Context<Self>) {
        self.is_flushing = true;
        self.flush_many_at = tokio::time::Instant::now() + self.config.flush_interval_max;
        let mut is_whole = true;
        let mut devices = Vec::with_capacity(self.dirty.len());
        let mut kept = Vec::new();
        for device in self.dirty.drain() {
            match self.slots.get(&device) {
                Some(Slot::Active(active)) if !active.is_provisional => devices.push((device, active.addr.clone())),
                // Its row cannot be written now, so the position may not pass it.
                Some(_) => {
                    is_whole = false;
                    kept.push(device);
                }
                None => {}
            }
        }
        self.dirty.extend(kept);
        let to = if is_whole { Offset(*self.committed.borrow()) } else { self.state_position };
        let log = Arc::clone(&self.shared.log);
        let flush = Flush {
            store: Arc::clone(&self.ports.store),
            batch: StateBatch {
                partition: self.partition,
                epoch: self.epoch,
                states: Vec::new(),
                position: Position { log: LogIdentity::clone(&log), offset: self.state_position },
            },
            log,
            devices,
            num_rows_max: self.config.num_flush_rows_max,
            from: self.state_position,
            to,
            committed: self.committed.subscribe(),
            partition_label: Arc::clone(&self.partition_label),
        };
        let started_at = Instant::now();
        ctx.spawn(flush.run().into_actor(self).map(move |outcome, actor, ctx| {
            actor.is_flushing = false;
            match outcome {
                Ok(flushed) => {
                    histogram!(FLUSH_SECONDS).record(started_at.elapsed().as_secs_f64());
                    actor.dirty.extend(flushed.missed);
                    actor.state_position = flushed.position;
                    actor.ports.log.set_retention_floor(Topic::Uplinks, actor.partition, flushed.position);
                    actor.settle_drain(ctx);
                }
                Err(error) => {
                    error!(partition = actor.partition.0, %error, "fenced, starting the partition anew if it is still ours");
                    actor.give_up(ctx);
                }
            }
        }));
    }
}
