//! Notes of what may not stand in ChirpStack as it stands here: written before ChirpStack is called, taken away when both agree.
//! Rows that are deleted are noted by triggers, in the transaction that deletes them.

use async_trait::async_trait;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, DevEui, DeviceId, OrganizationId};
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::device::DeviceRow;
use sluse_schema::port::admin::lorawan::{NetworkObject, NetworkTask, NetworkTaskStore};
use sluse_schema::port::admin::{AdminError, ChangedBy};
use sluse_schema::text;
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::device::{COLUMNS, FROM};
use super::related::application_resource;
use super::{PgAdminStore, pg, secrets};

/// Longest error that is kept.
const ERROR_BYTES_MAX: usize = 500;

fn task_of(row: &Row) -> Result<NetworkTask, AdminError> {
    let kind: &str = row.try_get("kind").map_err(pg)?;
    Ok(NetworkTask {
        kind: NetworkObject::of_str(kind).ok_or_else(|| secrets::unreadable("network_server_task.kind"))?,
        key: row.try_get("key").map_err(pg)?,
        generation: row.try_get("generation").map_err(pg)?,
        is_deletion: row.try_get("is_deletion").map_err(pg)?,
        num_attempts: row.try_get("num_attempts").map_err(pg)?,
    })
}

#[async_trait]
impl NetworkTaskStore for PgAdminStore {
    async fn note_network_task(
        &self,
        kind: NetworkObject,
        key: &str,
        due_in_s: i32,
    ) -> Result<NetworkTask, AdminError> {
        let row = self
            .client()
            .await?
            .query_one(
                "INSERT INTO network_server_task AS t (kind, key, due_at) VALUES ($1, $2, now() + make_interval(secs => $3)) \
                 ON CONFLICT (kind, key) DO UPDATE SET generation = t.generation + 1, due_at = excluded.due_at, \
                    num_attempts = 0 RETURNING *",
                &[&kind.as_str(), &key, &f64::from(due_in_s)],
            )
            .await
            .map_err(pg)?;
        task_of(&row)
    }

    async fn network_task(&self, kind: NetworkObject, key: &str) -> Result<Option<NetworkTask>, AdminError> {
        let sql = "SELECT * FROM network_server_task WHERE kind = $1 AND key = $2";
        let row = self.client().await?.query_opt(sql, &[&kind.as_str(), &key]).await.map_err(pg)?;
        row.as_ref().map(task_of).transpose()
    }

    async fn finish_network_task(&self, task: &NetworkTask) -> Result<(), AdminError> {
        let sql = "DELETE FROM network_server_task WHERE kind = $1 AND key = $2 AND generation = $3";
        let client = self.client().await?;
        client.execute(sql, &[&task.kind.as_str(), &task.key, &task.generation]).await.map_err(pg)?;
        Ok(())
    }

    async fn put_off_network_task(&self, task: &NetworkTask, error: &str) -> Result<(), AdminError> {
        self.client()
            .await?
            .execute(
                "UPDATE network_server_task SET num_attempts = num_attempts + 1, last_error = $3, \
                 due_at = now() + make_interval(secs => LEAST(3600, 15 * 2 ^ LEAST(num_attempts, 10))) \
                 WHERE kind = $1 AND key = $2",
                &[&task.kind.as_str(), &task.key, &text::cut(error, ERROR_BYTES_MAX)],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }

    async fn due_network_tasks(&self, num_max: i64) -> Result<Vec<NetworkTask>, AdminError> {
        let sql = "SELECT * FROM network_server_task WHERE due_at <= now() ORDER BY due_at LIMIT $1";
        let rows = self.client().await?.query(sql, &[&num_max]).await.map_err(pg)?;
        rows.iter().map(task_of).collect()
    }

    async fn network_backlog(&self) -> Result<(i64, i64), AdminError> {
        let sql =
            "SELECT count(*), COALESCE(extract(epoch FROM now() - min(noted_at)), 0)::bigint FROM network_server_task";
        let row = self.client().await?.query_one(sql, &[]).await.map_err(pg)?;
        Ok((row.try_get(0).map_err(pg)?, row.try_get(1).map_err(pg)?))
    }

    async fn device_by_eui(&self, dev_eui: DevEui) -> Result<Option<DeviceRow>, AdminError> {
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE d.device_eui = $1");
        let row = self.client().await?.query_opt(&sql, &[&dev_eui.to_string()]).await.map_err(pg)?;
        row.map(|row| self.device_of(&row)).transpose()
    }

    async fn is_network_application(&self, network_id: &str) -> Result<bool, AdminError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM application WHERE chirpstack_id = $1)";
        let row = self.client().await?.query_one(sql, &[&network_id]).await.map_err(pg)?;
        row.try_get(0).map_err(pg)
    }

    async fn devices_without_join_key(&self, after: DeviceId, num_max: i64) -> Result<Vec<DeviceRow>, AdminError> {
        let sql = format!(
            "SELECT {COLUMNS} {FROM} WHERE d.type = 'LORAWAN' AND d.id > $1 AND d.settings_enc IS NULL \
             AND d.settings->'lorawanSettings'->>'activationType' = 'OTAA' ORDER BY d.id LIMIT $2"
        );
        let rows = self.client().await?.query(&sql, &[&after.0, &num_max]).await.map_err(pg)?;
        rows.iter().map(|row| self.device_of(row)).collect()
    }

    async fn set_network_application(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        application: ApplicationId,
        network_id: &str,
        instead_of: Option<&str>,
    ) -> Result<String, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let snapshot = write.snapshot(ChangedEntity::Application, application.0).await?.ok_or(AdminError::NotFound)?;
        let sql = "SELECT organization_id, chirpstack_id FROM application WHERE id = $1";
        let row = write.db().query_one(sql, &[&application.0]).await.map_err(pg)?;
        let organization = OrganizationId(row.try_get(0).map_err(pg)?);
        write.check(&application_resource(application, organization))?;
        let current: Option<String> = row.try_get(1).map_err(pg)?;
        if let Some(current) = current.filter(|current| instead_of != Some(current.as_str())) {
            return Ok(current);
        }
        let sql = "UPDATE application SET chirpstack_id = $2 WHERE id = $1";
        write.db().execute(sql, &[&application.0, &network_id]).await.map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::Application, application.0, Some(snapshot)).await?;
        write.commit().await?;
        Ok(network_id.to_owned())
    }
}
