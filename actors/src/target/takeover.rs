//! Taking a deliveries partition: raise the epoch, load cursors and configurations, and find out what stored positions mean in the
//! log that is open now. What fell out of the log meanwhile is counted expired, and said.

use std::sync::Arc;

use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{LogError, StoreError, TargetRequest};
use sluse_schema::record::{LogIdentity, Offset, Position, Resolution, Topic};
use sluse_schema::target::{TargetConfig, TargetCursor};
use tracing::{error, warn};

use super::config::{TargetPorts, TargetStageConfig};
use super::cursor::Cursor;
use crate::table::HashMap;

/// Why a partition could not be taken now.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    /// Taken away while this node slept or was told so late: whoever has it must not be fenced.
    #[error("it is not assigned to this node any more")]
    NotOurs,
}

/// A partition that is ours.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) epoch: i64,
    /// The partition's position: where the consumer goes on.
    pub(super) next: Offset,
    /// Rows as they are valid now, with positions of this log.
    pub(super) cursors: Vec<TargetCursor>,
    pub(super) configs: HashMap<TargetId, Arc<TargetConfig>>,
    pub(super) requests: Vec<TargetRequest>,
}

/// Takes a partition.
pub(super) async fn take(
    ports: &TargetPorts,
    config: &TargetStageConfig,
    partition: PartitionId,
) -> Result<Taken, TakeError> {
    check_ours(ports, partition).await?;
    let (epoch, stored) = ports.store.take_partition(partition).await?;
    // A raise that came after another node's would fence it: only who is assigned after the raise goes on, the other raises again.
    check_ours(ports, partition).await?;
    let rows = ports.store.load_cursors(partition).await?;
    let configs = ports.store.load_targets(partition, None).await?;
    let requests = ports.store.load_requests(partition).await?;
    let (start, end) = ports.log.bounds(Topic::Deliveries, partition).await?;
    let resolving = Resolving { ports, partition, start, end, num_holes_max: config.bounds().num_holes_max };
    let next = match &stored {
        None => start,
        Some(stored) => match resolving.resolve(stored).await? {
            Resolution::At(offset) => offset,
            Resolution::Expired { start } => {
                warn!(partition = partition.0, stored = %stored.offset, %start, "the partition's position fell out of the deliveries log");
                start
            }
            Resolution::OtherLog => {
                warn!(
                    partition = partition.0,
                    "the partition's position counts in another log, starting at the beginning"
                );
                start
            }
        },
    };
    let mut cursors = Vec::with_capacity(rows.len());
    for row in rows {
        cursors.push(resolving.cursor(&row, next).await?);
    }
    let configs = configs.into_iter().map(|config| (config.target, config)).collect();
    Ok(Taken { epoch, next, cursors, configs, requests })
}

async fn check_ours(ports: &TargetPorts, partition: PartitionId) -> Result<(), TakeError> {
    if ports.log.is_assigned(partition).await? { Ok(()) } else { Err(TakeError::NotOurs) }
}

struct Resolving<'a> {
    ports: &'a TargetPorts,
    partition: PartitionId,
    start: Offset,
    end: Offset,
    num_holes_max: usize,
}

impl Resolving<'_> {
    async fn resolve(&self, stored: &Position) -> Result<Resolution, LogError> {
        self.ports.log.resolve(Topic::Deliveries, self.partition, stored).await
    }

    /// The row as it is valid in this log.
    async fn cursor(&self, row: &TargetCursor, partition_next: Offset) -> Result<TargetCursor, LogError> {
        let log = self.ports.log.identity();
        let position = match &row.position {
            // Without a position of its own it follows its partition.
            None => Some(partition_next),
            Some(stored) => match self.resolve(stored).await? {
                Resolution::At(offset) => Some(offset),
                Resolution::Expired { .. } => Some(stored.offset),
                Resolution::OtherLog => None,
            },
        };
        let (cursor, num_expired) = match position {
            Some(position) => {
                let num_left = if position < self.start {
                    let backlog = self.ports.log.backlog(self.partition, row.target, self.start, self.end).await?;
                    backlog.num_records
                } else {
                    0
                };
                Cursor::restore(row, position, self.start, num_left, self.num_holes_max)
            }
            None => Cursor::restore_elsewhere(row, self.start, self.num_holes_max),
        };
        if num_expired > 0 {
            error!(target_id = row.target.0, partition = self.partition.0, num_expired, start = %self.start,
                "deliveries fell out of the log before they could be sent");
        }
        Ok(row_at(&cursor, row.target, &log))
    }
}

/// The row of a cursor, with its position.
pub(super) fn row_at(cursor: &Cursor, target: TargetId, log: &LogIdentity) -> TargetCursor {
    cursor.to_row(target, Some(Position { log: log.clone(), offset: cursor.position() }), 0)
}
