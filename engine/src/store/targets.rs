//! Data targets as the data path needs them.

use std::time::Duration;

use sluse_schema::id::TargetId;
use sluse_schema::partition::partition_of_target;
use sluse_schema::port::StoreError;

use super::connect::Store;
use super::error::WorkError;
use super::pool::{lease, within};

impl Store {
    /// Fills in the partition of targets that have none yet (written by an older program, or restored).
    pub(super) async fn assign_target_partitions(&self) -> Result<(), StoreError> {
        within(Duration::from_secs(30), async {
            let client = lease(&self.pool).await?;
            let rows = client.query("SELECT id FROM data_target WHERE partition IS NULL", &[]).await?;
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let partitions: Vec<i32> =
                ids.iter().map(|id| partition_of_target(TargetId(*id), self.num_partitions).0 as i32).collect();
            if !ids.is_empty() {
                client
                    .execute(
                        "UPDATE data_target t SET partition = n.partition
                         FROM unnest($1::bigint[], $2::int[]) AS n(id, partition) WHERE t.id = n.id",
                        &[&ids, &partitions],
                    )
                    .await?;
            }
            client.done();
            Ok::<_, WorkError>(())
        })
        .await
    }
}
