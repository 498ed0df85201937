//! Users.

use async_trait::async_trait;
use deadpool_postgres::GenericClient;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{OrganizationId, UserId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{
    AccessRequest, AccountScope, AdminError, ChangedBy, Listed, NewUser, OrganizationRow, Page, PermissionDetail,
    UserChange, UserDetail, UserListing, UserQuery, UserRow, UserStore,
};
use sluse_schema::secret::Secret;

use super::change::{ChangeAction, Write};
use super::row::{OnlyUser, Parts};
use super::{PgAdminStore, pg, row, user_access};

async fn scopes(db: &impl GenericClient, users: &[i64]) -> Result<Vec<AccountScope>, AdminError> {
    let sql = "SELECT u.id, \
         ARRAY(SELECT DISTINCT p.organization_id FROM permission_user m JOIN permission p ON p.id = m.permission_id \
               WHERE m.user_id = u.id AND p.organization_id IS NOT NULL ORDER BY 1) AS organizations, \
         ARRAY(SELECT organization_id FROM user_requested_organization r WHERE r.user_id = u.id ORDER BY 1) AS requested, \
         EXISTS(SELECT 1 FROM permission_user m JOIN permission p ON p.id = m.permission_id \
                WHERE m.user_id = u.id AND p.organization_id IS NULL) AS is_global \
         FROM app_user u WHERE u.id = ANY($1) ORDER BY u.id";
    let ids = |ids: Vec<i64>| ids.into_iter().map(OrganizationId).collect();
    Ok(db
        .query(sql, &[&users])
        .await
        .map_err(pg)?
        .iter()
        .map(|r| AccountScope {
            user: UserId(r.get("id")),
            organizations: ids(r.get("organizations")),
            requested: ids(r.get("requested")),
            is_global_admin: r.get("is_global"),
        })
        .collect())
}

/// Organisations of these groups, ascending; a group that does not exist, or that is of no organisation, is refused.
async fn organizations_of(db: &impl GenericClient, permissions: &[i64]) -> Result<Vec<OrganizationId>, AdminError> {
    let sql = "SELECT organization_id FROM permission WHERE id = ANY($1) AND organization_id IS NOT NULL ORDER BY 1";
    let rows = db.query(sql, &[&permissions]).await.map_err(pg)?;
    if rows.len() != permissions.len() {
        return Err(AdminError::BadReference("permission"));
    }
    let mut ids: Vec<_> = rows.iter().map(|r| OrganizationId(r.get(0))).collect();
    ids.dedup();
    Ok(ids)
}

async fn set_permissions(
    write: &Write<'_>,
    user: i64,
    permissions: Option<&[i64]>,
    is_global_admin: Option<bool>,
) -> Result<(), AdminError> {
    if let Some(permissions) = permissions {
        let delete = "DELETE FROM permission_user m USING permission p WHERE p.id = m.permission_id AND m.user_id = $1 \
                      AND p.organization_id IS NOT NULL";
        write.db().execute(delete, &[&user]).await.map_err(pg)?;
        let insert = "INSERT INTO permission_user (permission_id, user_id) SELECT unnest($2::bigint[]), $1";
        write.db().execute(insert, &[&user, &permissions]).await.map_err(pg)?;
    }
    let statement = match is_global_admin {
        Some(true) => {
            "INSERT INTO permission_user (permission_id, user_id) \
             SELECT id, $1 FROM permission WHERE organization_id IS NULL ON CONFLICT DO NOTHING"
        }
        Some(false) => {
            "DELETE FROM permission_user m USING permission p WHERE p.id = m.permission_id AND m.user_id = $1 \
             AND p.organization_id IS NULL"
        }
        None => return Ok(()),
    };
    write.db().execute(statement, &[&user]).await.map_err(pg)?;
    Ok(())
}

async fn permissions_of(
    db: &impl GenericClient,
    user: i64,
    with_members: bool,
) -> Result<Vec<PermissionDetail>, AdminError> {
    let sql = format!(
        "SELECT {} FROM permission p JOIN permission_user m ON m.permission_id = p.id WHERE m.user_id = $1 ORDER BY p.id",
        row::PERMISSION
    );
    let rows = db.query(&sql, &[&user]).await.map_err(pg)?;
    let parts = Parts { users: with_members.then_some(OnlyUser(None)), applications: false };
    row::details(db, rows.iter().map(row::permission).collect(), parts).await
}

async fn requested_by(db: &impl GenericClient, user: i64) -> Result<Vec<OrganizationRow>, AdminError> {
    let sql = format!(
        "SELECT {} FROM organization o JOIN user_requested_organization r ON r.organization_id = o.id \
         WHERE r.user_id = $1 ORDER BY o.id",
        row::ORGANIZATION
    );
    Ok(db.query(&sql, &[&user]).await.map_err(pg)?.iter().map(row::organization).collect())
}

pub(super) async fn load(db: &impl GenericClient, id: UserId, with_members: bool) -> Result<UserDetail, AdminError> {
    let sql = format!("SELECT {} FROM app_user u WHERE u.id = $1", row::USER);
    let found = db.query_opt(&sql, &[&id.0]).await.map_err(pg)?.ok_or(AdminError::NotFound)?;
    Ok(UserDetail {
        user: row::user(&found),
        permissions: permissions_of(db, id.0, with_members).await?,
        requested_organizations: requested_by(db, id.0).await?,
    })
}

/// Holds the group of global administrators until the end of the transaction, so that no two of them can remove each other.
pub(super) async fn lock_global_admins(write: &Write<'_>) -> Result<(), AdminError> {
    let lock = "SELECT id FROM permission WHERE organization_id IS NULL FOR UPDATE";
    write.db().query(lock, &[]).await.map_err(pg)?;
    Ok(())
}

/// Refuses to leave nobody who could administer everything.
pub(super) async fn keep_a_global_admin(write: &Write<'_>) -> Result<(), AdminError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM permission_user m JOIN permission p ON p.id = m.permission_id \
               JOIN app_user u ON u.id = m.user_id WHERE p.organization_id IS NULL AND u.active AND NOT u.is_system_user \
               AND (u.expires_on IS NULL OR u.expires_on > now()))";
    let has_one: bool = write.db().query_one(sql, &[]).await.map_err(pg)?.get(0);
    if has_one { Ok(()) } else { Err(AdminError::InUse("the last global administrator")) }
}

#[async_trait]
impl UserStore for PgAdminStore {
    async fn create_user(&self, permit: &Permit, by: &ChangedBy, new: &NewUser) -> Result<UserDetail, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let organizations = organizations_of(write.db(), &new.permissions).await?;
        write.check(&Resource::NewAccount { organizations, is_global_admin: new.is_global_admin })?;
        let insert = "INSERT INTO app_user (name, email, password_hash, active, expires_on, show_welcome_screen, \
                      created_by, updated_by) VALUES ($1, $2, $3, $4, $5, true, $6, $6) RETURNING id";
        let id: i64 = write
            .db()
            .query_one(
                insert,
                &[
                    &new.name,
                    &new.email,
                    &new.password_hash.reveal(),
                    &new.is_active,
                    &new.expires_at,
                    &write.user_id(),
                ],
            )
            .await
            .map_err(pg)?
            .get(0);
        set_permissions(&write, id, Some(&new.permissions), Some(new.is_global_admin)).await?;
        write.record(ChangeAction::Create, ChangedEntity::User, id, None).await?;
        let created = load(write.db(), UserId(id), false).await?;
        write.commit().await?;
        Ok(created)
    }

    async fn update_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        change: &UserChange,
    ) -> Result<UserDetail, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        // The group first and then the user, as whoever changes the group does: two who wait for each other would both be refused.
        let was_global_admin = scopes(write.db(), &[id.0]).await?.pop().is_some_and(|scope| scope.is_global_admin);
        if was_global_admin || change.is_global_admin == Some(true) {
            lock_global_admins(&write).await?;
        }
        let before = write.snapshot(ChangedEntity::User, id.0).await?.ok_or(AdminError::NotFound)?;
        let scope = scopes(write.db(), &[id.0]).await?.pop().ok_or(AdminError::NotFound)?;
        // What the account would be afterwards has to be in the permit as well: nobody is lifted into a foreign organisation.
        let mut organizations = scope.organizations;
        if let Some(permissions) = &change.permissions {
            organizations.extend(organizations_of(write.db(), permissions).await?);
            organizations.sort_unstable();
            organizations.dedup();
        }
        let is_global_admin = scope.is_global_admin || change.is_global_admin == Some(true);
        if is_global_admin && !was_global_admin {
            // Made one meanwhile.
            lock_global_admins(&write).await?;
        }
        let account = Resource::Account { user: id, organizations, is_global_admin };
        // Who one is is one's own business; what one may do is not.
        write.check(if change.is_identity_only() && permit.covers_write(&Resource::Own(id)) {
            permit.resource()
        } else {
            &account
        })?;
        let update = "UPDATE app_user SET name = $2, email = COALESCE($3, email), \
                      password_hash = COALESCE($4, password_hash), active = COALESCE($5, active), \
                      expires_on = CASE WHEN $6 THEN $7 ELSE expires_on END, \
                      token_version = token_version + CASE WHEN $4 IS NOT NULL OR (active AND $5 IS FALSE) THEN 1 ELSE 0 END, \
                      updated_by = $8, updated_at = now() WHERE id = $1";
        write
            .db()
            .execute(
                update,
                &[
                    &id.0,
                    &change.name,
                    &change.email,
                    &change.password_hash.as_ref().map(Secret::reveal),
                    &change.is_active,
                    &change.expires_at.is_some(),
                    &change.expires_at.flatten(),
                    &write.user_id(),
                ],
            )
            .await
            .map_err(pg)?;
        set_permissions(&write, id.0, change.permissions.as_deref(), change.is_global_admin).await?;
        if scope.is_global_admin {
            keep_a_global_admin(&write).await?;
        }
        write.record(ChangeAction::Update, ChangedEntity::User, id.0, Some(before)).await?;
        let updated = load(write.db(), id, false).await?;
        write.commit().await?;
        Ok(updated)
    }

    async fn set_memberships(
        &self,
        permits: &[Permit],
        by: &ChangedBy,
        id: UserId,
        permissions: &[i64],
    ) -> Result<UserDetail, AdminError> {
        user_access::set_memberships(self, permits, by, id, permissions).await
    }

    async fn request_access(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        request: &AccessRequest,
    ) -> Result<UserDetail, AdminError> {
        user_access::request_access(self, permit, by, id, request).await
    }

    async fn accept_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        organization: OrganizationId,
        permissions: &[i64],
    ) -> Result<UserDetail, AdminError> {
        user_access::accept_user(self, permit, by, id, organization, permissions).await
    }

    async fn reject_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        organization: OrganizationId,
    ) -> Result<(OrganizationRow, Vec<UserRow>), AdminError> {
        user_access::reject_user(self, permit, by, id, organization).await
    }

    async fn is_email_taken(&self, email: &str) -> Result<bool, AdminError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT 1 FROM app_user WHERE lower(email) = lower($1))";
        Ok(client.query_one(sql, &[&email]).await.map_err(pg)?.get(0))
    }

    async fn addresses_of_admins(&self, organization: OrganizationId) -> Result<Vec<String>, AdminError> {
        user_access::addresses_of_admins(self, organization).await
    }

    async fn hide_welcome(&self, permit: &Permit, by: &ChangedBy, id: UserId) -> Result<bool, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Own(id))?;
        let before = write.snapshot(ChangedEntity::User, id.0).await?.ok_or(AdminError::NotFound)?;
        let update = "UPDATE app_user SET show_welcome_screen = false, updated_at = now() WHERE id = $1";
        let num = write.db().execute(update, &[&id.0]).await.map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::User, id.0, Some(before)).await?;
        write.commit().await?;
        Ok(num == 1)
    }

    async fn account_scopes(&self, users: &[UserId]) -> Result<Vec<AccountScope>, AdminError> {
        let client = self.client().await?;
        let ids: Vec<i64> = users.iter().map(|u| u.0).collect();
        scopes(&client, &ids).await
    }

    async fn user(&self, id: UserId, with_members: bool) -> Result<UserDetail, AdminError> {
        let client = self.client().await?;
        load(&client, id, with_members).await
    }

    async fn users(&self, query: &UserQuery, page: &Page) -> Result<Listed<UserListing>, AdminError> {
        let client = self.client().await?;
        let (condition, organizations) = match query {
            UserQuery::All => ("$1::bigint[] IS NULL AND NOT u.is_system_user", None),
            UserQuery::InOrganizations(ids) => (
                "NOT u.is_system_user AND EXISTS (SELECT 1 FROM permission_user m JOIN permission p ON p.id = m.permission_id \
                 WHERE m.user_id = u.id AND p.organization_id = ANY($1::bigint[]))",
                Some(ids),
            ),
            UserQuery::Awaiting(ids) => (
                "EXISTS (SELECT 1 FROM user_requested_organization r WHERE r.user_id = u.id \
                 AND ($1::bigint[] IS NULL OR r.organization_id = ANY($1)))",
                ids.as_ref(),
            ),
        };
        let organizations: Option<Vec<i64>> = organizations.map(|ids| ids.iter().map(|o| o.0).collect());
        let order = match page.order_on.as_deref() {
            Some("name") => "u.name",
            Some("lastLogin") => "u.last_login_at",
            Some("expiresOn") => "u.expires_on",
            _ => "u.id",
        };
        let sql = format!(
            "SELECT {} FROM app_user u WHERE {condition} ORDER BY {order} {} NULLS LAST, u.id LIMIT $2 OFFSET $3",
            row::USER,
            row::direction_of_known(page, order, "u.id")
        );
        let rows = client.query(&sql, &[&organizations, &page.limit, &page.offset]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM app_user u WHERE {condition}");
        let num_all = client.query_one(&count, &[&organizations]).await.map_err(pg)?.get(0);
        let users: Vec<UserRow> = rows.iter().map(row::user).collect();
        let mut listings = Vec::with_capacity(users.len());
        let ids: Vec<i64> = users.iter().map(|u| u.id.0).collect();
        let links = client
            .query("SELECT user_id, permission_id FROM permission_user WHERE user_id = ANY($1) ORDER BY 2", &[&ids])
            .await
            .map_err(pg)?;
        let mut permission_ids: Vec<i64> = links.iter().map(|r| r.get(1)).collect();
        permission_ids.sort_unstable();
        permission_ids.dedup();
        let permissions = row::load_permissions(&client, &permission_ids).await?;
        let details = row::details(&client, permissions, Parts::default()).await?;
        for user in users {
            let own: Vec<i64> = links.iter().filter(|r| r.get::<_, i64>(0) == user.id.0).map(|r| r.get(1)).collect();
            let permissions = details.iter().filter(|d| own.contains(&d.permission.id)).cloned().collect();
            listings.push(UserListing { user, permissions });
        }
        Ok(Listed { rows: listings, num_all })
    }

    async fn user_names(&self) -> Result<Vec<(UserId, String)>, AdminError> {
        let client = self.client().await?;
        let rows = client.query("SELECT id, name FROM app_user ORDER BY id", &[]).await.map_err(pg)?;
        Ok(rows.iter().map(|r| (UserId(r.get(0)), r.get(1))).collect())
    }
}
