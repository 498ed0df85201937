//! The check at the start that no log is left behind with something in it: positions count in one log, and another one is begun only when
//! the old one is drained, or when the operator says by its name that it is to be left.

use std::collections::BTreeMap;
use std::path::Path;

use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Log, LogError, StoreError};
use sluse_schema::record::{Position, Resolution, Topic};

use crate::log::{EmbeddedLog, EmbeddedLogConfig};
use crate::store::Store;

/// Why this log may not be begun.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error(
        "the database's positions count in the log {old}, and this node is set to {new}: {why}. Go back to the old log, stop the sources and \
         let it drain, until sluse_partition_lag_records is 0 and no target has anything pending. Then start once with \
         SLUSE__LOG__LEAVE={old}"
    )]
    Undrained { old: String, new: String, why: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is known of the log that would be left.
#[derive(Debug, PartialEq, Eq)]
enum Old {
    Drained,
    Undrained(String),
    /// It cannot be looked into from here.
    Unknown,
}

/// Lets `log` be used with this database, or says why not. `leave` names a log that may be left as it is.
///
/// # Errors
/// [`SwitchError`].
pub async fn check(store: &Store, log: &dyn Log, leave: &str, embedded: &EmbeddedLogConfig) -> Result<(), SwitchError> {
    let new = log.identity().store;
    let old = match store.log_in_use().await? {
        Some(old) if old != new => old,
        _ => return Ok(store.use_log(&new).await?),
    };
    let num_pending = store.num_pending().await?;
    let found = match look_into_embedded(store, &old, embedded).await? {
        Old::Drained if num_pending > 0 => {
            Old::Undrained(format!("{num_pending} deliveries are pending in the old one"))
        }
        found => found,
    };
    if found == Old::Drained {
        tracing::info!(old, new, "the old log is drained, the new one is begun");
        return Ok(store.use_log(&new).await?);
    }
    if leave == old {
        tracing::warn!(old, new, num_pending, "the old log is left as it is (log.leave), the new one is begun");
        return Ok(store.use_log(&new).await?);
    }
    let why = match found {
        Old::Undrained(why) => why,
        _ => format!(
            "{num_pending} deliveries are pending in the old one, and what uplinks it holds cannot be seen from here"
        ),
    };
    Err(SwitchError::Undrained { old, new, why })
}

/// Looks whether the embedded log in this data directory is the old one, and drained.
async fn look_into_embedded(store: &Store, old: &str, config: &EmbeddedLogConfig) -> Result<Old, StoreError> {
    if !old.starts_with("embedded:") || !Path::new(&config.dir).exists() {
        return Ok(Old::Unknown);
    }
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(config)).await;
    let Ok(Ok(log)) = opened else { return Ok(Old::Unknown) };
    if log.identity().store != old {
        return Ok(Old::Unknown);
    }
    let stored = store.deliveries_positions().await;
    let found = match &stored {
        Ok(stored) => num_left(log.as_ref(), stored).await,
        Err(_) => Ok((0, 0)),
    };
    let _ = log.close().await;
    stored?;
    Ok(match found {
        Ok((0, 0)) => Old::Drained,
        Ok((0, num_deliveries)) => Old::Undrained(format!(
            "{num_deliveries} deliveries of the old one were never read, or what became of them is not stored"
        )),
        Ok((num_uplinks, _)) => Old::Undrained(format!("{num_uplinks} uplinks of the old one are not handled yet")),
        Err(_) => Old::Unknown,
    })
}

/// Uplinks that no step has passed yet, and deliveries beyond the stored positions. The counters of targets cover the log only up
/// to there: what a node wrote in the second before it was killed is in neither.
async fn num_left(log: &dyn Log, stored: &BTreeMap<PartitionId, Position>) -> Result<(u64, u64), LogError> {
    let (mut num_uplinks, mut num_deliveries) = (0, 0);
    for partition in (0..log.num_partitions()).map(PartitionId) {
        let (start, end) = log.bounds(Topic::Uplinks, partition).await?;
        let committed = log.committed(partition).await?.unwrap_or(start);
        num_uplinks += end.0.saturating_sub(committed.0);
        let (start, end) = log.bounds(Topic::Deliveries, partition).await?;
        let read_up_to = match stored.get(&partition) {
            Some(stored) => match log.resolve(Topic::Deliveries, partition, stored).await? {
                Resolution::At(offset) => offset,
                Resolution::Expired { .. } | Resolution::OtherLog => start,
            },
            None => start,
        };
        num_deliveries += end.0.saturating_sub(read_up_to.0);
    }
    Ok((num_uplinks, num_deliveries))
}
