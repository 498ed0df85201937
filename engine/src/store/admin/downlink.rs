//! Downlinks as rows in PostgreSQL. What becomes of one is written with the device's state (`store::states`).

use async_trait::async_trait;
use chrono::DateTime;
use serde_json::json;
use sluse_schema::change::ChangedEntity;
use sluse_schema::device::LinkState;
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId};
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::lorawan::{DownlinkRow, DownlinkStore, NewDownlink};
use sluse_schema::port::admin::{AdminError, ChangedBy};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::application_resource;
use super::{PgAdminStore, pg};

const SELECT: &str =
    "SELECT f_cnt_down, payload, port, sent_at, acknowledged_at, is_acknowledged, created_at FROM downlink";

fn downlink_of(row: &Row) -> Result<DownlinkRow, AdminError> {
    Ok(DownlinkRow {
        f_cnt_down: row.try_get("f_cnt_down").map_err(pg)?,
        payload: row.try_get("payload").map_err(pg)?,
        port: row.try_get("port").map_err(pg)?,
        sent_at: row.try_get("sent_at").map_err(pg)?,
        acknowledged_at: row.try_get("acknowledged_at").map_err(pg)?,
        is_acknowledged: row.try_get("is_acknowledged").map_err(pg)?,
        created_at: row.try_get("created_at").map_err(pg)?,
    })
}

/// Refuses unless the permit is for the device's application as it is now.
async fn check_device(write: &Write<'_>, device: DeviceId) -> Result<(), AdminError> {
    let row = write
        .db()
        .query_opt(
            "SELECT d.application_id, a.organization_id FROM iot_device d JOIN application a ON a.id = d.application_id \
             WHERE d.id = $1 FOR SHARE OF d",
            &[&device.0],
        )
        .await
        .map_err(pg)?
        .ok_or(AdminError::NotFound)?;
    let application = ApplicationId(row.try_get(0).map_err(pg)?);
    write.check(&application_resource(application, OrganizationId(row.try_get(1).map_err(pg)?)))
}

/// A gateway may have taken the downlink before its row was there: then the device's record knows.
async fn note_what_is_known(write: &Write<'_>, new: &NewDownlink, id: i64) -> Result<(), AdminError> {
    let sql = "SELECT link FROM device_state WHERE device_id = $1";
    let Some(row) = write.db().query_opt(sql, &[&new.device.0]).await.map_err(pg)? else { return Ok(()) };
    let link: LinkState = serde_json::from_slice(row.try_get(0).map_err(pg)?).unwrap_or_default();
    let Some(known) = link.last_downlink.filter(|known| known.queue_item_id == new.queue_item_id) else {
        return Ok(());
    };
    write
        .db()
        .execute(
            "UPDATE downlink SET sent_at = $2, f_cnt_down = $3, is_acknowledged = $4 WHERE id = $1",
            &[
                &id,
                &known.sent_at_ms.and_then(DateTime::from_timestamp_millis),
                &known.f_cnt_down.map(i64::from),
                &known.is_acknowledged,
            ],
        )
        .await
        .map_err(pg)?;
    Ok(())
}

impl PgAdminStore {
    async fn downlinks(&self, what: &str, device: DeviceId, num_max: i64) -> Result<Vec<DownlinkRow>, AdminError> {
        let sql = format!("{SELECT} WHERE device_id = $1 AND {what} LIMIT $2");
        let rows = self.client().await?.query(&sql, &[&device.0, &num_max]).await.map_err(pg)?;
        rows.iter().map(downlink_of).collect()
    }
}

#[async_trait]
impl DownlinkStore for PgAdminStore {
    async fn create_downlink(&self, permit: &Permit, by: &ChangedBy, new: &NewDownlink) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        check_device(&write, new.device).await?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO downlink (device_id, queue_item_id, payload, port, is_confirmed, created_by, updated_by) \
                 VALUES ($1, $2, $3, $4, $5, $6, $6) RETURNING id",
                &[&new.device.0, &new.queue_item_id, &new.payload, &new.port, &new.is_confirmed, &write.user_id()],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        note_what_is_known(&write, new, id).await?;
        write.record(ChangeAction::Create, ChangedEntity::Downlink, id, None).await?;
        write.commit().await
    }

    async fn waiting_downlinks(&self, device: DeviceId, num_max: i64) -> Result<Vec<DownlinkRow>, AdminError> {
        let what = "sent_at IS NULL AND flushed_at IS NULL AND acknowledged_at IS NULL ORDER BY id";
        self.downlinks(what, device, num_max).await
    }

    async fn sent_downlinks(&self, device: DeviceId, num_max: i64) -> Result<Vec<DownlinkRow>, AdminError> {
        self.downlinks("sent_at IS NOT NULL ORDER BY id DESC", device, num_max).await
    }

    async fn flush_downlinks(&self, permit: &Permit, by: &ChangedBy, device: DeviceId) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        check_device(&write, device).await?;
        let flushed = write
            .db()
            .query(
                "UPDATE downlink SET flushed_at = now(), updated_at = now(), updated_by = $2 \
                 WHERE device_id = $1 AND sent_at IS NULL AND flushed_at IS NULL AND acknowledged_at IS NULL RETURNING id",
                &[&device.0, &write.user_id()],
            )
            .await
            .map_err(pg)?;
        // One line, about the last of them: there may be thousands.
        let last = flushed.iter().map(|row| row.get::<_, i64>(0)).max().unwrap_or(0);
        let before = json!({"device_id": device, "num_flushed": flushed.len()});
        write.record(ChangeAction::Delete, ChangedEntity::Downlink, last, Some(before)).await?;
        write.commit().await
    }
}
