//! Which log the positions in this database count in, for the check at the start that another one is not begun by mistake.

use std::collections::BTreeMap;
use std::time::Duration;

use sluse_schema::partition::PartitionId;
use sluse_schema::port::StoreError;
use sluse_schema::record::Position;

use super::call::call;
use super::connect::Store;
use super::convert::position;
use super::pool::lease;

const SETTING: &str = "log_store";
const WITHIN: Duration = Duration::from_secs(10);

/// See [`Store::log_in_use`].
pub(crate) async fn log_in_use(pool: &deadpool_postgres::Pool) -> Result<Option<String>, StoreError> {
    call("log_in_use", WITHIN, async {
        let client = lease(pool).await?;
        let row = client
            .query_opt(
                // Databases from before this setting have positions only.
                "SELECT coalesce((SELECT value FROM setting WHERE name = $1),
                                 (SELECT max(log_store) FROM uplinks_partition))",
                &[&SETTING],
            )
            .await?;
        client.done();
        Ok(row.and_then(|row| row.get(0)))
    })
    .await
}

impl Store {
    /// The store of the log that is in use; `None` when nothing was ever read from one.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn log_in_use(&self) -> Result<Option<String>, StoreError> {
        log_in_use(self.pool()).await
    }

    /// How many deliveries are neither delivered nor ended otherwise, by the counters of all targets.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn num_pending(&self) -> Result<i64, StoreError> {
        call("num_pending", WITHIN, async {
            let client = lease(self.pool()).await?;
            let row = client
                .query_one(
                    "SELECT coalesce(sum(accepted + offered_again - delivered - dead - expired - discarded), 0)::bigint
                     FROM target_cursor",
                    &[],
                )
                .await?;
            client.done();
            Ok(row.get(0))
        })
        .await
    }

    /// Up to where each deliveries partition was read: the counters of its targets hold everything below, and nothing beyond.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn deliveries_positions(&self) -> Result<BTreeMap<PartitionId, Position>, StoreError> {
        call("deliveries_positions", WITHIN, async {
            let client = lease(self.pool()).await?;
            let rows = client
                .query("SELECT partition, log_store, log_incarnation, log_offset FROM deliveries_partition", &[])
                .await?;
            client.done();
            let partition = |row: &tokio_postgres::Row| u32::try_from(row.get::<_, i32>(0)).ok().map(PartitionId);
            Ok(rows.iter().filter_map(|row| Some((partition(row)?, position(row, 1)?))).collect())
        })
        .await
    }

    /// Positions count in this log from now on.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn use_log(&self, store: &str) -> Result<(), StoreError> {
        call("use_log", WITHIN, async {
            let client = lease(self.pool()).await?;
            client
                .execute(
                    "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2",
                    &[&SETTING, &store],
                )
                .await?;
            client.done();
            Ok(())
        })
        .await
    }
}
