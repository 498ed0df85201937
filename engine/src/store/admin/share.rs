//! Open Data DK in PostgreSQL: catalogues, the newest readings that they name, the flag of registration.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use sluse_schema::change::ChangedEntity;
use sluse_schema::device::{DecoderScript, Dialect};
use sluse_schema::id::{DecoderId, DeviceId, OrganizationId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::share::{ShareStore, SharedDataset, SharedReading};
use sluse_schema::port::admin::{AdminError, ChangedBy, OrganizationRow};

use super::change::{ChangeAction, Write};
use super::target::dataset_of;
use super::{PgAdminStore, pg, row};
use crate::store::metadata::{self, DeviceRecord};

/// Decoders by id.
async fn scripts(db: &impl GenericClient, ids: &[i64]) -> Result<HashMap<i64, Arc<DecoderScript>>, AdminError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT id, decoding_function, dialect FROM payload_decoder WHERE id = ANY($1)";
    let rows = db.query(sql, &[&ids]).await.map_err(pg)?;
    let script = |r: &tokio_postgres::Row| {
        let (id, source, dialect): (i64, String, Option<&str>) = (r.get(0), r.get(1), r.get(2));
        (id, Arc::new(DecoderScript::new(DecoderId(id), source, dialect.and_then(Dialect::of_str))))
    };
    Ok(rows.iter().map(script).collect())
}

#[async_trait]
impl ShareStore for PgAdminStore {
    async fn shared_datasets(
        &self,
        organization: OrganizationId,
        num_max: i64,
    ) -> Result<(OrganizationRow, Vec<SharedDataset>), AdminError> {
        // One row without a data set for an organisation that shares nothing.
        let sql = format!(
            "SELECT {}, ds.id AS dataset_id, ds.name AS dataset_name, ds.description, ds.keywords, ds.license, ds.author_name, \
             ds.author_email, ds.resource_title, ds.update_frequency, ds.documentation_url, ds.data_directory, \
             ds.created_at AS dataset_created_at, ds.updated_at AS dataset_updated_at, ds.created_by AS dataset_created_by, \
             ds.updated_by AS dataset_updated_by \
             FROM organization o LEFT JOIN LATERAL ( \
                 SELECT d.* FROM application a JOIN data_target t ON t.application_id = a.id \
                 JOIN open_data_dk_dataset d ON d.data_target_id = t.id \
                 WHERE a.organization_id = o.id ORDER BY d.id LIMIT $2) ds ON true \
             WHERE o.id = $1 ORDER BY ds.id",
            row::ORGANIZATION
        );
        let rows = self.client().await?.query(&sql, &[&organization.0, &num_max]).await.map_err(pg)?;
        let organization = row::organization(rows.first().ok_or(AdminError::NotFound)?);
        let mut datasets = Vec::with_capacity(rows.len());
        for r in &rows {
            if let Some(id) = r.try_get::<_, Option<i64>>("dataset_id").map_err(pg)? {
                let (dataset, (id, stamps)) = dataset_of(r, id)?;
                datasets.push(SharedDataset { id, dataset, stamps });
            }
        }
        Ok((organization, datasets))
    }

    async fn shared_readings(
        &self,
        organization: OrganizationId,
        dataset: i64,
        num_max: i64,
    ) -> Result<Vec<SharedReading>, AdminError> {
        let client = self.client().await?;
        let is_there = "SELECT 1 FROM open_data_dk_dataset ds JOIN data_target t ON t.id = ds.data_target_id \
                        JOIN application a ON a.id = t.application_id WHERE ds.id = $1 AND a.organization_id = $2";
        if client.query_opt(is_there, &[&dataset, &organization.0]).await.map_err(pg)?.is_none() {
            return Err(AdminError::NotFound);
        }
        // A device that left the target's application shares nothing here any more.
        let sql = format!(
            "SELECT {}, c.payload_decoder_id AS decoder, s.latest_payload AS payload, s.latest_received_at AS received_at \
             FROM open_data_dk_dataset ds JOIN data_target t ON t.id = ds.data_target_id \
             JOIN connection c ON c.data_target_id = t.id JOIN connection_device cd ON cd.connection_id = c.id \
             JOIN ({}) ON d.id = cd.device_id AND d.application_id = t.application_id \
             JOIN device_state s ON s.device_id = d.id \
             WHERE ds.id = $1 AND s.latest_payload IS NOT NULL ORDER BY c.id, d.id LIMIT $2",
            metadata::COLUMNS,
            metadata::TABLES
        );
        let rows = client.query(&sql, &[&dataset, &num_max]).await.map_err(pg)?;
        let mut decoders: Vec<i64> = rows.iter().filter_map(|r| r.get("decoder")).collect();
        decoders.sort_unstable();
        decoders.dedup();
        let scripts = scripts(&client, &decoders).await?;
        let reading = |r: &tokio_postgres::Row| {
            let record = DeviceRecord::of_row(r);
            let decoder: Option<i64> = r.get("decoder");
            SharedReading {
                device: DeviceId(record.id),
                payload: Bytes::from(r.get::<_, Vec<u8>>("payload")),
                received_at_ms: r.get::<_, Option<DateTime<Utc>>>("received_at").map_or(0, |at| at.timestamp_millis()),
                metadata: record.to_json().into(),
                script: decoder.and_then(|id| scripts.get(&id).cloned()),
            }
        };
        Ok(rows.iter().map(reading).collect())
    }

    async fn set_open_data_dk_registered(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        organization: OrganizationId,
        is_registered: bool,
    ) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Organization(organization))?;
        let before = write.snapshot(ChangedEntity::Organization, organization.0).await?.ok_or(AdminError::NotFound)?;
        let update =
            "UPDATE organization SET open_data_dk_registered = $2, updated_by = $3, updated_at = now() WHERE id = $1";
        write.db().execute(update, &[&organization.0, &is_registered, &write.user_id()]).await.map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::Organization, organization.0, Some(before)).await?;
        write.commit().await
    }

    async fn decoding_of(
        &self,
        decoder: DecoderId,
        device: DeviceId,
    ) -> Result<(Option<Arc<DecoderScript>>, Option<Arc<str>>), AdminError> {
        let client = self.client().await?;
        let script = scripts(&client, &[decoder.0]).await?.remove(&decoder.0);
        let sql = format!("SELECT {} FROM {} WHERE d.id = $1", metadata::COLUMNS, metadata::TABLES);
        let found = client.query_opt(&sql, &[&device.0]).await.map_err(pg)?;
        Ok((script, found.map(|r| DeviceRecord::of_row(&r).to_json().into())))
    }
}
