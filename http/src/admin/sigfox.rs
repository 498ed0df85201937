//! Sigfox (control-plane 2.18): groups (a login at Sigfox per organisation), and what is read and changed at Sigfox through them.
//!
//! Passwords are never shown. When Sigfox does not answer, a group is shown without what Sigfox says of it; everything else is
//! 400 `MESSAGE.SIGFOX-ERROR`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, get, post, put, web};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::AdminError;
use sluse_schema::port::admin::sigfox::{DeviceTypeChange, SigfoxGroupRow};
use sluse_schema::port::sigfox::{SigfoxError, SigfoxLogin};
use sluse_schema::secret::Secret;
use utoipa_actix_web::service_config::ServiceConfig;

use super::mask::{NO_NUL, means_keep};
use super::view;
use crate::audit;
use crate::authz::{ApplicationAdmin, Caller, Reader, Rule as CallerRule};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, listed, ok};
use crate::openapi::Listed;
use crate::openapi::content::{
    SigfoxConnection, SigfoxDeviceTypeDraft, SigfoxGroup, SigfoxGroupChange, SigfoxGroupDraft, SigfoxId,
};
use crate::page::Query;
use crate::validate::{Form, Rule};

type State = web::Data<AppState>;

/// Groups that Sigfox is asked about at once.
const NUM_ASKED_AT_ONCE: usize = 4;
/// `downlinkMode` of device types whose downlinks are asked for by callback, `payloadType` of payloads as they are.
const DOWNLINK_BY_CALLBACK: i64 = 1;
const PAYLOAD_AS_IT_IS: i64 = 2;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list)
        .service(create)
        .service(test_connection)
        .service(read)
        .service(update)
        .service(contracts)
        .service(devices)
        .service(device_types)
        .service(device_type)
        .service(create_device_type)
        .service(update_device_type);
}

/// What went wrong at Sigfox, as the reference says it.
pub fn of_sigfox(error: SigfoxError) -> ApiError {
    match error {
        SigfoxError::BadLogin => ApiError::new(StatusCode::UNAUTHORIZED, code::SIGFOX_BAD_LOGIN),
        SigfoxError::Refused(said) if said.is_array() || said.is_string() => ApiError::bad_request(said),
        SigfoxError::Refused(_) => ApiError::bad_request(code::SIGFOX_ERROR),
        SigfoxError::NotFound => ApiError::unknown_id(),
        SigfoxError::TooMany => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "SigFox requests are limited. Wait a little before you try again.",
        ),
        SigfoxError::Unavailable(reason) => {
            tracing::warn!(reason, "Sigfox could not be asked");
            ApiError::bad_request(code::SIGFOX_ERROR)
        }
    }
}

/// The group that a query names.
async fn group_of(query: &Query, state: &AppState) -> ApiResult<SigfoxGroupRow> {
    Ok(state.admin().sigfox_group(query.required_int("groupId")?).await?)
}

async fn readable<R: CallerRule>(caller: &Caller<R>, query: &Query, state: &AppState) -> ApiResult<SigfoxGroupRow> {
    let group = group_of(query, state).await?;
    caller.read(Resource::Organization(group.organization.id))?;
    Ok(group)
}

/// A group with what Sigfox says of it; `null` when it says nothing.
async fn shown(state: &AppState, group: &SigfoxGroupRow) -> Value {
    let told = match state.ports.sigfox.group(&group.login).await {
        Ok(told) => told,
        Err(error) => {
            tracing::warn!(group = group.id, %error, "Sigfox did not tell of a group");
            None
        }
    };
    let fields = json!({
        "username": group.login.username,
        "belongsTo": view::organization(&group.organization),
        "sigfoxGroupId": group.sigfox_group_id,
        "sigfoxGroupData": told,
    });
    view::base(group.id, &group.stamps, fields)
}

