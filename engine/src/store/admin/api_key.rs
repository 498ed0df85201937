//! API keys. The key itself is nowhere: a look-up goes by its SHA-256, which is enough for a text of 122 random bits. A key goes
//! together with its system user, in whose name it acts, and with its last group.

use std::collections::HashMap;

use async_trait::async_trait;
use deadpool_postgres::GenericClient;
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{
    AdminError, ApiKeyChange, ApiKeyDetail, ApiKeyRow, ApiKeyStore, ChangedBy, Listed, NewApiKey, NumDeleted, Page,
    PermissionDetail, UserRow,
};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::row::Parts;
use super::{PgAdminStore, pg, row};

/// Columns of `api_key k` and of its system user `u`.
const KEY: &str = "k.id AS k_id, k.name AS k_name, k.key_prefix AS k_prefix, k.expires_on AS k_expires_on, \
     k.created_at AS k_created_at, k.updated_at AS k_updated_at, k.created_by AS k_created_by, k.updated_by AS k_updated_by";

fn key(row: &Row) -> ApiKeyRow {
    ApiKeyRow {
        id: row.get("k_id"),
        name: row.get("k_name"),
        prefix: row.get("k_prefix"),
        expires_at: row.get("k_expires_on"),
        stamps: row::stamps(row, "k"),
    }
}

/// The resource of a key with these groups, which must all exist.
async fn resource_of(db: &impl GenericClient, permissions: &[i64]) -> Result<Resource, AdminError> {
    let rows = db
        .query(
            "SELECT organization_id FROM permission WHERE id = ANY($1) ORDER BY 1 NULLS LAST FOR SHARE",
            &[&permissions],
        )
        .await
        .map_err(pg)?;
    if rows.len() != permissions.len() {
        return Err(AdminError::BadReference("permission"));
    }
    let all: Vec<Option<i64>> = rows.iter().map(|r| r.get(0)).collect();
    let mut organizations: Vec<_> = all.iter().flatten().copied().map(OrganizationId).collect();
    organizations.dedup();
    Ok(Resource::ApiKey { organizations, is_global_admin: all.contains(&None) })
}

async fn groups_of(db: &impl GenericClient, id: i64) -> Result<Vec<i64>, AdminError> {
    let sql = "SELECT permission_id FROM api_key_permission WHERE api_key_id = $1 ORDER BY 1";
    Ok(db.query(sql, &[&id]).await.map_err(pg)?.iter().map(|r| r.get(0)).collect())
}

/// Keys with groups and system users, in a fixed number of statements.
async fn details(db: &impl GenericClient, rows: &[Row]) -> Result<Vec<ApiKeyDetail>, AdminError> {
    let ids: Vec<i64> = rows.iter().map(|r| r.get("k_id")).collect();
    let links = db
        .query(
            "SELECT api_key_id, permission_id FROM api_key_permission WHERE api_key_id = ANY($1) ORDER BY 1, 2",
            &[&ids],
        )
        .await
        .map_err(pg)?;
    let mut group_ids: Vec<i64> = links.iter().map(|r| r.get(1)).collect();
    group_ids.sort_unstable();
    group_ids.dedup();
    let groups = row::load_permissions(db, &group_ids).await?;
    let groups: HashMap<i64, PermissionDetail> =
        row::details(db, groups, Parts::default()).await?.into_iter().map(|d| (d.permission.id, d)).collect();
    let mut by_key: HashMap<i64, Vec<PermissionDetail>> = HashMap::new();
    for link in &links {
        if let Some(group) = groups.get(&link.get::<_, i64>(1)) {
            by_key.entry(link.get(0)).or_default().push(group.clone());
        }
    }
    Ok(rows
        .iter()
        .map(|r| {
            let key = key(r);
            let system_user: UserRow = row::user(r);
            ApiKeyDetail { permissions: by_key.remove(&key.id).unwrap_or_default(), key, system_user }
        })
        .collect())
}

async fn load(db: &impl GenericClient, id: i64) -> Result<ApiKeyDetail, AdminError> {
    let sql = format!(
        "SELECT {KEY}, {} FROM api_key k JOIN app_user u ON u.id = k.system_user_id WHERE k.id = $1",
        row::USER
    );
    let rows = db.query(&sql, &[&id]).await.map_err(pg)?;
    details(db, &rows).await?.pop().ok_or(AdminError::NotFound)
}

async fn set_groups(write: &Write<'_>, id: i64, permissions: &[i64]) -> Result<(), AdminError> {
    write.db().execute("DELETE FROM api_key_permission WHERE api_key_id = $1", &[&id]).await.map_err(pg)?;
    let insert = "INSERT INTO api_key_permission (api_key_id, permission_id) SELECT $1, unnest($2::bigint[])";
    write.db().execute(insert, &[&id, &permissions]).await.map_err(pg)?;
    Ok(())
}

/// Deletes a key through its system user.
async fn remove(write: &mut Write<'_>, id: i64, before: Value) -> Result<u64, AdminError> {
    let delete =
        "DELETE FROM app_user WHERE id = (SELECT system_user_id FROM api_key WHERE id = $1) AND is_system_user";
    let num = write.db().execute(delete, &[&id]).await.map_err(pg)?;
    write.record(ChangeAction::Delete, ChangedEntity::ApiKey, id, Some(before)).await?;
    Ok(num)
}

