//! The check at the start that no log is left behind with something in it: positions count in one log, and another one is begun only when
//! the old one is drained, or when the operator says by its name that it is to be left.

use std::path::Path;

use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Log, LogError, StoreError};
use sluse_schema::record::Topic;

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
    let found = match look_into_embedded(&old, embedded).await {
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
async fn look_into_embedded(old: &str, config: &EmbeddedLogConfig) -> Old {
    if !old.starts_with("embedded:") || !Path::new(&config.dir).exists() {
        return Old::Unknown;
    }
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(config)).await;
    let Ok(Ok(log)) = opened else { return Old::Unknown };
    if log.identity().store != old {
        return Old::Unknown;
    }
    let found = num_unread(log.as_ref()).await;
    let _ = log.close().await;
    match found {
        Ok(0) => Old::Drained,
        Ok(num_unread) => Old::Undrained(format!("{num_unread} uplinks of the old one are not handled yet")),
        Err(_) => Old::Unknown,
    }
}

/// Uplinks that no step has passed yet.
async fn num_unread(log: &dyn Log) -> Result<u64, LogError> {
    let mut num_unread = 0;
    for partition in (0..log.num_partitions()).map(PartitionId) {
        let (start, end) = log.bounds(Topic::Uplinks, partition).await?;
        let committed = log.committed(partition).await?.unwrap_or(start);
        num_unread += end.0.saturating_sub(committed.0);
    }
    Ok(num_unread)
}
