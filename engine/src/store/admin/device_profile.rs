//! Whose device profiles are, in PostgreSQL. What is in them stands in ChirpStack.

use async_trait::async_trait;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::gateway::Organizations;
use sluse_schema::port::admin::lorawan::{FoundProfile, ProfileRow, ProfileStore};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page};
use tokio_postgres::Row;
use uuid::Uuid;

use super::change::{ChangeAction, Write};
use super::gateway::organization_ids;
use super::related::{covers, stamps};
use super::{PgAdminStore, pg};

/// What a profile is to the policy: content of its organisation, or of nobody.
fn resource(organization: Option<OrganizationId>) -> Resource {
    organization.map_or(Resource::Platform, Resource::Organization)
}

fn profile_of(row: &Row) -> Result<ProfileRow, AdminError> {
    Ok(ProfileRow {
        id: row.try_get("id").map_err(pg)?,
        network_id: row.try_get::<_, Uuid>("chirpstack_id").map_err(pg)?.to_string(),
        organization: row.try_get::<_, Option<i64>>("organization_id").map_err(pg)?.map(OrganizationId),
        name: row.try_get("name").map_err(pg)?,
        stamps: stamps(row)?,
    })
}

/// An id of ChirpStack's; what is none names nothing.
pub(super) fn network_id(text: &str) -> Result<Uuid, AdminError> {
    Uuid::try_parse(text).map_err(|_| AdminError::NotFound)
}

impl PgAdminStore {
    async fn one_profile(
        &self,
        db: &impl deadpool_postgres::GenericClient,
        id: Uuid,
    ) -> Result<ProfileRow, AdminError> {
        let row = db.query_opt("SELECT * FROM device_profile WHERE chirpstack_id = $1", &[&id]).await.map_err(pg)?;
        profile_of(&row.ok_or(AdminError::NotFound)?)
    }
}

#[async_trait]
impl ProfileStore for PgAdminStore {
    async fn profiles(&self, of: &Organizations, page: &Page) -> Result<Listed<ProfileRow>, AdminError> {
        const WHERE: &str = "WHERE ($1::bigint[] IS NULL OR organization_id IS NULL OR organization_id = ANY($1))";
        let client = self.client().await?;
        let ids = organization_ids(of);
        let sql = format!("SELECT * FROM device_profile {WHERE} ORDER BY name, id LIMIT $2 OFFSET $3");
        let rows = client.query(&sql, &[&ids, &page.limit, &page.offset]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM device_profile {WHERE}");
        let num_all = client.query_one(&count, &[&ids]).await.map_err(pg)?.try_get(0).map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(profile_of).collect::<Result<_, _>>()?, num_all })
    }

    async fn profile(&self, id: &str) -> Result<ProfileRow, AdminError> {
        let id = network_id(id)?;
        self.one_profile(&self.client().await?, id).await
    }

    async fn is_profile_name_taken(
        &self,
        organization: Option<OrganizationId>,
        name: &str,
        except: Option<&str>,
    ) -> Result<bool, AdminError> {
        let except = except.map(network_id).transpose()?;
        let row = self
            .client()
            .await?
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM device_profile WHERE COALESCE(organization_id, 0) = COALESCE($1::bigint, 0) \
                 AND lower(name) = lower($2) AND chirpstack_id IS DISTINCT FROM $3)",
                &[&organization.map(|o| o.0), &name, &except],
            )
            .await
            .map_err(pg)?;
        row.try_get(0).map_err(pg)
    }

    async fn known_profiles(&self, ids: &[String]) -> Result<Vec<String>, AdminError> {
        let ids: Vec<Uuid> = ids.iter().filter_map(|id| Uuid::try_parse(id).ok()).collect();
        let sql = "SELECT chirpstack_id FROM device_profile WHERE chirpstack_id = ANY($1)";
        let rows = self.client().await?.query(sql, &[&ids]).await.map_err(pg)?;
        rows.iter().map(|row| Ok(row.try_get::<_, Uuid>(0).map_err(pg)?.to_string())).collect()
    }

    async fn create_profile(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        new: &FoundProfile,
    ) -> Result<ProfileRow, AdminError> {
        let network_id = network_id(&new.network_id)?;
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&resource(new.organization))?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO device_profile (chirpstack_id, organization_id, name, created_by, updated_by) \
                 VALUES ($1, $2, $3, $4, $4) RETURNING id",
                &[&network_id, &new.organization.map(|o| o.0), &new.name, &write.user_id()],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        write.record(ChangeAction::Create, ChangedEntity::DeviceProfile, id, None).await?;
        let made = self.one_profile(write.db(), network_id).await?;
        write.commit().await?;
        Ok(made)
    }

    async fn update_profile(
        &self,
        permit: &Permit,
        target: Option<&Permit>,
        by: &ChangedBy,
        changed: &FoundProfile,
    ) -> Result<ProfileRow, AdminError> {
        let network_id = network_id(&changed.network_id)?;
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let id = self.one_profile(write.db(), network_id).await?.id;
        let snapshot = write.snapshot(ChangedEntity::DeviceProfile, id).await?;
        let before = self.one_profile(write.db(), network_id).await?;
        write.check(&resource(before.organization))?;
        if changed.organization != before.organization {
            covers(target, &resource(changed.organization))?;
        }
        write
            .db()
            .execute(
                "UPDATE device_profile SET organization_id = $2, name = $3, updated_by = $4, updated_at = now() WHERE id = $1",
                &[&id, &changed.organization.map(|o| o.0), &changed.name, &write.user_id()],
            )
            .await
            .map_err(pg)?;
        // Devices show the name of their profile.
        write
            .db()
            .execute(
                "UPDATE iot_device SET settings = settings || jsonb_build_object('deviceProfileName', $2::text) \
                 WHERE type = 'LORAWAN' AND settings->'lorawanSettings'->>'deviceProfileID' = $1 \
                 AND settings->>'deviceProfileName' IS DISTINCT FROM $2",
                &[&changed.network_id, &changed.name],
            )
            .await
            .map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::DeviceProfile, id, snapshot).await?;
        let after = self.one_profile(write.db(), network_id).await?;
        write.commit().await?;
        Ok(after)
    }

    async fn delete_profile(&self, permit: &Permit, by: &ChangedBy, id: &str) -> Result<NumDeleted, AdminError> {
        let network_id = network_id(id)?;
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let id = self.one_profile(write.db(), network_id).await?.id;
        let snapshot = write.snapshot(ChangedEntity::DeviceProfile, id).await?;
        let before = self.one_profile(write.db(), network_id).await?;
        write.check(&resource(before.organization))?;
        let is_used: bool = write
            .db()
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM iot_device WHERE type = 'LORAWAN' \
                 AND settings->'lorawanSettings'->>'deviceProfileID' = $1)",
                &[&before.network_id],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        if is_used {
            return Err(AdminError::InUse("device"));
        }
        let num = write.db().execute("DELETE FROM device_profile WHERE id = $1", &[&id]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::DeviceProfile, id, snapshot).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }
}
