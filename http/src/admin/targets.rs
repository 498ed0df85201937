//! Data targets: `/data-target`, and what they logged: `/datatarget-log`.
//!
//! Besides the reference: `ratePerSecond`, `maxInFlight`, `maxAgeSeconds`, `caCertificates` (PEM). How a target stands is
//! [`super::target_state`]'s. Secrets are shown in clear to whoever may change the target, in answers about that one target; readers
//! and lists see a mask.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, DeviceId, TargetId};
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::target::{TargetRow, TargetType};
use sluse_schema::port::admin::{AdminError, AdminStore, Page};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::{self, InApplication, Referred};
use super::mask::Secrets;
use super::{device_shape, target_input, view};
use crate::authz::{ApplicationAdmin, Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok, uncached};
use crate::openapi::{
    Deleted, Listed,
    targets::{DataTarget, DataTargetDraft, TargetLogEntry},
};
use crate::page::{PageQuery, Query};

type State = web::Data<AppState>;

/// Lines of a target's log that are shown; the reference keeps as many.
const NUM_LOG_LINES_MAX: i64 = 250;
/// Columns that a list can be ordered by; one by a column without an order here comes by id.
const ORDER: [&str; 6] = ["id", "name", "type", "url", "timeout", "lastMessageDate"];

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list).service(create).service(read).service(update).service(delete).service(log);
}

/// `DataTarget`: what its type has.
pub fn target(row: &TargetRow, secrets: Secrets) -> Value {
    let fields = &row.fields;
    let mut shown = view::base(
        row.id.0,
        &row.stamps,
        json!({
            "type": fields.kind.as_str(),
            "name": fields.name,
            "lastMessageDate": view::instant_opt(row.last_message_at),
        }),
    );
    if fields.kind != TargetType::OpenDataDk {
        let common = json!({
            "url": fields.url,
            "timeout": fields.timeout_ms,
            "ratePerSecond": fields.rate_per_second,
            "maxInFlight": fields.num_in_flight_max,
            "maxAgeSeconds": fields.age_seconds_max,
            "caCertificates": fields.ca_certificates,
        });
        view::extend(&mut shown, common);
    }
    let own = match fields.kind {
        TargetType::HttpPush => json!({"authorizationHeader": secrets.shown(fields.authorization_header.as_ref())}),
        TargetType::Fiware => json!({
            "authorizationHeader": secrets.shown(fields.authorization_header.as_ref()),
            "tenant": fields.tenant,
            "context": fields.context,
            "tokenEndpoint": fields.token_endpoint,
            "clientId": fields.client_id,
            "clientSecret": secrets.shown(fields.client_secret.as_ref()),
        }),
        TargetType::Mqtt => json!({
            "mqttPort": fields.mqtt_port,
            "mqttTopic": fields.mqtt_topic,
            "mqttQos": fields.mqtt_qos,
            "mqttUsername": fields.mqtt_username,
            "mqttPassword": secrets.shown(fields.mqtt_password.as_ref()),
        }),
        TargetType::OpenDataDk => json!({}),
    };
    view::extend(&mut shown, own);
    shown
}

/// `DataTarget` with application, data set and who made it.
pub fn target_detail(row: &TargetRow, referred: &Referred, secrets: Secrets) -> Value {
    let mut shown = view::with_authors(target(row, secrets), &row.stamps);
    shown["application"] = referred.application(row.fields.application);
    shown["openDataDkDataset"] = dataset(row);
    shown
}

fn dataset(row: &TargetRow) -> Value {
    let (Some(dataset), Some((id, stamps))) = (&row.fields.dataset, &row.dataset_row) else { return Value::Null };
    let fields = json!({
        "name": dataset.name,
        "description": dataset.description,
        "keywords": dataset.keywords,
        "license": dataset.license,
        "authorName": dataset.author_name,
        "authorEmail": dataset.author_email,
        "resourceTitle": dataset.resource_title,
        "updateFrequency": dataset.update_frequency,
        "documentationUrl": dataset.documentation_url,
        "dataDirectory": dataset.data_directory,
    });
    view::with_authors(view::base(*id, stamps, fields), stamps)
}

async fn detail(admin: &dyn AdminStore, row: &TargetRow, secrets: Secrets) -> ApiResult<Value> {
    Ok(target_detail(row, &Referred::load(admin, [row.fields.application], []).await?, secrets))
}

/// The target, if the caller may read it; every other answer is the same 404.
pub async fn readable(caller: &Caller<Reader>, admin: &dyn AdminStore, id: PathId) -> ApiResult<TargetRow> {
    let row = admin.target(TargetId(id.0)).await?;
    caller.read(row.resource()).map_err(|_| ApiError::unknown_id())?;
    Ok(row)
}

