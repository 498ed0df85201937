//! Device models.

use async_trait::async_trait;
use deadpool_postgres::GenericClient;
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{AdminError, ChangedBy, DeviceModelRow, DeviceModelStore, Listed, NumDeleted, Page};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::{PgAdminStore, pg, row};

const COLUMNS: &str = "m.id AS m_id, m.body AS m_body, m.created_at AS m_created_at, m.updated_at AS m_updated_at, \
     m.created_by AS m_created_by, m.updated_by AS m_updated_by";

fn device_model(found: &Row) -> DeviceModelRow {
    DeviceModelRow {
        id: found.get("m_id"),
        body: found.get("m_body"),
        organization: row::organization(found),
        stamps: row::stamps(found, "m"),
    }
}

async fn load(db: &impl GenericClient, id: i64) -> Result<DeviceModelRow, AdminError> {
    let sql = format!(
        "SELECT {COLUMNS}, {} FROM device_model m JOIN organization o ON o.id = m.organization_id WHERE m.id = $1",
        row::ORGANIZATION
    );
    db.query_opt(&sql, &[&id]).await.map_err(pg)?.as_ref().map(device_model).ok_or(AdminError::NotFound)
}

/// The model before a change, with the permit checked against the organisation that it belongs to.
async fn lock(write: &Write<'_>, id: i64) -> Result<Value, AdminError> {
    let before = write.snapshot(ChangedEntity::DeviceModel, id).await?.ok_or(AdminError::NotFound)?;
    let organization = before["organization_id"].as_i64().ok_or(AdminError::NotFound)?;
    write.check(&Resource::Organization(OrganizationId(organization)))?;
    Ok(before)
}

#[async_trait]
impl DeviceModelStore for PgAdminStore {
    async fn create_device_model(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        organization: OrganizationId,
        body: &Value,
    ) -> Result<DeviceModelRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Organization(organization))?;
        let insert = "INSERT INTO device_model (organization_id, body, created_by, updated_by) VALUES ($1, $2, $3, $3) \
                      RETURNING id";
        let id: i64 =
            write.db().query_one(insert, &[&organization.0, body, &write.user_id()]).await.map_err(pg)?.get(0);
        write.record(ChangeAction::Create, ChangedEntity::DeviceModel, id, None).await?;
        let created = load(write.db(), id).await?;
        write.commit().await?;
        Ok(created)
    }

    async fn update_device_model(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        body: &Value,
    ) -> Result<DeviceModelRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = lock(&write, id).await?;
        let update = "UPDATE device_model SET body = $2, updated_by = $3, updated_at = now() WHERE id = $1";
        write.db().execute(update, &[&id, body, &write.user_id()]).await.map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::DeviceModel, id, Some(before)).await?;
        // Decoders see the model in the device's record.
        let devices = "SELECT id FROM iot_device WHERE device_model_id = $1";
        let ids: Vec<i64> = write.db().query(devices, &[&id]).await.map_err(pg)?.iter().map(|r| r.get(0)).collect();
        write.touch(ChangedEntity::Device, &ids).await?;
        let updated = load(write.db(), id).await?;
        write.commit().await?;
        Ok(updated)
    }

    async fn delete_device_model(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = lock(&write, id).await?;
        let num = write.db().execute("DELETE FROM device_model WHERE id = $1", &[&id]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::DeviceModel, id, Some(before)).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }

    async fn device_model(&self, id: i64) -> Result<DeviceModelRow, AdminError> {
        let client = self.client().await?;
        load(&client, id).await
    }

    async fn device_models(
        &self,
        among: Option<&[OrganizationId]>,
        page: &Page,
    ) -> Result<Listed<DeviceModelRow>, AdminError> {
        let client = self.client().await?;
        let among: Option<Vec<i64>> = among.map(|ids| ids.iter().map(|o| o.0).collect());
        let filter = "($1::bigint[] IS NULL OR m.organization_id = ANY($1))";
        let sql = format!(
            "SELECT {COLUMNS}, {} FROM device_model m JOIN organization o ON o.id = m.organization_id WHERE {filter} \
             ORDER BY m.id {} LIMIT $2 OFFSET $3",
            row::ORGANIZATION,
            row::direction_of_known(page, "m.id", "m.id")
        );
        let rows = client.query(&sql, &[&among, &page.limit, &page.offset]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM device_model m WHERE {filter}");
        let num_all = client.query_one(&count, &[&among]).await.map_err(pg)?.get(0);
        Ok(Listed { rows: rows.iter().map(device_model).collect(), num_all })
    }
}
