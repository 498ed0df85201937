//! Rows as the API shows them (control-plane 1.6). Lists leave out who created and changed a row, details say it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sluse_schema::port::admin::{
    ApplicationRow, DeviceModelRow, LevelRow, OrganizationRow, PermissionDetail, PermissionRow, Stamps, UserRow,
};

/// ISO 8601 in UTC with milliseconds.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The same for one that may be missing.
pub fn instant_opt(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(instant)
}

/// `id`, `createdAt`, `updatedAt` in front of `fields`, which must be an object.
pub fn base(id: i64, stamps: &Stamps, fields: Value) -> Value {
    let mut row = json!({"id": id, "createdAt": instant(stamps.created_at), "updatedAt": instant(stamps.updated_at)});
    extend(&mut row, fields);
    row
}

/// Adds `createdBy` and `updatedBy`.
pub fn with_authors(mut row: Value, stamps: &Stamps) -> Value {
    row["createdBy"] = json!(stamps.created_by);
    row["updatedBy"] = json!(stamps.updated_by);
    row
}

/// Adds the fields of an object to another.
pub fn extend(row: &mut Value, fields: Value) {
    if let (Some(row), Value::Object(fields)) = (row.as_object_mut(), fields) {
        row.extend(fields);
    }
}

/// `Org`.
pub fn organization(row: &OrganizationRow) -> Value {
    base(row.id.0, &row.stamps, json!({"name": row.name, "openDataDkRegistered": row.is_open_data_dk_registered}))
}

/// `Perm` without what is joined.
pub fn permission(row: &PermissionRow) -> Value {
    let fields = json!({
        "name": row.name,
        "automaticallyAddNewApplications": row.automatically_add_new_applications,
        "applicationIds": row.application_ids,
    });
    base(row.id, &row.stamps, fields)
}

/// `PermType`.
pub fn level(row: &LevelRow) -> Value {
    json!({
        "id": row.id,
        "createdAt": instant(row.created_at),
        "updatedAt": instant(row.updated_at),
        "type": row.role.as_str(),
    })
}

/// `Perm` with organisation and levels.
pub fn permission_with_levels(detail: &PermissionDetail) -> Value {
    let mut row = permission(&detail.permission);
    row["organization"] = detail.organization.as_ref().map_or(Value::Null, organization);
    row["type"] = detail.levels.iter().map(level).collect();
    row
}

/// `User`.
pub fn user(row: &UserRow) -> Value {
    let fields = json!({
        "name": row.name,
        "email": row.email,
        "active": row.is_active,
        "lastLogin": instant_opt(row.last_log_in_at),
        "nameId": row.name_id,
        // Null until he waits for the first time.
        "awaitingConfirmation": row.is_awaiting_confirmation,
        "isSystemUser": row.is_system_user,
        "showWelcomeScreen": row.shows_welcome_screen,
        "expiresOn": instant_opt(row.expires_at),
    });
    base(row.id.0, &row.stamps, fields)
}

/// `App`.
pub fn application(row: &ApplicationRow) -> Value {
    let fields = json!({
        "name": row.name,
        "description": row.description,
        "status": row.status,
        "startDate": instant_opt(row.start_date),
        "endDate": instant_opt(row.end_date),
        "category": row.category,
        "owner": row.owner,
        "contactPerson": row.contact_person,
        "contactEmail": row.contact_email,
        "contactPhone": row.contact_phone,
        "personalData": row.personal_data,
        "hardware": row.hardware,
        "chirpstackId": row.chirpstack_id,
        "permissionIds": row.permission_ids,
    });
    base(row.id.0, &row.stamps, fields)
}

/// `DeviceModel` without its organisation.
pub fn device_model(row: &DeviceModelRow) -> Value {
    base(row.id, &row.stamps, json!({"body": row.body}))
}

/// GeoJSON, or nothing when the device has no place.
pub fn location(longitude: Option<f64>, latitude: Option<f64>) -> Value {
    match (longitude, latitude) {
        (Some(longitude), Some(latitude)) => json!({"type": "Point", "coordinates": [longitude, latitude]}),
        _ => Value::Null,
    }
}
