//! User groups.

use async_trait::async_trait;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, OrganizationId, UserId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{
    AdminError, ApplicationDetail, ChangedBy, Listed, NewPermission, NumDeleted, Page, PermissionChange,
    PermissionDetail, PermissionQuery, PermissionRow, PermissionStore, UserRow,
};

use super::api_key::{keys_with_groups, remove_groupless};
use super::application::details as application_details;
use super::change::{ChangeAction, Write};
use super::row::{OnlyUser, Parts};
use super::user::{keep_a_global_admin, lock_global_admins};
use super::{PgAdminStore, pg, row};

/// What a group belongs to, for a decision.
fn resource_of(organization: Option<OrganizationId>) -> Resource {
    organization.map_or(Resource::Platform, Resource::OrganizationUsers)
}

async fn one(write: &Write<'_>, id: i64) -> Result<PermissionDetail, AdminError> {
    let permissions = row::load_permissions(write.db(), &[id]).await?;
    let parts = Parts { users: Some(OnlyUser(None)), applications: true };
    row::details(write.db(), permissions, parts).await?.pop().ok_or(AdminError::NotFound)
}

/// Maps a group to exactly these applications, all of its own organisation.
async fn set_applications(
    write: &Write<'_>,
    id: i64,
    organization: Option<OrganizationId>,
    applications: &[ApplicationId],
) -> Result<(), AdminError> {
    let ids: Vec<i64> = applications.iter().map(|a| a.0).collect();
    let owned = "SELECT count(*) FROM application WHERE id = ANY($1) AND organization_id = $2";
    let num_owned: i64 = write.db().query_one(owned, &[&ids, &organization.map(|o| o.0)]).await.map_err(pg)?.get(0);
    if num_owned != ids.len() as i64 {
        return Err(AdminError::BadReference("application"));
    }
    write.db().execute("DELETE FROM permission_application WHERE permission_id = $1", &[&id]).await.map_err(pg)?;
    let insert = "INSERT INTO permission_application (permission_id, application_id) SELECT $1, unnest($2::bigint[])";
    write.db().execute(insert, &[&id, &ids]).await.map_err(pg)?;
    Ok(())
}

async fn set_users(write: &Write<'_>, id: i64, users: &[UserId]) -> Result<(), AdminError> {
    let ids: Vec<i64> = users.iter().map(|u| u.0).collect();
    write.db().execute("DELETE FROM permission_user WHERE permission_id = $1", &[&id]).await.map_err(pg)?;
    let insert = "INSERT INTO permission_user (permission_id, user_id) SELECT $1, unnest($2::bigint[])";
    write.db().execute(insert, &[&id, &ids]).await.map_err(pg)?;
    Ok(())
}