/// Keys that have one of these groups, as they are before the groups go.
pub(super) async fn keys_with_groups(write: &Write<'_>, groups: &[i64]) -> Result<Vec<(i64, Value)>, AdminError> {
    let sql = "SELECT DISTINCT api_key_id FROM api_key_permission WHERE permission_id = ANY($1) ORDER BY 1";
    let mut keys = Vec::new();
    for found in write.db().query(sql, &[&groups]).await.map_err(pg)? {
        let id: i64 = found.get(0);
        if let Some(before) = write.snapshot(ChangedEntity::ApiKey, id).await? {
            keys.push((id, before));
        }
    }
    Ok(keys)
}

/// Deletes those of `keys` that have no group left: nobody but a global administrator would ever see them again.
pub(super) async fn remove_groupless(write: &mut Write<'_>, keys: Vec<(i64, Value)>) -> Result<(), AdminError> {
    for (id, before) in keys {
        if groups_of(write.db(), id).await?.is_empty() {
            remove(write, id, before).await?;
        } else {
            write.touch(ChangedEntity::ApiKey, &[id]).await?;
        }
    }
    Ok(())
}

#[async_trait]
impl ApiKeyStore for PgAdminStore {
    async fn create_api_key(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        new: &NewApiKey,
    ) -> Result<ApiKeyDetail, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&resource_of(write.db(), &new.permissions).await?)?;
        let author = write.user_id();
        let insert = "WITH u AS (INSERT INTO app_user (name, active, is_system_user, created_by, updated_by) \
                                 VALUES ($1, false, true, $5, $5) RETURNING id) \
                      INSERT INTO api_key (name, key_hash, key_prefix, expires_on, system_user_id, created_by, updated_by) \
                      SELECT $1, $2, $3, $4, u.id, $5, $5 FROM u RETURNING id";
        let id: i64 = write
            .db()
            .query_one(insert, &[&new.name, &new.key_hash.as_slice(), &new.prefix, &new.expires_at, &author])
            .await
            .map_err(pg)?
            .get(0);
        set_groups(&write, id, &new.permissions).await?;
        write.record(ChangeAction::Create, ChangedEntity::ApiKey, id, None).await?;
        let created = load(write.db(), id).await?;
        write.commit().await?;
        Ok(created)
    }

    async fn update_api_key(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        change: &ApiKeyChange,
    ) -> Result<ApiKeyDetail, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = write.snapshot(ChangedEntity::ApiKey, id).await?.ok_or(AdminError::NotFound)?;
        let mut groups = groups_of(write.db(), id).await?;
        groups.extend(&change.permissions);
        groups.sort_unstable();
        groups.dedup();
        write.check(&resource_of(write.db(), &groups).await?)?;
        let update = "WITH k AS (UPDATE api_key SET name = $2, expires_on = CASE WHEN $3 THEN $4 ELSE expires_on END, \
                                 updated_by = $5, updated_at = now() WHERE id = $1 RETURNING system_user_id) \
                      UPDATE app_user u SET name = $2, updated_by = $5, updated_at = now() FROM k WHERE u.id = k.system_user_id";
        write
            .db()
            .execute(
                update,
                &[&id, &change.name, &change.expires_at.is_some(), &change.expires_at.flatten(), &write.user_id()],
            )
            .await
            .map_err(pg)?;
        set_groups(&write, id, &change.permissions).await?;
        write.record(ChangeAction::Update, ChangedEntity::ApiKey, id, Some(before)).await?;
        let updated = load(write.db(), id).await?;
        write.commit().await?;
        Ok(updated)
    }

    async fn delete_api_key(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = write.snapshot(ChangedEntity::ApiKey, id).await?.ok_or(AdminError::NotFound)?;
        let groups = groups_of(write.db(), id).await?;
        write.check(&resource_of(write.db(), &groups).await?)?;
        let num = remove(&mut write, id, before).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }

    async fn api_key(&self, id: i64) -> Result<ApiKeyDetail, AdminError> {
        let client = self.client().await?;
        load(&client, id).await
    }

    async fn api_keys(
        &self,
        organization: Option<OrganizationId>,
        page: &Page,
    ) -> Result<Listed<ApiKeyDetail>, AdminError> {
        let client = self.client().await?;
        let organization = organization.map(|o| o.0);
        let order = match page.order_on.as_deref() {
            Some("name") => "k.name",
            Some("expiresOn") => "k.expires_on",
            Some("createdAt") => "k.created_at",
            Some("updatedAt") => "k.updated_at",
            Some("key") => "k.key_prefix",
            _ => "k.id",
        };
        let filter = "($1::bigint IS NULL OR EXISTS (SELECT 1 FROM api_key_permission m \
                       JOIN permission p ON p.id = m.permission_id WHERE m.api_key_id = k.id AND p.organization_id = $1))";
        let sql = format!(
            "SELECT {KEY}, {} FROM api_key k JOIN app_user u ON u.id = k.system_user_id WHERE {filter} \
             ORDER BY {order} {} NULLS LAST, k.id LIMIT $2 OFFSET $3",
            row::USER,
            row::direction(page.is_descending)
        );
        let rows = client.query(&sql, &[&organization, &page.limit, &page.offset]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM api_key k WHERE {filter}");
        let num_all = client.query_one(&count, &[&organization]).await.map_err(pg)?.get(0);
        Ok(Listed { rows: details(&client, &rows).await?, num_all })
    }
}