/// An organisation's Sigfox groups.
#[utoipa::path(
    tag = "sigfox",
    params(("organizationId" = i64, Query)),
    responses((status = 200, body = Listed<SigfoxGroup>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/sigfox-group")]
async fn list(caller: Caller<Reader>, query: Query, state: State) -> ApiResult {
    let organization = OrganizationId(query.needed_int("organizationId")?);
    caller.read(Resource::Organization(organization))?;
    let groups = state.admin().sigfox_groups(organization).await?;
    let rows: Vec<Value> = futures_util::stream::iter(&groups)
        .map(|group| shown(&state, group))
        .buffered(NUM_ASKED_AT_ONCE)
        .collect()
        .await;
    let num_all = rows.len() as i64;
    Ok(listed(rows, num_all))
}

/// One Sigfox group.
#[utoipa::path(
    tag = "sigfox",
    params(("id" = i64, Path)),
    responses((status = 200, description = "empty when there is none", body = SigfoxGroup)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/sigfox-group/{id}")]
async fn read(caller: Caller<Reader>, id: PathId, state: State) -> ApiResult {
    let group = match state.admin().sigfox_group(id.0).await {
        // As in the reference: nothing, and no error.
        Err(AdminError::NotFound) => return Ok(HttpResponse::Ok().finish()),
        other => other?,
    };
    caller.read(Resource::Organization(group.organization.id))?;
    Ok(ok(shown(&state, &group).await))
}

/// The login of a body. `stored`: what the mask, or nothing, keeps.
fn login(form: &mut Form<'_>, stored: Option<&SigfoxLogin>) -> SigfoxLogin {
    let username = form.text("username", &[Rule::Min(1), Rule::Max(1024)]);
    let password = match stored {
        Some(stored) if means_keep(form.get("password")) => stored.password.clone(),
        _ => {
            let password = form.text("password", &[Rule::Min(1), Rule::Max(1024)]);
            form.beyond(|form| form.text_opt("password", &[NO_NUL]));
            Secret::new(password)
        }
    };
    SigfoxLogin { username, password }
}

/// Asks Sigfox whether the login is one, and which group it belongs to.
async fn check(state: &AppState, login: &SigfoxLogin) -> ApiResult<String> {
    if !state.ports.sigfox.accepts(login).await.map_err(of_sigfox)? {
        return Err(of_sigfox(SigfoxError::BadLogin));
    }
    let group = state.ports.sigfox.group(login).await.map_err(of_sigfox)?;
    Ok(group.as_ref().and_then(|group| group["id"].as_str()).unwrap_or_default().to_owned())
}

fn of_store(error: AdminError) -> ApiError {
    match error {
        AdminError::Taken(_) => ApiError::bad_request(code::GROUP_CAN_ONLY_BE_CREATED_ONCE_PR_ORGANIZATION),
        AdminError::BadReference(_) => ApiError::bad_request(code::ORGANIZATION_DOES_NOT_EXISTS),
        other => other.into(),
    }
}

/// Adds a login at Sigfox, once Sigfox accepts it.
#[utoipa::path(
    tag = "sigfox",
    request_body = SigfoxGroupDraft,
    responses((status = 201, body = SigfoxGroup)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[post("/sigfox-group")]
async fn create(caller: Caller<ApplicationAdmin>, state: State, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("organizationId", None));
    let login = login(&mut form, None);
    form.finish()?;
    let permit = caller.write(Resource::Organization(organization))?;
    if state.admin().organizations_by_id(&[organization]).await?.is_empty() {
        return Err(ApiError::bad_request(code::ORGANIZATION_DOES_NOT_EXISTS));
    }
    let remote_id = check(&state, &login).await?;
    let made = state.admin().create_sigfox_group(&permit, &caller.changed_by, organization, &login, &remote_id).await;
    let group = made.map_err(of_store)?;
    Ok(created(view::with_authors(shown(&state, &group).await, &group.stamps)))
}

/// Changes a login at Sigfox, once Sigfox accepts it. A password that is masked or not sent stays.
#[utoipa::path(
    tag = "sigfox",
    params(("id" = i64, Path)),
    request_body = SigfoxGroupChange,
    responses((status = 200, body = SigfoxGroup)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/sigfox-group/{id}")]
async fn update(caller: Caller<ApplicationAdmin>, id: PathId, state: State, JsonBody(body): JsonBody) -> ApiResult {
    let stored = match state.admin().sigfox_group(id.0).await {
        Err(AdminError::NotFound) => return Err(ApiError::bare(StatusCode::NOT_FOUND)),
        other => other?,
    };
    let permit = caller.write(Resource::Organization(stored.organization.id))?;
    let mut form = Form::of(&body);
    let login = login(&mut form, Some(&stored.login));
    form.finish()?;
    let remote_id = check(&state, &login).await?;
    let changed = state.admin().update_sigfox_group(&permit, &caller.changed_by, id.0, &login, &remote_id).await;
    let group = changed.map_err(of_store)?;
    Ok(ok(view::with_authors(shown(&state, &group).await, &group.stamps)))
}

/// Whether Sigfox accepts a login. Nothing is stored.
#[utoipa::path(
    tag = "sigfox",
    request_body = SigfoxGroupDraft,
    responses((status = 200, body = SigfoxConnection)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/sigfox-group/test-connection")]
async fn test_connection(caller: Caller<Reader>, state: State, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("organizationId", None));
    let login = login(&mut form, None);
    form.finish()?;
    caller.write(Resource::Organization(organization))?;
    let is_accepted = match state.ports.sigfox.accepts(&login).await {
        Ok(is_accepted) => is_accepted,
        Err(SigfoxError::TooMany) => return Err(of_sigfox(SigfoxError::TooMany)),
        Err(_) => false,
    };
    let entity = ChangedEntity::SigfoxGroup.as_str();
    audit::note_trial(&state, &caller.changed_by, entity, None, Some(organization)).await;
    Ok(ok(json!({"status": is_accepted})))
}

/// Contracts at Sigfox.
#[utoipa::path(
    tag = "sigfox",
    params(("groupId" = i64, Query)),
    responses((status = 200, body = Vec<Value>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/sigfox-contract")]
async fn contracts(caller: Caller<Reader>, query: Query, state: State) -> ApiResult {
    let group = readable(&caller, &query, &state).await?;
    let contracts = state.ports.sigfox.contracts(&group.login).await.map_err(of_sigfox)?;
    Ok(ok(Value::Array(contracts)))
}

/// Devices at Sigfox that are not registered here.
#[utoipa::path(
    tag = "sigfox",
    params(("groupId" = i64, Query)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/sigfox-api-device")]
async fn devices(caller: Caller<Reader>, query: Query, state: State) -> ApiResult {
    let group = readable(&caller, &query, &state).await?;
    let mut devices = state.ports.sigfox.devices(&group.login, &group.sigfox_group_id).await.map_err(of_sigfox)?;
    let id_of = |device: &Value| device["id"].as_str().map(str::to_ascii_uppercase);
    let ids: Vec<String> = devices.iter().filter_map(id_of).collect();
    let known: std::collections::HashSet<String> =
        state.admin().known_sigfox_devices(&ids).await?.into_iter().collect();
    devices.retain(|device| id_of(device).is_none_or(|id| !known.contains(&id)));
    Ok(ok(json!({"data": devices})))
}

/// Device types at Sigfox.
#[utoipa::path(
    tag = "sigfox",
    params(("groupId" = i64, Query)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/sigfox-device-type")]
async fn device_types(caller: Caller<Reader>, query: Query, state: State) -> ApiResult {
    let group = readable(&caller, &query, &state).await?;
    Ok(ok(state.ports.sigfox.device_types(&group.login, &group.sigfox_group_id).await.map_err(of_sigfox)?))
}

/// One device type at Sigfox.
#[utoipa::path(
    tag = "sigfox",
    params(("id" = String, Path), ("groupId" = i64, Query)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/sigfox-device-type/{id}")]
async fn device_type(caller: Caller<Reader>, id: web::Path<String>, query: Query, state: State) -> ApiResult {
    let group = readable(&caller, &query, &state).await?;
    Ok(ok(state.ports.sigfox.device_type(&group.login, remote_id(&id)?).await.map_err(of_sigfox)?))
}

/// Ids at Sigfox are hex; anything else names nothing there.
fn remote_id(id: &str) -> ApiResult<&str> {
    let is_hex = !id.is_empty() && id.len() <= 24 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex { Ok(id) } else { Err(ApiError::unknown_id()) }
}

/// What a body says of a device type, as Sigfox reads it.
fn device_type_draft(body: &Value) -> ApiResult<(String, Value)> {
    let mut form = Form::of(body);
    let name = form.checked_text("name", &[Rule::Min(1), Rule::Max(100)]);
    let contract = form.beyond(|form| form.text("contractId", &[Rule::Max(1024)]));
    let description = form.checked_text("description", &[Rule::Max(300)]);
    let keep_alive = form.beyond(|form| form.int_opt("keepAlive", Some(0), None));
    let alert_email = form.get("alertEmail").map(|_| form.checked_text("alertEmail", &[Rule::Email]));
    form.finish()?;
    let mut draft = json!({"name": name, "description": description, "contractId": contract});
    if let Some(keep_alive) = keep_alive {
        draft["keepAlive"] = json!(keep_alive);
    }
    if let Some(alert_email) = alert_email {
        draft["alertEmail"] = json!(alert_email);
    }
    Ok((name, draft))
}

/// Makes a device type at Sigfox.
#[utoipa::path(
    tag = "sigfox",
    params(("groupId" = i64, Query)),
    request_body = SigfoxDeviceTypeDraft,
    responses((status = 201, body = SigfoxId)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[post("/sigfox-device-type")]
async fn create_device_type(
    caller: Caller<ApplicationAdmin>,
    query: Query,
    state: State,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let (name, mut draft) = device_type_draft(&body)?;
    let group = group_of(&query, &state).await?;
    let permit = caller.write(Resource::Organization(group.organization.id))?;
    let defaults = json!({
        "groupId": group.sigfox_group_id,
        "downlinkMode": DOWNLINK_BY_CALLBACK,
        "downlinkDataString": null,
        "payloadType": PAYLOAD_AS_IT_IS,
        "payloadConfig": null,
        "automaticRenewal": true,
        "geolocPayloadConfigId": null,
    });
    view::extend(&mut draft, defaults);
    let id = state.ports.sigfox.create_device_type(&group.login, &draft).await.map_err(of_sigfox)?;
    let change = DeviceTypeChange { id: id.clone(), name, is_new: true, group: group.id };
    state.admin().record_device_type(&permit, &caller.changed_by, &change).await?;
    Ok(created(json!({"id": id})))
}

/// Changes a device type at Sigfox.
#[utoipa::path(
    tag = "sigfox",
    params(("id" = String, Path), ("groupId" = i64, Query)),
    request_body = SigfoxDeviceTypeDraft,
    responses((status = 204)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/sigfox-device-type/{id}")]
async fn update_device_type(
    caller: Caller<ApplicationAdmin>,
    id: web::Path<String>,
    query: Query,
    state: State,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let (name, draft) = device_type_draft(&body)?;
    let group = group_of(&query, &state).await?;
    let permit = caller.write(Resource::Organization(group.organization.id))?;
    let id = remote_id(&id)?;
    state.ports.sigfox.update_device_type(&group.login, id, &draft).await.map_err(of_sigfox)?;
    let change = DeviceTypeChange { id: id.to_owned(), name, is_new: false, group: group.id };
    state.admin().record_device_type(&permit, &caller.changed_by, &change).await?;
    Ok(HttpResponse::NoContent().finish())
}
