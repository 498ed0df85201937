//! How somebody gets into organisations and their groups: asking, being let in or sent away, and the groups that an administrator
//! gives him.

use deadpool_postgres::GenericClient;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{OrganizationId, UserId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{AccessRequest, AdminError, ChangedBy, OrganizationRow, UserDetail, UserRow};

use super::change::{ChangeAction, Write};
use super::user::load;
use super::{PgAdminStore, pg, row};

/// Groups of these ids that are an organisation's, with it.
async fn groups(db: &impl GenericClient, permissions: &[i64]) -> Result<Vec<(i64, OrganizationId)>, AdminError> {
    let sql =
        "SELECT id, organization_id FROM permission WHERE id = ANY($1) AND organization_id IS NOT NULL ORDER BY id";
    let rows = db.query(sql, &[&permissions]).await.map_err(pg)?;
    Ok(rows.iter().map(|r| (r.get(0), OrganizationId(r.get(1)))).collect())
}

/// See `UserStore::set_memberships`.
pub(super) async fn set_memberships(
    store: &PgAdminStore,
    permits: &[Permit],
    by: &ChangedBy,
    id: UserId,
    permissions: &[i64],
) -> Result<UserDetail, AdminError> {
    let first = permits.first().ok_or(AdminError::NotCovered)?;
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, first, by).await?;
    let before = write.snapshot(ChangedEntity::User, id.0).await?.ok_or(AdminError::NotFound)?;
    let wanted = groups(write.db(), permissions).await?;
    if wanted.len() != permissions.len() {
        return Err(AdminError::BadReference("permission"));
    }
    let is_covered = |o: OrganizationId| permits.iter().any(|p| p.covers_write(&Resource::OrganizationUsers(o)));
    if !wanted.iter().all(|(_, organization)| is_covered(*organization)) {
        return Err(AdminError::NotCovered);
    }
    let own = "SELECT p.id, p.organization_id FROM permission_user m JOIN permission p ON p.id = m.permission_id \
               WHERE m.user_id = $1 AND p.organization_id IS NOT NULL";
    let rows = write.db().query(own, &[&id.0]).await.map_err(pg)?;
    let left: Vec<i64> = rows
        .iter()
        .map(|r| (r.get::<_, i64>(0), OrganizationId(r.get(1))))
        .filter(|(group, organization)| is_covered(*organization) && !permissions.contains(group))
        .map(|(group, _)| group)
        .collect();
    let delete = "DELETE FROM permission_user WHERE user_id = $1 AND permission_id = ANY($2)";
    write.db().execute(delete, &[&id.0, &left]).await.map_err(pg)?;
    join(&write, id, permissions).await?;
    let touch = "UPDATE app_user SET updated_by = $2, updated_at = now() WHERE id = $1";
    write.db().execute(touch, &[&id.0, &write.user_id()]).await.map_err(pg)?;
    write.record(ChangeAction::Update, ChangedEntity::User, id.0, Some(before)).await?;
    let updated = load(write.db(), id, false).await?;
    write.commit().await?;
    Ok(updated)
}

async fn join(write: &Write<'_>, id: UserId, permissions: &[i64]) -> Result<(), AdminError> {
    let insert = "INSERT INTO permission_user (permission_id, user_id) SELECT unnest($2::bigint[]), $1 \
                  ON CONFLICT DO NOTHING";
    write.db().execute(insert, &[&id.0, &permissions]).await.map_err(pg)?;
    Ok(())
}

/// See `UserStore::request_access`.
pub(super) async fn request_access(
    store: &PgAdminStore,
    permit: &Permit,
    by: &ChangedBy,
    id: UserId,
    request: &AccessRequest,
) -> Result<UserDetail, AdminError> {
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, permit, by).await?;
    write.check(&Resource::Own(id))?;
    let before = write.snapshot(ChangedEntity::User, id.0).await?.ok_or(AdminError::NotFound)?;
    if request.email.is_some() && !before["email"].is_null() {
        return Err(AdminError::Taken("e-mail"));
    }
    let update = "UPDATE app_user SET email = COALESCE($2, email), awaiting_confirmation = true, updated_by = $1, \
                  updated_at = now() WHERE id = $1";
    write.db().execute(update, &[&id.0, &request.email]).await.map_err(pg)?;
    let organizations: Vec<i64> = request.organizations.iter().map(|o| o.0).collect();
    let insert = "INSERT INTO user_requested_organization (user_id, organization_id) SELECT $1, unnest($2::bigint[]) \
                  ON CONFLICT DO NOTHING";
    write.db().execute(insert, &[&id.0, &organizations]).await.map_err(pg)?;
    write.record(ChangeAction::Update, ChangedEntity::User, id.0, Some(before)).await?;
    let updated = load(write.db(), id, false).await?;
    write.commit().await?;
    Ok(updated)
}

