//! Devices: who a sender is, what administration says of a device, and what is remembered of it when it becomes active.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::device::{DecoderScript, DeviceConfig, DeviceRef, Route};
use sluse_schema::id::{ApplicationId, DeviceId, DeviceKey, OrganizationId, TargetId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Activation, DecodeFailure, DeviceDirectory, DeviceStore, StateBatch, StoreError};
use sluse_schema::record::Position;

use super::call::call;
use super::connect::Store;
use super::error::WorkError;
use super::metadata::{self, DeviceRecord, SharedEnds};
use super::pool::lease;
use super::scripts::Xid;
use super::states;

const READ_TIMEOUT: Duration = Duration::from_secs(6);

#[async_trait]
impl DeviceDirectory for Store {
    async fn find_devices(&self, keys: &[DeviceKey]) -> Result<Vec<Option<DeviceRef>>, StoreError> {
        let mut euis: Vec<String> = Vec::new();
        let mut hashes: Vec<&[u8]> = Vec::new();
        for key in keys {
            match key {
                DeviceKey::DevEui(eui) => euis.push(eui.to_string()),
                DeviceKey::ApiKey(hash) => hashes.push(hash),
            }
        }
        call("find_devices", READ_TIMEOUT, async {
            let client = lease(&self.look_ups).await?;
            let statement = client
                .prepare_cached(
                    "SELECT d.device_eui, d.api_key_hash, d.id, a.organization_id
                     FROM iot_device d JOIN application a ON a.id = d.application_id
                     WHERE d.device_eui = ANY($1::text[])
                     UNION ALL
                     SELECT d.device_eui, d.api_key_hash, d.id, a.organization_id
                     FROM iot_device d JOIN application a ON a.id = d.application_id
                     WHERE d.api_key_hash = ANY($2::bytea[])",
                )
                .await?;
            let rows = client.query(&statement, &[&euis, &hashes]).await?;
            client.done();
            let mut found: HashMap<DeviceKey, DeviceRef> = HashMap::with_capacity(rows.len());
            for row in &rows {
                let (eui, hash): (Option<&str>, Option<&[u8]>) = (row.get(0), row.get(1));
                let device = DeviceRef { device: DeviceId(row.get(2)), organization: OrganizationId(row.get(3)) };
                if let Some(eui) = eui.and_then(|text| text.parse().ok()) {
                    found.insert(DeviceKey::DevEui(eui), device);
                }
                if let Some(hash) = hash.and_then(|bytes| bytes.try_into().ok()) {
                    found.insert(DeviceKey::ApiKey(hash), device);
                }
            }
            Ok::<_, WorkError>(keys.iter().map(|key| found.get(key).copied()).collect())
        })
        .await
    }
}

#[async_trait]
impl DeviceStore for Store {
    async fn activate(&self, devices: &[DeviceId]) -> Result<Vec<Activation>, StoreError> {
        let found = self.activating.ask(devices, |devices| self.activate_all(devices)).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn load_configs(&self, devices: &[DeviceId]) -> Result<Vec<Arc<DeviceConfig>>, StoreError> {
        let ids: Vec<i64> = devices.iter().map(|device| device.0).collect();
        call("load_configs", READ_TIMEOUT, async {
            let client = lease(&self.look_ups).await?;
            let sql = format!(
                "SELECT {}, a.organization_id FROM {} WHERE d.id = ANY($1::bigint[])",
                metadata::COLUMNS,
                metadata::TABLES
            );
            let statement = client.prepare_cached(&sql).await?;
            let rows = client.query(&statement, &[&ids]).await?;
            let mut routes = self.load_routes(&client, &ids).await?;
            client.done();
            Ok::<_, WorkError>(rows.iter().map(|row| Arc::new(config_of(row, &mut routes, &self.ends))).collect())
        })
        .await
    }

    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError> {
        self.take("uplinks_partition", partition).await
    }

    async fn store_states(&self, batch: &StateBatch) -> Result<(), StoreError> {
        states::store(self, batch).await
    }

    async fn record_decode_failures(&self, failures: &[DecodeFailure]) -> Result<(), StoreError> {
        super::failures::record(self, failures).await
    }
}

/// Distinct (target, decoder) pairs per device.
type Routes = HashMap<i64, Vec<Route>>;

fn config_of(row: &tokio_postgres::Row, routes: &mut Routes, shared: &SharedEnds) -> DeviceConfig {
    let record = DeviceRecord::of_row(row);
    DeviceConfig {
        device: DeviceId(record.id),
        application: ApplicationId(record.application.id),
        organization: OrganizationId(row.get(metadata::NUM_COLUMNS)),
        metadata: record.to_text(shared),
        name: record.name,
        routes: routes.remove(&record.id).unwrap_or_default().into(),
    }
}

impl Store {
    async fn activate_all(&self, devices: Vec<DeviceId>) -> Result<Vec<Option<Activation>>, StoreError> {
        let ids: Vec<i64> = devices.iter().map(|device| device.0).collect();
        call("activate", READ_TIMEOUT, async {
            let client = lease(&self.look_ups).await?;
            let sql = format!(
                "SELECT {}, a.organization_id, {} FROM {} LEFT JOIN device_state s ON s.device_id = d.id
                 WHERE d.id = ANY($1::bigint[])",
                metadata::COLUMNS,
                states::COLUMNS,
                metadata::TABLES
            );
            let statement = client.prepare_cached(&sql).await?;
            let rows = client.query(&statement, &[&ids]).await?;
            let mut routes = self.load_routes(&client, &ids).await?;
            client.done();
            let activation = |row| Activation {
                config: Arc::new(config_of(row, &mut routes, &self.ends)),
                state: states::state_of_row(row, metadata::NUM_COLUMNS + 1),
            };
            let found: HashMap<DeviceId, Activation> =
                rows.iter().map(activation).map(|found| (found.config.device, found)).collect();
            Ok::<_, WorkError>(devices.iter().map(|device| found.get(device).cloned()).collect())
        })
        .await
    }

