//! Rows of administration read from PostgreSQL: column lists with a prefix, and what they become. Shared by all resources.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use sluse_schema::id::{ApplicationId, OrganizationId, UserId};
use sluse_schema::permission::Role;
use sluse_schema::port::admin::{
    AdminError, ApplicationRow, LevelRow, OrganizationRow, Page, PermissionDetail, PermissionRow, Stamps, UserRow,
};
use tokio_postgres::Row;

use super::pg;

/// Columns of `organization o`.
pub const ORGANIZATION: &str = "o.id AS o_id, o.name AS o_name, o.open_data_dk_registered AS o_registered, \
     o.created_at AS o_created_at, o.updated_at AS o_updated_at, o.created_by AS o_created_by, o.updated_by AS o_updated_by";

/// Columns of `permission p`.
pub const PERMISSION: &str = "p.id AS p_id, p.name AS p_name, p.organization_id AS p_organization_id, \
     p.automatically_add_new_applications AS p_adds, \
     ARRAY(SELECT pa.application_id FROM permission_application pa WHERE pa.permission_id = p.id ORDER BY 1) AS p_applications, \
     p.created_at AS p_created_at, p.updated_at AS p_updated_at, p.created_by AS p_created_by, p.updated_by AS p_updated_by";

/// Columns of `app_user u`.
pub const USER: &str = "u.id AS u_id, u.name AS u_name, u.email AS u_email, u.active AS u_active, \
     u.last_login_at AS u_last_login_at, u.name_id AS u_name_id, u.awaiting_confirmation AS u_awaiting, \
     u.is_system_user AS u_is_system, u.show_welcome_screen AS u_welcome, u.expires_on AS u_expires_on, \
     u.created_at AS u_created_at, u.updated_at AS u_updated_at, u.created_by AS u_created_by, u.updated_by AS u_updated_by";

/// Columns of `application a`.
pub const APPLICATION: &str = "a.id AS a_id, a.organization_id AS a_organization_id, a.name AS a_name, \
     a.description AS a_description, a.status AS a_status, a.start_date AS a_start_date, a.end_date AS a_end_date, \
     a.category AS a_category, a.owner AS a_owner, a.contact_person AS a_contact_person, \
     a.contact_email AS a_contact_email, a.contact_phone AS a_contact_phone, a.personal_data AS a_personal_data, \
     a.hardware AS a_hardware, a.chirpstack_id AS a_chirpstack_id, a.controlled_properties AS a_controlled_properties, \
     a.device_types AS a_device_types, \
     ARRAY(SELECT pa.permission_id FROM permission_application pa WHERE pa.application_id = a.id ORDER BY 1) AS a_permissions, \
     a.created_at AS a_created_at, a.updated_at AS a_updated_at, a.created_by AS a_created_by, a.updated_by AS a_updated_by";

/// The stamps of a row with this prefix.
pub fn stamps(row: &Row, prefix: &str) -> Stamps {
    Stamps {
        created_at: row.get(format!("{prefix}_created_at").as_str()),
        updated_at: row.get(format!("{prefix}_updated_at").as_str()),
        created_by: row.get(format!("{prefix}_created_by").as_str()),
        updated_by: row.get(format!("{prefix}_updated_by").as_str()),
    }
}

/// A row of [`ORGANIZATION`].
pub fn organization(row: &Row) -> OrganizationRow {
    OrganizationRow {
        id: OrganizationId(row.get("o_id")),
        name: row.get("o_name"),
        is_open_data_dk_registered: row.get("o_registered"),
        stamps: stamps(row, "o"),
    }
}

/// A row of [`ORGANIZATION`] that was joined from the outside.
pub fn organization_opt(row: &Row) -> Option<OrganizationRow> {
    row.get::<_, Option<i64>>("o_id").map(|_| organization(row))
}

/// A row of [`PERMISSION`].
pub fn permission(row: &Row) -> PermissionRow {
    PermissionRow {
        id: row.get("p_id"),
        name: row.get("p_name"),
        organization_id: row.get::<_, Option<i64>>("p_organization_id").map(OrganizationId),
        automatically_add_new_applications: row.get("p_adds"),
        application_ids: row.get::<_, Vec<i64>>("p_applications").into_iter().map(ApplicationId).collect(),
        stamps: stamps(row, "p"),
    }
}

