//! Taking a partition: raise its epoch (I8), find the state position S and the committed position P. `[S, P)` is replayed for state.

use std::time::Duration;

use sluse_schema::partition::PartitionId;
use sluse_schema::port::{DeviceStore, Log, LogError, StoreError};
use sluse_schema::record::{Offset, Resolution, Topic};
use tracing::{info, warn};

use crate::supervise::Backoff;

/// Waits between attempts.
pub(super) const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(10) };

/// A partition that is ours.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub epoch: i64,
    /// S: everything below it is in the device rows.
    pub state: Offset,
    /// P: everything below it is in the deliveries log.
    pub committed: Offset,
}

/// Takes a partition, as long as it may need.
pub async fn take(log: &dyn Log, store: &dyn DeviceStore, partition: PartitionId) -> Taken {
    let mut num_failures = 0;
    loop {
        match try_take(log, store, partition).await {
            Ok(taken) => {
                info!(
                    partition = partition.0,
                    epoch = taken.epoch,
                    state = taken.state.0,
                    committed = taken.committed.0,
                    "uplinks partition taken"
                );
                return taken;
            }
            Err(error) => {
                num_failures += 1;
                let wait = BACKOFF.random_delay(num_failures);
                warn!(partition = partition.0, %error, wait_ms = wait.as_millis() as u64, "cannot take uplinks partition yet");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Why a partition cannot be taken now.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    /// Taken away while this node slept or was told so late: whoever has it must not be fenced.
    #[error("it is not assigned to this node any more")]
    NotOurs,
}

async fn check_ours(log: &dyn Log, partition: PartitionId) -> Result<(), TakeError> {
    if log.is_assigned(partition).await? { Ok(()) } else { Err(TakeError::NotOurs) }
}

async fn try_take(log: &dyn Log, store: &dyn DeviceStore, partition: PartitionId) -> Result<Taken, TakeError> {
    check_ours(log, partition).await?;
    let (epoch, stored) = store.take_partition(partition).await?;
    // A raise that came after another node's would fence it: only who is assigned after the raise goes on, the other raises again.
    check_ours(log, partition).await?;
    let (start, _) = log.bounds(Topic::Uplinks, partition).await?;
    let state = match stored {
        None => start,
        Some(position) => match log.resolve(Topic::Uplinks, partition, &position).await? {
            Resolution::At(offset) => offset,
            Resolution::Expired { start } => {
                warn!(partition = partition.0, "records before the state position are gone, device states have a gap");
                start
            }
            Resolution::OtherLog => start,
        },
    };
    // Nothing committed yet: everything the log holds is still to be done, but what the rows hold already.
    let committed = log.committed(partition).await?.unwrap_or(state).max(start);
    Ok(Taken { epoch, state: state.min(committed), committed })
}