/// Data targets.
#[utoipa::path(
    tag = "data-target",
    params(PageQuery, ("applicationId" = Option<String>, Query)),
    responses((status = 200, body = Listed<DataTarget>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/data-target")]
async fn list(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    let admin = state.admin();
    query.check_among("orderOn", &ORDER)?;
    let application = query.int("applicationId")?.map(ApplicationId);
    if let Some(id) = application {
        match access::application(admin, id).await? {
            Some(resource) => drop(caller.read(resource)?),
            // A global administrator may know that there is none; its list is empty.
            None if caller.principal.is_global_admin() => {}
            None => return Err(ApiError::forbidden()),
        }
    }
    // Upwards, whatever `sort` says: as in the reference.
    let page = Page { is_descending: false, ..query.page()? };
    let found = admin.targets(application, &caller.principal.visible_applications(), &page).await?;
    let referred = Referred::load(admin, found.rows.iter().map(|row| row.fields.application), []).await?;
    let rows = found
        .rows
        .iter()
        .map(|row| {
            let mut shown = target(row, Secrets::Masked);
            shown["application"] = referred.application(row.fields.application);
            shown["hasRecentErrors"] = row.has_recent_errors.into();
            shown
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// One data target.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    responses((status = 200, body = DataTarget)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/data-target/{id}")]
async fn read(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = readable(&caller, state.admin(), id).await?;
    let has_secrets = [&row.fields.authorization_header, &row.fields.mqtt_password].into_iter().any(Option::is_some);
    let mut secrets = Secrets::Masked;
    if has_secrets && let Ok(permit) = caller.write(row.resource()) {
        state.admin().record_reveal(&permit, &caller.changed_by, ChangedEntity::Target, &[row.id.0]).await?;
        secrets = Secrets::Clear;
    }
    let mut shown = detail(state.admin(), &row, secrets).await?;
    // Written, never read: as in the reference.
    if let Some(secret) = shown.get_mut("clientSecret") {
        *secret = Secrets::Masked.shown(row.fields.client_secret.as_ref());
    }
    shown["hasRecentErrors"] = row.has_recent_errors.into();
    Ok(ok(shown))
}

/// Creates a data target.
#[utoipa::path(
    tag = "data-target",
    request_body = DataTargetDraft,
    responses((status = 201, body = DataTarget)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/data-target")]
async fn create(caller: Caller<Reader>, state: State, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let fields = target_input::read(&body.0, None)?;
    let permit = place(&caller, admin, fields.application).await?;
    let row = admin.create_target(&permit, &caller.changed_by, &fields).await?;
    Ok(created(detail(admin, &row, Secrets::Clear).await?))
}

/// Permission for where a target is to be.
async fn place(caller: &Caller<Reader>, admin: &dyn AdminStore, id: ApplicationId) -> ApiResult<Permit> {
    let unknown = || ApiError::bad_request(crate::error::code::ID_DOES_NOT_EXIST);
    Ok(access::application_to_write(caller, admin, id, unknown).await?.1)
}

/// Changes a data target.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    request_body = DataTargetDraft,
    responses((status = 200, body = DataTarget)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/data-target/{id}")]
async fn update(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let stored = admin.target(TargetId(id.0)).await?;
    let permit = caller.write(stored.resource())?;
    let fields = target_input::read(&body.0, Some(&stored.fields))?;
    let target_permit = place(&caller, admin, fields.application).await?;
    let row = admin.update_target(&permit, Some(&target_permit), &caller.changed_by, stored.id, &fields).await?;
    Ok(uncached(ok(detail(admin, &row, Secrets::Clear).await?)))
}

/// Deletes a data target; what was pending is counted as discarded.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[delete("/data-target/{id}")]
async fn delete(caller: Caller<ApplicationAdmin>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let row = match admin.target(TargetId(id.0)).await {
        Err(AdminError::NotFound) => return Err(ApiError::bare(StatusCode::NOT_FOUND)),
        other => other?,
    };
    let permit = caller.write(row.resource())?;
    Ok(deleted(admin.delete_target(&permit, &caller.changed_by, row.id).await?))
}

/// The newest lines first: every error, and the first success after one.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    responses((status = 200, body = Vec<TargetLogEntry>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/datatarget-log/{id}")]
async fn log(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    id.of_list()?;
    let row = match readable(&caller, admin, id).await {
        // One that is not there logged nothing, for who may know that.
        Err(error) if error.status() == StatusCode::NOT_FOUND && caller.principal.is_global_admin() => {
            return Ok(ok(json!([])));
        }
        other => other?,
    };
    let lines = admin.target_log(row.id, NUM_LOG_LINES_MAX).await?;
    let mut ids: Vec<DeviceId> = lines.iter().filter_map(|line| line.device).collect();
    ids.sort_unstable();
    ids.dedup();
    let devices = admin.devices_by_id(&ids).await?;
    let shown: Vec<Value> = lines
        .iter()
        .map(|line| {
            let device = line.device.and_then(|id| devices.iter().find(|row| row.id == id));
            // A device that moved to another tenant is not shown to the old one.
            let device = device.filter(|device| caller.read(device.resource()).is_ok());
            json!({
                "id": line.id,
                "createdAt": view::instant(line.created_at),
                "updatedAt": view::instant(line.created_at),
                "type": if line.is_error { "ERROR" } else { "OK" },
                "statusCode": line.status_code,
                "message": line.message,
                "iotDevice": device.map(device_shape::device),
            })
        })
        .collect();
    Ok(ok(Value::Array(shown)))
}