/// A row of [`USER`].
pub fn user(row: &Row) -> UserRow {
    UserRow {
        id: UserId(row.get("u_id")),
        name: row.get("u_name"),
        email: row.get("u_email"),
        is_active: row.get("u_active"),
        last_log_in_at: row.get("u_last_login_at"),
        name_id: row.get("u_name_id"),
        is_awaiting_confirmation: row.get("u_awaiting"),
        is_system_user: row.get("u_is_system"),
        shows_welcome_screen: row.get("u_welcome"),
        expires_at: row.get("u_expires_on"),
        stamps: stamps(row, "u"),
    }
}

/// A row of [`APPLICATION`].
pub fn application(row: &Row) -> ApplicationRow {
    ApplicationRow {
        id: ApplicationId(row.get("a_id")),
        organization_id: OrganizationId(row.get("a_organization_id")),
        name: row.get("a_name"),
        description: row.get("a_description"),
        status: row.get("a_status"),
        start_date: row.get("a_start_date"),
        end_date: row.get("a_end_date"),
        category: row.get("a_category"),
        owner: row.get("a_owner"),
        contact_person: row.get("a_contact_person"),
        contact_email: row.get("a_contact_email"),
        contact_phone: row.get("a_contact_phone"),
        personal_data: row.get("a_personal_data"),
        hardware: row.get("a_hardware"),
        chirpstack_id: row.get("a_chirpstack_id"),
        controlled_properties: row.get("a_controlled_properties"),
        device_types: row.get("a_device_types"),
        permission_ids: row.get("a_permissions"),
        stamps: stamps(row, "a"),
    }
}

/// One organisation.
pub async fn load_organization(
    db: &impl GenericClient,
    id: OrganizationId,
) -> Result<Option<OrganizationRow>, AdminError> {
    let sql = format!("SELECT {ORGANIZATION} FROM organization o WHERE o.id = $1");
    Ok(db.query_opt(&sql, &[&id.0]).await.map_err(pg)?.as_ref().map(organization))
}

/// Groups by id, ordered by id, without what belongs to them.
pub async fn load_permissions(db: &impl GenericClient, ids: &[i64]) -> Result<Vec<PermissionRow>, AdminError> {
    let sql = format!("SELECT {PERMISSION} FROM permission p WHERE p.id = ANY($1) ORDER BY p.id");
    Ok(db.query(&sql, &[&ids]).await.map_err(pg)?.iter().map(permission).collect())
}

/// Groups of an organisation, ordered by id.
pub async fn permissions_of(db: &impl GenericClient, id: OrganizationId) -> Result<Vec<PermissionRow>, AdminError> {
    let sql = format!("SELECT {PERMISSION} FROM permission p WHERE p.organization_id = $1 ORDER BY p.id");
    Ok(db.query(&sql, &[&id.0]).await.map_err(pg)?.iter().map(permission).collect())
}

/// Groups that an application is mapped to.
pub async fn permissions_of_application(
    db: &impl GenericClient,
    id: ApplicationId,
) -> Result<Vec<PermissionRow>, AdminError> {
    let sql = format!(
        "SELECT {PERMISSION} FROM permission p JOIN permission_application m ON m.permission_id = p.id \
         WHERE m.application_id = $1 ORDER BY p.id"
    );
    Ok(db.query(&sql, &[&id.0]).await.map_err(pg)?.iter().map(permission).collect())
}

/// Applications of these organisations, by organisation, those that were changed last at the end: so the reference's table has them.
pub async fn applications_by_organization(
    db: &impl GenericClient,
    ids: &[i64],
) -> Result<HashMap<i64, Vec<ApplicationRow>>, AdminError> {
    let sql = format!(
        "SELECT {APPLICATION} FROM application a WHERE a.organization_id = ANY($1) ORDER BY a.updated_at, a.id"
    );
    let mut found: HashMap<i64, Vec<ApplicationRow>> = HashMap::new();
    for row in db.query(&sql, &[&ids]).await.map_err(pg)? {
        let application = application(&row);
        found.entry(application.organization_id.0).or_default().push(application);
    }
    Ok(found)
}

/// What to put into [`PermissionDetail`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// Members: all, or only this one.
    pub users: Option<OnlyUser>,
    pub applications: bool,
}

/// All members, or only this one.
#[derive(Clone, Copy, Debug)]
pub struct OnlyUser(pub Option<i64>);

