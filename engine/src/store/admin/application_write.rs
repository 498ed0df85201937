//! Applications: writing. A permit is checked against the organisation that the row has now, and a move needs one for where it goes.

use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, OrganizationId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{AdminError, ApplicationDetail, ApplicationDraft, ChangedBy, NumDeleted};

use super::application::load;
use super::change::{ChangeAction, Write};
use super::{PgAdminStore, pg};

/// Maps an application to exactly these groups, all of its own organisation.
async fn set_permissions(
    write: &Write<'_>,
    id: i64,
    organization: OrganizationId,
    permissions: &[i64],
) -> Result<(), AdminError> {
    let owned = "SELECT count(*) FROM permission WHERE id = ANY($1) AND organization_id = $2";
    let num_owned: i64 = write.db().query_one(owned, &[&permissions, &organization.0]).await.map_err(pg)?.get(0);
    if num_owned != permissions.len() as i64 {
        return Err(AdminError::BadReference("permission"));
    }
    write.db().execute("DELETE FROM permission_application WHERE application_id = $1", &[&id]).await.map_err(pg)?;
    let insert = "INSERT INTO permission_application (permission_id, application_id) SELECT unnest($2::bigint[]), $1";
    write.db().execute(insert, &[&id, &permissions]).await.map_err(pg)?;
    Ok(())
}

/// Makes one.
pub async fn create(
    store: &PgAdminStore,
    permit: &Permit,
    by: &ChangedBy,
    draft: &ApplicationDraft,
) -> Result<ApplicationDetail, AdminError> {
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, permit, by).await?;
    write.check(&Resource::Organization(draft.organization))?;
    let insert = "INSERT INTO application (organization_id, name, description, status, start_date, end_date, category, \
                  owner, contact_person, contact_email, contact_phone, personal_data, hardware, controlled_properties, \
                  device_types, created_by, updated_by) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, COALESCE($14, '{}'::text[]), \
                          COALESCE($15, '{}'::text[]), $16, $16) RETURNING id";
    let id: i64 = write
        .db()
        .query_one(
            insert,
            &[
                &draft.organization.0,
                &draft.name,
                &draft.description,
                &draft.status,
                &draft.start_date,
                &draft.end_date,
                &draft.category,
                &draft.owner,
                &draft.contact_person,
                &draft.contact_email,
                &draft.contact_phone,
                &draft.personal_data,
                &draft.hardware,
                &draft.controlled_properties,
                &draft.device_types,
                &write.user_id(),
            ],
        )
        .await
        .map_err(pg)?
        .get(0);
    set_permissions(&write, id, draft.organization, draft.permissions.as_deref().unwrap_or_default()).await?;
    write.record(ChangeAction::Create, ChangedEntity::Application, id, None).await?;
    let created = load(write.db(), ApplicationId(id)).await?;
    write.commit().await?;
    Ok(created)
}

/// Locks an application and checks the permit against where it is now.
async fn lock(write: &Write<'_>, id: ApplicationId) -> Result<(serde_json::Value, OrganizationId), AdminError> {
    let before = write.snapshot(ChangedEntity::Application, id.0).await?.ok_or(AdminError::NotFound)?;
    let organization = before["organization_id"].as_i64().map(OrganizationId).ok_or(AdminError::NotFound)?;
    write.check(&Resource::Application { application: id, organization })?;
    Ok((before, organization))
}

/// Changes one, possibly moving it to another organisation.
pub async fn update(
    store: &PgAdminStore,
    permit: &Permit,
    target_permit: Option<&Permit>,
    by: &ChangedBy,
    id: ApplicationId,
    draft: &ApplicationDraft,
) -> Result<ApplicationDetail, AdminError> {
    let mut client = store.client().await?;
    let write = Write::begin(&mut client, permit, by).await?;
    let (before, organization) = lock(&write, id).await?;
    let is_move = organization != draft.organization;
    if is_move {
        check_target(target_permit, draft.organization)?;
    }
    // What a client did not speak of stays.
    let column = |name: &str, sent: &str| {
        if draft.kept.contains(&name) {
            format!("{name} = COALESCE({name}, {sent})")
        } else {
            format!("{name} = {sent}")
        }
    };
    let columns = [
        column("description", "$4"),
        column("status", "$5"),
        column("category", "$8"),
        column("owner", "$9"),
        column("contact_person", "$10"),
        column("contact_email", "$11"),
        column("contact_phone", "$12"),
        column("personal_data", "$13"),
        column("hardware", "$14"),
    ];
    let update = format!(
        "UPDATE application SET organization_id = $2, name = $3, start_date = $6, end_date = $7, {}, \
         controlled_properties = COALESCE($15, controlled_properties), \
         device_types = COALESCE($16, device_types), updated_by = $17, updated_at = now() WHERE id = $1",
        columns.join(", ")
    );
    write
        .db()
        .execute(
            &update,
            &[
                &id.0,
                &draft.organization.0,
                &draft.name,
                &draft.description,
                &draft.status,
                &draft.start_date,
                &draft.end_date,
                &draft.category,
                &draft.owner,
                &draft.contact_person,
                &draft.contact_email,
                &draft.contact_phone,
                &draft.personal_data,
                &draft.hardware,
                &draft.controlled_properties,
                &draft.device_types,
                &write.user_id(),
            ],
        )
        .await
        .map_err(pg)?;
    match &draft.permissions {
        Some(permissions) => set_permissions(&write, id.0, draft.organization, permissions).await?,
        // Groups of the organisation that it left see it no more.
        None if is_move => set_permissions(&write, id.0, draft.organization, &[]).await?,
        None => {}
    }
    finish(write, id, before, is_move).await
}