    async fn load_routes(
        &self,
        client: &deadpool_postgres::ClientWrapper,
        devices: &[i64],
    ) -> Result<Routes, WorkError> {
        let statement = client
            .prepare_cached(
                "SELECT DISTINCT cd.device_id, c.data_target_id, c.payload_decoder_id, p.xmin
                 FROM connection_device cd
                 JOIN connection c ON c.id = cd.connection_id
                 JOIN data_target t ON t.id = c.data_target_id AND t.type <> 'OPENDATADK'
                 LEFT JOIN payload_decoder p ON p.id = c.payload_decoder_id
                 WHERE cd.device_id = ANY($1::bigint[])
                 ORDER BY cd.device_id, c.data_target_id, c.payload_decoder_id NULLS FIRST",
            )
            .await?;
        let rows = client.query(&statement, &[&devices]).await?;
        let mut scripts: HashMap<i64, Arc<DecoderScript>> = HashMap::new();
        let mut missing: Vec<i64> = Vec::new();
        for row in &rows {
            let (decoder, version): (Option<i64>, Option<Xid>) = (row.get(2), row.get(3));
            let (Some(decoder), Some(version)) = (decoder, version) else { continue };
            if scripts.contains_key(&decoder) || missing.contains(&decoder) {
                continue;
            }
            match self.scripts.get(decoder, version.0) {
                Some(script) => {
                    scripts.insert(decoder, script);
                }
                None => missing.push(decoder),
            }
        }
        if !missing.is_empty() {
            scripts.extend(self.scripts.load(client, &missing).await?.into_iter().map(|script| (script.id.0, script)));
        }
        let mut routes: Routes = HashMap::new();
        for row in &rows {
            let decoder = match row.get::<_, Option<i64>>(2) {
                // A decoder that went between the two reads: the connection is about to go too, and its change event comes.
                Some(id) => match scripts.get(&id) {
                    Some(script) => Some(script.clone()),
                    None => continue,
                },
                None => None,
            };
            routes.entry(row.get(0)).or_default().push(Route { target: TargetId(row.get(1)), decoder });
        }
        Ok(routes)
    }

    /// Raises the epoch of a partition and returns it with the stored position.
    pub(super) async fn take(
        &self,
        table: &'static str,
        partition: PartitionId,
    ) -> Result<(i64, Option<Position>), StoreError> {
        call("take_partition", READ_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let sql = format!(
                "INSERT INTO {table} AS p (partition, epoch) VALUES ($1, 1)
                 ON CONFLICT (partition) DO UPDATE SET epoch = p.epoch + 1, updated_at = now()
                 RETURNING epoch, log_store, log_incarnation, log_offset"
            );
            let row = client.query_one(&sql, &[&(partition.0 as i32)]).await?;
            client.done();
            Ok::<_, WorkError>((row.get(0), super::convert::position(&row, 1)))
        })
        .await
    }
}