/// Groups with what belongs to them, in the order given; a few statements whatever their number.
pub async fn details(
    db: &impl GenericClient,
    permissions: Vec<PermissionRow>,
    parts: Parts,
) -> Result<Vec<PermissionDetail>, AdminError> {
    let ids: Vec<i64> = permissions.iter().map(|p| p.id).collect();
    let mut organization_ids: Vec<i64> = permissions.iter().filter_map(|p| p.organization_id).map(|o| o.0).collect();
    organization_ids.sort_unstable();
    organization_ids.dedup();
    let sql = format!("SELECT {ORGANIZATION} FROM organization o WHERE o.id = ANY($1)");
    let organizations: HashMap<i64, OrganizationRow> = db
        .query(&sql, &[&organization_ids])
        .await
        .map_err(pg)?
        .iter()
        .map(|row| (row.get("o_id"), organization(row)))
        .collect();
    let mut levels = levels_by_permission(db, &ids).await?;
    let mut users = match parts.users {
        Some(OnlyUser(only)) => users_by_permission(db, &ids, only).await?,
        None => HashMap::new(),
    };
    let mut applications =
        if parts.applications { applications_by_permission(db, &ids).await? } else { HashMap::new() };
    Ok(permissions
        .into_iter()
        .map(|permission| PermissionDetail {
            organization: permission.organization_id.and_then(|o| organizations.get(&o.0).cloned()),
            levels: levels.remove(&permission.id).unwrap_or_default(),
            users: users.remove(&permission.id).unwrap_or_default(),
            applications: applications.remove(&permission.id).unwrap_or_default(),
            permission,
        })
        .collect())
}

async fn levels_by_permission(db: &impl GenericClient, ids: &[i64]) -> Result<HashMap<i64, Vec<LevelRow>>, AdminError> {
    let sql = "SELECT permission_id, id, type, created_at, updated_at FROM permission_level \
               WHERE permission_id = ANY($1) ORDER BY id";
    let mut found: HashMap<i64, Vec<LevelRow>> = HashMap::new();
    for row in db.query(sql, &[&ids]).await.map_err(pg)? {
        // The column's check lets no other text in.
        let Some(role) = Role::of_str(row.get("type")) else { continue };
        let level =
            LevelRow { id: row.get("id"), role, created_at: row.get("created_at"), updated_at: row.get("updated_at") };
        found.entry(row.get("permission_id")).or_default().push(level);
    }
    Ok(found)
}

async fn users_by_permission(
    db: &impl GenericClient,
    ids: &[i64],
    only: Option<i64>,
) -> Result<HashMap<i64, Vec<UserRow>>, AdminError> {
    let sql = format!(
        "SELECT m.permission_id, {USER} FROM permission_user m JOIN app_user u ON u.id = m.user_id \
         WHERE m.permission_id = ANY($1) AND ($2::bigint IS NULL OR u.id = $2) ORDER BY u.id"
    );
    let mut found: HashMap<i64, Vec<UserRow>> = HashMap::new();
    for row in db.query(&sql, &[&ids, &only]).await.map_err(pg)? {
        found.entry(row.get("permission_id")).or_default().push(user(&row));
    }
    Ok(found)
}

async fn applications_by_permission(
    db: &impl GenericClient,
    ids: &[i64],
) -> Result<HashMap<i64, Vec<ApplicationRow>>, AdminError> {
    let sql = format!(
        "SELECT m.permission_id, {APPLICATION} FROM permission_application m \
         JOIN application a ON a.id = m.application_id WHERE m.permission_id = ANY($1) ORDER BY a.id"
    );
    let mut found: HashMap<i64, Vec<ApplicationRow>> = HashMap::new();
    for row in db.query(&sql, &[&ids]).await.map_err(pg)? {
        found.entry(row.get("permission_id")).or_default().push(application(&row));
    }
    Ok(found)
}

/// The direction of lists that the reference sorts by the id, upwards, whatever `sort` says when `orderOn` is none of their columns.
/// `order` is what they sort by now, `id` what that is by default.
pub fn direction_of_known(page: &Page, order: &str, id: &str) -> &'static str {
    let is_known = order != id || page.order_on.as_deref() == Some("id");
    direction(page.is_descending && is_known)
}

/// `ASC` or `DESC`.
pub fn direction(is_descending: bool) -> &'static str {
    if is_descending { "DESC" } else { "ASC" }
}
