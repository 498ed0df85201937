//! Sigfox groups as rows in PostgreSQL; what is done at Sigfox itself leaves a line in the change log.

use async_trait::async_trait;
use serde_json::json;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::sigfox::{DeviceTypeChange, SigfoxGroupRow, SigfoxGroupStore};
use sluse_schema::port::admin::{AdminError, ChangedBy};
use sluse_schema::port::sigfox::SigfoxLogin;
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::stamps;
use super::{PgAdminStore, pg, row, secrets};

const NUM_GROUPS_MAX: i64 = 1000;

const COLUMNS: &str =
    "g.id, g.username, g.password_enc, g.sigfox_group_id, g.created_at, g.updated_at, g.created_by, g.updated_by";

impl PgAdminStore {
    fn sigfox_group_of(&self, r: &Row) -> Result<SigfoxGroupRow, AdminError> {
        Ok(SigfoxGroupRow {
            id: r.try_get("id").map_err(pg)?,
            organization: row::organization(r),
            login: SigfoxLogin {
                username: r.try_get("username").map_err(pg)?,
                password: secrets::open(&self.cipher, r.try_get("password_enc").map_err(pg)?)?,
            },
            sigfox_group_id: r.try_get("sigfox_group_id").map_err(pg)?,
            stamps: stamps(r)?,
        })
    }

    async fn one_sigfox_group(
        &self,
        db: &impl deadpool_postgres::GenericClient,
        id: i64,
    ) -> Result<SigfoxGroupRow, AdminError> {
        let sql = format!(
            "SELECT {COLUMNS}, {} FROM sigfox_group g JOIN organization o ON o.id = g.organization_id WHERE g.id = $1",
            row::ORGANIZATION
        );
        let found = db.query_opt(&sql, &[&id]).await.map_err(pg)?.ok_or(AdminError::NotFound)?;
        self.sigfox_group_of(&found)
    }
}

#[async_trait]
impl SigfoxGroupStore for PgAdminStore {
    async fn sigfox_groups(&self, organization: OrganizationId) -> Result<Vec<SigfoxGroupRow>, AdminError> {
        let sql = format!(
            "SELECT {COLUMNS}, {} FROM sigfox_group g JOIN organization o ON o.id = g.organization_id \
             WHERE g.organization_id = $1 ORDER BY g.id LIMIT $2",
            row::ORGANIZATION
        );
        let rows = self.client().await?.query(&sql, &[&organization.0, &NUM_GROUPS_MAX]).await.map_err(pg)?;
        rows.iter().map(|r| self.sigfox_group_of(r)).collect()
    }

    async fn sigfox_group(&self, id: i64) -> Result<SigfoxGroupRow, AdminError> {
        self.one_sigfox_group(&self.client().await?, id).await
    }

    async fn create_sigfox_group(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        organization: OrganizationId,
        login: &SigfoxLogin,
        sigfox_group_id: &str,
    ) -> Result<SigfoxGroupRow, AdminError> {
        let sealed = secrets::seal(&self.cipher, &login.password);
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Organization(organization))?;
        let insert = "INSERT INTO sigfox_group (organization_id, username, password_enc, sigfox_group_id, created_by, updated_by) \
                      VALUES ($1, $2, $3, $4, $5, $5) RETURNING id";
        let id: i64 = write
            .db()
            .query_one(insert, &[&organization.0, &login.username, &sealed, &sigfox_group_id, &write.user_id()])
            .await
            .map_err(pg)?
            .get(0);
        write.record(ChangeAction::Create, ChangedEntity::SigfoxGroup, id, None).await?;
        let made = self.one_sigfox_group(write.db(), id).await?;
        write.commit().await?;
        Ok(made)
    }

    async fn update_sigfox_group(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        login: &SigfoxLogin,
        sigfox_group_id: &str,
    ) -> Result<SigfoxGroupRow, AdminError> {
        let sealed = secrets::seal(&self.cipher, &login.password);
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = write.snapshot(ChangedEntity::SigfoxGroup, id).await?.ok_or(AdminError::NotFound)?;
        let organization = self.one_sigfox_group(write.db(), id).await?.organization.id;
        write.check(&Resource::Organization(organization))?;
        let update = "UPDATE sigfox_group SET username = $2, password_enc = $3, sigfox_group_id = $4, updated_by = $5, \
                      updated_at = now() WHERE id = $1";
        write
            .db()
            .execute(update, &[&id, &login.username, &sealed, &sigfox_group_id, &write.user_id()])
            .await
            .map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::SigfoxGroup, id, Some(before)).await?;
        let changed = self.one_sigfox_group(write.db(), id).await?;
        write.commit().await?;
        Ok(changed)
    }

    async fn known_sigfox_devices(&self, ids: &[String]) -> Result<Vec<String>, AdminError> {
        let sql = "SELECT upper(settings->>'deviceId') FROM iot_device \
                   WHERE type = 'SIGFOX' AND upper(settings->>'deviceId') = ANY($1)";
        let rows = self.client().await?.query(sql, &[&ids]).await.map_err(pg)?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    async fn record_device_type(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        change: &DeviceTypeChange,
    ) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let organization = self.one_sigfox_group(write.db(), change.group).await?.organization.id;
        write.check(&Resource::Organization(organization))?;
        let action = if change.is_new { ChangeAction::Create } else { ChangeAction::Update };
        let after = json!({"id": change.id, "name": change.name, "sigfoxGroup": change.group});
        write.note(action, ChangedEntity::SigfoxDeviceType, None, Some(after)).await?;
        write.commit().await
    }
}