/// Moves one to an organisation.
pub async fn relocate(
    store: &PgAdminStore,
    permit: &Permit,
    target_permit: &Permit,
    by: &ChangedBy,
    id: ApplicationId,
    organization: OrganizationId,
    permissions: &[i64],
) -> Result<ApplicationDetail, AdminError> {
    let mut client = store.client().await?;
    let write = Write::begin(&mut client, permit, by).await?;
    let (before, current) = lock(&write, id).await?;
    check_target(Some(target_permit), organization)?;
    let update = "UPDATE application SET organization_id = $2, updated_by = $3, updated_at = now() WHERE id = $1";
    write.db().execute(update, &[&id.0, &organization.0, &write.user_id()]).await.map_err(pg)?;
    // Groups of several organisations, or of none, say nothing of where it goes: then those that take every new application do.
    let of =
        "SELECT DISTINCT organization_id FROM permission WHERE id = ANY($1) AND organization_id IS NOT NULL LIMIT 2";
    if write.db().query(of, &[&permissions]).await.map_err(pg)?.len() != 1 {
        let takers = "SELECT id FROM permission WHERE organization_id = $1 AND automatically_add_new_applications";
        let rows = write.db().query(takers, &[&organization.0]).await.map_err(pg)?;
        let takers: Vec<i64> = rows.iter().map(|r| r.get(0)).collect();
        set_permissions(&write, id.0, organization, &takers).await?;
    } else {
        set_permissions(&write, id.0, organization, permissions).await?;
    }
    finish(write, id, before, current != organization).await
}

fn check_target(permit: Option<&Permit>, organization: OrganizationId) -> Result<(), AdminError> {
    let is_covered = permit.is_some_and(|p| p.covers_write(&Resource::Organization(organization)));
    if is_covered { Ok(()) } else { Err(AdminError::NotCovered) }
}

async fn finish(
    mut write: Write<'_>,
    id: ApplicationId,
    before: serde_json::Value,
    is_move: bool,
) -> Result<ApplicationDetail, AdminError> {
    let is_renamed = write
        .db()
        .query_one("SELECT name FROM application WHERE id = $1", &[&id.0])
        .await
        .map_err(pg)?
        .get::<_, &str>(0)
        != before["name"];
    write.record(ChangeAction::Update, ChangedEntity::Application, id.0, Some(before)).await?;
    // Devices carry their application's name and organisation in the record that decoders see, and the organisation is what
    // deliveries are checked against.
    if is_move || is_renamed {
        touch_parts(&write, id).await?;
    }
    let updated = load(write.db(), id).await?;
    write.commit().await?;
    Ok(updated)
}

/// Change events of everything that belongs to an application.
async fn touch_parts(write: &Write<'_>, id: ApplicationId) -> Result<(), AdminError> {
    for (entity, sql) in [
        (ChangedEntity::Device, "SELECT id FROM iot_device WHERE application_id = $1"),
        (ChangedEntity::Target, "SELECT id FROM data_target WHERE application_id = $1"),
    ] {
        let ids: Vec<i64> = write.db().query(sql, &[&id.0]).await.map_err(pg)?.iter().map(|r| r.get(0)).collect();
        write.touch(entity, &ids).await?;
    }
    Ok(())
}

/// Deletes one with all that belongs to it.
pub async fn delete(
    store: &PgAdminStore,
    permit: &Permit,
    by: &ChangedBy,
    id: ApplicationId,
) -> Result<NumDeleted, AdminError> {
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, permit, by).await?;
    let (before, _) = lock(&write, id).await?;
    let sigfox = "SELECT 1 FROM iot_device WHERE application_id = $1 AND type = 'SIGFOX' LIMIT 1";
    if write.db().query_opt(sigfox, &[&id.0]).await.map_err(pg)?.is_some() {
        return Err(AdminError::InUse("Sigfox devices"));
    }
    touch_parts(&write, id).await?;
    let num = write.db().execute("DELETE FROM application WHERE id = $1", &[&id.0]).await.map_err(pg)?;
    write.record(ChangeAction::Delete, ChangedEntity::Application, id.0, Some(before)).await?;
    write.commit().await?;
    Ok(NumDeleted(num))
}