#[async_trait]
impl PermissionStore for PgAdminStore {
    async fn create_permission(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        new: &NewPermission,
    ) -> Result<PermissionDetail, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::OrganizationUsers(new.organization))?;
        let insert = "INSERT INTO permission (name, organization_id, automatically_add_new_applications, created_by, \
                      updated_by) VALUES ($1, $2, $3, $4, $4) RETURNING id";
        let id: i64 = write
            .db()
            .query_one(
                insert,
                &[&new.name, &new.organization.0, &new.automatically_add_new_applications, &write.user_id()],
            )
            .await
            .map_err(pg)?
            .get(0);
        let roles: Vec<&str> = new.roles.iter().map(|r| r.as_str()).collect();
        let levels = "INSERT INTO permission_level (permission_id, type) SELECT $1, unnest($2::text[])";
        write.db().execute(levels, &[&id, &roles]).await.map_err(pg)?;
        set_users(&write, id, &new.users).await?;
        set_applications(&write, id, Some(new.organization), &new.applications).await?;
        write.record(ChangeAction::Create, ChangedEntity::Permission, id, None).await?;
        let created = one(&write, id).await?;
        write.commit().await?;
        Ok(created)
    }

    async fn update_permission(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        change: &PermissionChange,
    ) -> Result<PermissionDetail, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = write.snapshot(ChangedEntity::Permission, id).await?.ok_or(AdminError::NotFound)?;
        let organization = before["organization_id"].as_i64().map(OrganizationId);
        write.check(&resource_of(organization))?;
        if organization.is_none() {
            lock_global_admins(&write).await?;
        }
        // The web client knows global administrators by the name of their group.
        let update = "UPDATE permission SET name = CASE WHEN organization_id IS NULL THEN name ELSE $2 END, \
                      automatically_add_new_applications = COALESCE($3, automatically_add_new_applications), \
                      updated_by = $4, updated_at = now() WHERE id = $1";
        write
            .db()
            .execute(update, &[&id, &change.name, &change.automatically_add_new_applications, &write.user_id()])
            .await
            .map_err(pg)?;
        if let Some(users) = &change.users {
            set_users(&write, id, users).await?;
            if organization.is_none() {
                keep_a_global_admin(&write).await?;
            }
        }
        if let (Some(applications), Some(_)) = (&change.applications, organization) {
            set_applications(&write, id, organization, applications).await?;
        }
        write.record(ChangeAction::Update, ChangedEntity::Permission, id, Some(before)).await?;
        let updated = one(&write, id).await?;
        write.commit().await?;
        Ok(updated)
    }

    async fn delete_permission(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let before = write.snapshot(ChangedEntity::Permission, id).await?.ok_or(AdminError::NotFound)?;
        let organization = before["organization_id"].as_i64().map(OrganizationId);
        if organization.is_none() {
            return Err(AdminError::InUse("global administrators"));
        }
        write.check(&resource_of(organization))?;
        let keys = keys_with_groups(&write, &[id]).await?;
        let num = write.db().execute("DELETE FROM permission WHERE id = $1", &[&id]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Permission, id, Some(before)).await?;
        remove_groupless(&mut write, keys).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }

    async fn permission(&self, id: i64) -> Result<PermissionRow, AdminError> {
        let client = self.client().await?;
        row::load_permissions(&client, &[id]).await?.pop().ok_or(AdminError::NotFound)
    }

    async fn permission_detail(&self, id: i64) -> Result<PermissionDetail, AdminError> {
        let client = self.client().await?;
        let permissions = row::load_permissions(&client, &[id]).await?;
        let parts = Parts { users: Some(OnlyUser(None)), applications: true };
        row::details(&client, permissions, parts).await?.pop().ok_or(AdminError::NotFound)
    }

    async fn permissions_by_id(&self, ids: &[i64]) -> Result<Vec<PermissionRow>, AdminError> {
        let client = self.client().await?;
        row::load_permissions(&client, ids).await
    }

    async fn permissions(&self, query: &PermissionQuery, page: &Page) -> Result<Listed<PermissionDetail>, AdminError> {
        let client = self.client().await?;
        let organization = query.organization.map(|o| o.0);
        let among: Option<Vec<i64>> = query.among.as_ref().map(|ids| ids.iter().map(|o| o.0).collect());
        let member = query.member.map(|u| u.0);
        let order = match page.order_on.as_deref() {
            Some("name") => "p.name",
            Some("type") => {
                "(SELECT string_agg(l.type, ',' ORDER BY l.type) FROM permission_level l WHERE l.permission_id = p.id)"
            }
            Some("organisations") => "o.name",
            _ => "p.id",
        };
        let from = "FROM permission p LEFT JOIN organization o ON o.id = p.organization_id \
                    WHERE ($1::bigint IS NULL OR p.organization_id = $1) \
                    AND ($2::bigint[] IS NULL OR p.organization_id = ANY($2)) \
                    AND ($3::bigint IS NULL OR EXISTS \
                         (SELECT 1 FROM permission_user m WHERE m.permission_id = p.id AND m.user_id = $3)) \
                    AND (NOT $4 OR p.organization_id IS NOT NULL)";
        let sql = format!(
            "SELECT {} {from} ORDER BY {order} {}, p.id LIMIT $5 OFFSET $6",
            row::PERMISSION,
            row::direction(page.is_descending)
        );
        let rows = client
            .query(&sql, &[&organization, &among, &member, &query.is_without_global, &page.limit, &page.offset])
            .await
            .map_err(pg)?;
        let count = format!("SELECT count(*) {from}");
        let num_all = client
            .query_one(&count, &[&organization, &among, &member, &query.is_without_global])
            .await
            .map_err(pg)?
            .get(0);
        let parts = Parts { users: query.with_users.then_some(OnlyUser(member)), applications: false };
        let rows = row::details(&client, rows.iter().map(row::permission).collect(), parts).await?;
        Ok(Listed { rows, num_all })
    }

    async fn permission_applications(&self, id: i64, page: &Page) -> Result<Listed<ApplicationDetail>, AdminError> {
        let client = self.client().await?;
        let order = match page.order_on.as_deref() {
            Some("name") => "a.name",
            Some("updatedAt") => "a.updated_at",
            _ => "a.id",
        };
        let from =
            "FROM application a JOIN permission_application m ON m.application_id = a.id WHERE m.permission_id = $1";
        let sql = format!(
            "SELECT {} {from} ORDER BY {order} {}, a.id LIMIT $2 OFFSET $3",
            row::APPLICATION,
            row::direction(page.is_descending)
        );
        let rows = client.query(&sql, &[&id, &page.limit, &page.offset]).await.map_err(pg)?;
        let num_all = client.query_one(&format!("SELECT count(*) {from}"), &[&id]).await.map_err(pg)?.get(0);
        let rows = application_details(&client, rows.iter().map(row::application).collect()).await?;
        Ok(Listed { rows, num_all })
    }

    async fn permission_users(&self, id: i64, page: &Page) -> Result<Listed<UserRow>, AdminError> {
        let client = self.client().await?;
        let from = "FROM app_user u JOIN permission_user m ON m.user_id = u.id WHERE m.permission_id = $1";
        let sql = format!("SELECT {} {from} ORDER BY u.id LIMIT $2 OFFSET $3", row::USER);
        let rows = client.query(&sql, &[&id, &page.limit, &page.offset]).await.map_err(pg)?;
        let num_all = client.query_one(&format!("SELECT count(*) {from}"), &[&id]).await.map_err(pg)?.get(0);
        Ok(Listed { rows: rows.iter().map(row::user).collect(), num_all })
    }
}