/// Takes somebody off an organisation's list of those who wait.
async fn stop_waiting(write: &Write<'_>, id: UserId, organization: OrganizationId) -> Result<(), AdminError> {
    let delete = "DELETE FROM user_requested_organization WHERE user_id = $1 AND organization_id = $2";
    match write.db().execute(delete, &[&id.0, &organization.0]).await.map_err(pg)? {
        0 => Err(AdminError::NotFound),
        _ => Ok(()),
    }
}

/// See `UserStore::accept_user`.
pub(super) async fn accept_user(
    store: &PgAdminStore,
    permit: &Permit,
    by: &ChangedBy,
    id: UserId,
    organization: OrganizationId,
    permissions: &[i64],
) -> Result<UserDetail, AdminError> {
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, permit, by).await?;
    write.check(&Resource::OrganizationUsers(organization))?;
    let before = write.snapshot(ChangedEntity::User, id.0).await?.ok_or(AdminError::NotFound)?;
    stop_waiting(&write, id, organization).await?;
    let own: Vec<i64> = groups(write.db(), permissions)
        .await?
        .into_iter()
        .filter(|(_, of)| *of == organization)
        .map(|(group, _)| group)
        .collect();
    if own.is_empty() {
        return Err(AdminError::BadReference("permission"));
    }
    join(&write, id, &own).await?;
    let update = "UPDATE app_user SET awaiting_confirmation = false, updated_by = $2, updated_at = now() WHERE id = $1";
    write.db().execute(update, &[&id.0, &write.user_id()]).await.map_err(pg)?;
    write.record(ChangeAction::Update, ChangedEntity::User, id.0, Some(before)).await?;
    let updated = load(write.db(), id, false).await?;
    write.commit().await?;
    Ok(updated)
}

/// See `UserStore::reject_user`.
pub(super) async fn reject_user(
    store: &PgAdminStore,
    permit: &Permit,
    by: &ChangedBy,
    id: UserId,
    organization: OrganizationId,
) -> Result<(OrganizationRow, Vec<UserRow>), AdminError> {
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, permit, by).await?;
    write.check(&Resource::OrganizationUsers(organization))?;
    let before = write.snapshot(ChangedEntity::User, id.0).await?.ok_or(AdminError::NotFound)?;
    stop_waiting(&write, id, organization).await?;
    let update = "UPDATE app_user SET awaiting_confirmation = EXISTS (SELECT 1 FROM user_requested_organization r \
                  WHERE r.user_id = $1), updated_by = $2, updated_at = now() WHERE id = $1";
    write.db().execute(update, &[&id.0, &write.user_id()]).await.map_err(pg)?;
    write.record(ChangeAction::Update, ChangedEntity::User, id.0, Some(before)).await?;
    let of = row::load_organization(write.db(), organization).await?.ok_or(AdminError::NotFound)?;
    let sql = format!(
        "SELECT {} FROM app_user u JOIN user_requested_organization r ON r.user_id = u.id \
         WHERE r.organization_id = $1 ORDER BY u.id LIMIT 1000",
        row::USER
    );
    let waiting = write.db().query(&sql, &[&organization.0]).await.map_err(pg)?.iter().map(row::user).collect();
    write.commit().await?;
    Ok((of, waiting))
}

/// See `UserStore::addresses_of_admins`.
pub(super) async fn addresses_of_admins(
    store: &PgAdminStore,
    organization: OrganizationId,
) -> Result<Vec<String>, AdminError> {
    let client = store.client().await?;
    let sql = "SELECT DISTINCT u.email FROM app_user u JOIN permission_user m ON m.user_id = u.id \
               JOIN permission p ON p.id = m.permission_id JOIN permission_level l ON l.permission_id = p.id \
               WHERE u.email IS NOT NULL AND u.active AND NOT u.is_system_user \
               AND (u.expires_on IS NULL OR u.expires_on > now()) \
               AND p.organization_id IS NOT DISTINCT FROM $1 AND l.type = $2 ORDER BY 1 LIMIT 50";
    for (of, role) in [(Some(organization.0), "OrganizationUserAdmin"), (None, "GlobalAdmin")] {
        let rows = client.query(sql, &[&of, &role]).await.map_err(pg)?;
        if !rows.is_empty() {
            return Ok(rows.iter().map(|r| r.get(0)).collect());
        }
    }
    Ok(Vec::new())
}
