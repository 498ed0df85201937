//! LoRaWAN device profiles: `/chirpstack/device-profiles`. What is in one stands in ChirpStack, whose it is stands here, so that a
//! list is one statement and asks nobody else. Names are unique within an organisation, whatever their case.
//!
//! A caller sees the profiles of organisations in which he has a role, and those that were made in ChirpStack for everybody.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::AdminError;
use sluse_schema::port::admin::gateway::Organizations;
use sluse_schema::port::admin::lorawan::{FoundProfile, NetworkObject, ProfileRow};
use sluse_schema::port::network_server::NetworkProfile;
use utoipa_actix_web::service_config::ServiceConfig;

use super::gateways::settle_deletion;
use super::view;
use crate::authz::{ApplicationAdmin, Caller, Reader, Rule as CallerRule};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, created, deleted, ok};
use crate::network::error::refusal;
use crate::network::{self, DUE_IN_S, MADE_BY_TAG, ORGANIZATION_TAG};
use crate::openapi::{
    Deleted, Problem,
    lorawan::{DeviceProfileDraft, DeviceProfiles, NetworkId},
};
use crate::page::{PageQuery, Query};
use crate::validate::{Form, Rule};

type State = web::Data<AppState>;

const LIMIT_DEFAULT: i64 = 50;
const NAME_CHARS_MAX: usize = 1024;
/// LoRaWAN 1.1.0.
const MAC_VERSION_MAX: i64 = 5;
/// RP002-1.0.5 in ChirpStack; the web client knows up to 4.
const REVISION_MAX: i64 = 7;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create).service(list).service(adr_algorithms).service(read).service(update).service(delete);
}

fn resource_of(organization: Option<OrganizationId>) -> Resource {
    organization.map_or(Resource::Platform, Resource::Organization)
}

fn visible<R: CallerRule>(caller: &Caller<R>) -> Organizations {
    (!caller.principal.is_global_admin()).then(|| caller.principal.organizations())
}

/// Whether the caller may see and use a profile.
fn is_visible(of: &Organizations, row: &ProfileRow) -> bool {
    match (of, row.organization) {
        (None, _) | (_, None) => true,
        (Some(ids), Some(organization)) => ids.contains(&organization),
    }
}

/// Reads the `deviceProfile` of a body over `before`; what is wrong is noted in `form`.
fn read_profile(form: &mut Form<'_>, before: Option<&NetworkProfile>) -> Option<NetworkProfile> {
    let Some(nested) = form.get("deviceProfile").filter(|nested| nested.is_object()) else {
        form.fail("deviceProfile", "isDefined", "deviceProfile should not be null or undefined");
        return None;
    };
    let mut inner = Form::of(nested);
    let is_new = before.is_none();
    let old = before.cloned().unwrap_or_else(empty);
    // What the reference asks for under a condition of its own; without it a figure that is sent is read all the same.
    let number = |form: &mut Form<'_>, name: &str, is_needed: bool, before: u32| -> u32 {
        let number = if is_needed && (form.get(name).is_some() || is_new) {
            form.int_capped(name, Some(0), i64::from(u32::MAX))
        } else if form.get(name).is_some() {
            form.beyond(|form| form.int_capped(name, Some(0), i64::from(u32::MAX)))
        } else {
            return before;
        };
        u32::try_from(number).unwrap_or(0)
    };
    let flag =
        |form: &mut Form<'_>, name: &str, before: bool| form.beyond(|form| form.boolean_opt(name)).unwrap_or(before);
    let choice = |form: &mut Form<'_>, name: &str, max: i64| {
        form.checked_text(name, &[Rule::NotEmpty]);
        i32::try_from(form.beyond(|form| form.int(name, Some(0), Some(max)))).unwrap_or(0)
    };
    let name = inner.text("name", &[Rule::Length(1, NAME_CHARS_MAX)]);
    inner.beyond(|form| form.checked_text("name", &[Rule::NotBlank]));
    let mac_version = choice(&mut inner, "macVersion", MAC_VERSION_MAX);
    let reg_params_revision = choice(&mut inner, "regParamsRevision", REVISION_MAX);
    if is_new || inner.has("adrAlgorithmID") {
        inner.text("adrAlgorithmID", &[]);
    }
    let adr_algorithm = match inner.beyond(|form| form.text_opt("adrAlgorithmID", &[Rule::Max(100)])) {
        Some(text) if !text.is_empty() => text,
        _ => old.adr_algorithm.clone(),
    };
    let supports_class_b = flag(&mut inner, "supportsClassB", old.supports_class_b);
    let supports_class_c = flag(&mut inner, "supportsClassC", old.supports_class_c);
    let supports_join = flag(&mut inner, "supportsJoin", old.supports_join);
    let is_b = inner.is_truthy("supportsClassB").unwrap_or(old.supports_class_b);
    let is_abp = match inner.get("supportsJoin") {
        Some(said) => is_false(said),
        None => before.is_some_and(|before| !before.supports_join),
    };
    // In the reference's order, which is that of its answer.
    let class_b_timeout_s = number(&mut inner, "classBTimeout", is_b, old.class_b_timeout_s);
    let class_c_timeout_s = number(&mut inner, "classCTimeout", true, old.class_c_timeout_s);
    let profile = NetworkProfile {
        id: old.id,
        name,
        mac_version,
        reg_params_revision,
        adr_algorithm,
        supports_join,
        supports_class_b,
        supports_class_c,
        class_b_timeout_s,
        class_c_timeout_s,
        ping_slot_dr: number(&mut inner, "pingSlotDR", is_b, old.ping_slot_dr),
        ping_slot_frequency_hz: number(&mut inner, "pingSlotFreq", is_b, old.ping_slot_frequency_hz),
        ping_slot_period: number(&mut inner, "pingSlotPeriod", false, old.ping_slot_period),
        status_requests_per_day: number(&mut inner, "devStatusReqFreq", false, old.status_requests_per_day),
        rx1_dr_offset: number(&mut inner, "rxDROffset1", is_abp, old.rx1_dr_offset),
        rx2_dr: number(&mut inner, "rxDataRate2", is_abp, old.rx2_dr),
        rx1_delay: number(&mut inner, "rxDelay1", is_abp, old.rx1_delay),
        rx2_frequency_hz: number(&mut inner, "rxFreq2", is_abp, old.rx2_frequency_hz),
        tags: old.tags,
    };
    form.close_inside("deviceProfile", inner);
    Some(profile)
}

/// What JavaScript's `==` takes for `false`.
fn is_false(value: &Value) -> bool {
    match value {
        Value::Bool(is_true) => !is_true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty() || text.trim() == "0",
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn empty() -> NetworkProfile {
    NetworkProfile {
        id: String::new(),
        name: String::new(),
        mac_version: 0,
        reg_params_revision: 0,
        adr_algorithm: "default".to_owned(),
        supports_join: false,
        supports_class_b: false,
        supports_class_c: false,
        class_b_timeout_s: 0,
        ping_slot_period: 0,
        ping_slot_dr: 0,
        ping_slot_frequency_hz: 0,
        class_c_timeout_s: 0,
        status_requests_per_day: 0,
        rx1_delay: 0,
        rx1_dr_offset: 0,
        rx2_dr: 0,
        rx2_frequency_hz: 0,
        tags: [].into(),
    }
}

fn tag(profile: &mut NetworkProfile, organization: Option<OrganizationId>) {
    profile.tags.insert(MADE_BY_TAG.0.to_owned(), MADE_BY_TAG.1.to_owned());
    if let Some(organization) = organization {
        profile.tags.insert(ORGANIZATION_TAG.to_owned(), organization.to_string());
    }
}

async fn check_name(
    state: &AppState,
    organization: Option<OrganizationId>,
    name: &str,
    except: Option<&str>,
) -> ApiResult<()> {
    if state.admin().is_profile_name_taken(organization, name, except).await? {
        return Err(ApiError::bad_request(code::NAME_INVALID_OR_ALREADY_IN_USE));
    }
    Ok(())
}

/// Makes a device profile in ChirpStack.
#[utoipa::path(
    tag = "device-profile",
    request_body = DeviceProfileDraft,
    responses((status = 201, body = NetworkId)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[post("/chirpstack/device-profiles")]
async fn create(caller: Caller<ApplicationAdmin>, state: State, body: JsonBody) -> ApiResult {
    let mut form = Form::of(&body.0);
    let profile = read_profile(&mut form, None);
    let organization = OrganizationId(form.beyond(|form| form.id("internalOrganizationId", None)));
    form.finish()?;
    let mut profile = profile.ok_or_else(|| ApiError::bad_request(code::NOT_VALID_FORMAT))?;
    let permit = caller.write(Resource::Organization(organization))?;
    let server = state.network_needed()?;
    check_name(&state, Some(organization), &profile.name, None).await?;
    tag(&mut profile, Some(organization));
    let id = server.create_profile(&profile).await.map_err(refusal)?;
    // A crash here leaves a profile that the job finds by its tag and gives its row.
    let new = FoundProfile { network_id: id.clone(), organization: Some(organization), name: profile.name };
    if let Err(error) = state.admin().create_profile(&permit, &caller.changed_by, &new).await {
        if let Err(error) = server.delete_profile(&id).await {
            tracing::warn!(%error, profile = id, "a profile stays in chirpstack: the job gives it its row");
        }
        return Err(error.into());
    }
    Ok(created(json!({"id": id})))
}

fn shown_row(row: &ProfileRow) -> Value {
    json!({
        "id": row.network_id,
        "name": row.name,
        "createdAt": view::instant(row.stamps.created_at),
        "updatedAt": view::instant(row.stamps.updated_at),
        "internalOrganizationId": row.organization,
        "createdBy": row.stamps.created_by,
        "updatedBy": row.stamps.updated_by,
    })
}

/// A page of device profiles.
#[utoipa::path(
    tag = "device-profile",
    params(PageQuery),
    responses((status = 200, body = DeviceProfiles)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/chirpstack/device-profiles")]
async fn list(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    let mut page = query.page()?;
    if query.text("limit").is_none() {
        page.limit = LIMIT_DEFAULT;
    }
    let found = state.admin().profiles(&visible(&caller), &page).await?;
    let rows: Vec<Value> = found.rows.iter().map(shown_row).collect();
    Ok(ok(json!({"result": rows, "totalCount": found.num_all.to_string()})))
}

/// The algorithms by which ChirpStack adapts data rates.
#[utoipa::path(
    tag = "device-profile",
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/chirpstack/device-profiles/adr-algorithms")]
async fn adr_algorithms(_: Caller<Reader>, state: State) -> ApiResult {
    let known = match state.network() {
        Some(server) => server.adr_algorithms().await.map_err(refusal)?,
        None => Vec::new(),
    };
    let rows: Vec<Value> = known.iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
    Ok(ok(json!({"adrAlgorithms": rows})))
}

/// The row of a path's profile; one that may not be seen is not there.
async fn row_of_path<R: CallerRule>(
    caller: &Caller<R>,
    state: &AppState,
    request: &HttpRequest,
) -> ApiResult<ProfileRow> {
    let row = state.admin().profile(request.match_info().get("profile").unwrap_or("")).await?;
    if is_visible(&visible(caller), &row) { Ok(row) } else { Err(ApiError::unknown_id()) }
}

/// One device profile, as it stands in ChirpStack.
#[utoipa::path(
    tag = "device-profile",
    params(("profile" = String, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/chirpstack/device-profiles/{profile}")]
async fn read(caller: Caller<Reader>, state: State, request: HttpRequest) -> ApiResult {
    let row = row_of_path(&caller, &state, &request).await?;
    let profile = state.network_needed()?.profile(&row.network_id).await.map_err(refusal)?;
    let profile = profile.ok_or_else(ApiError::unknown_id)?;
    let shown = json!({
        "id": row.network_id,
        "name": profile.name,
        "macVersion": profile.mac_version,
        "regParamsRevision": profile.reg_params_revision,
        "adrAlgorithmID": profile.adr_algorithm,
        "supportsJoin": profile.supports_join,
        "supportsClassB": profile.supports_class_b,
        "supportsClassC": profile.supports_class_c,
        "classBTimeout": profile.class_b_timeout_s,
        "pingSlotPeriod": profile.ping_slot_period,
        "pingSlotDR": profile.ping_slot_dr,
        "pingSlotFreq": profile.ping_slot_frequency_hz,
        "classCTimeout": profile.class_c_timeout_s,
        "devStatusReqFreq": profile.status_requests_per_day,
        "rxDelay1": profile.rx1_delay,
        "rxDROffset1": profile.rx1_dr_offset,
        "rxDataRate2": profile.rx2_dr,
        "rxFreq2": profile.rx2_frequency_hz,
        "rfRegion": "EU868",
        "tagsMap": [],
        "internalOrganizationId": row.organization,
        "createdBy": row.stamps.created_by,
        "updatedBy": row.stamps.updated_by,
    });
    Ok(ok(json!({
        "deviceProfile": shown,
        "createdAt": view::instant(row.stamps.created_at),
        "updatedAt": view::instant(row.stamps.updated_at),
        "internalOrganizationId": row.organization,
    })))
}

/// Changes a device profile in ChirpStack.
#[utoipa::path(
    tag = "device-profile",
    params(("profile" = String, Path)),
    request_body = DeviceProfileDraft,
    responses((status = 204)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/chirpstack/device-profiles/{profile}")]
async fn update(caller: Caller<ApplicationAdmin>, state: State, request: HttpRequest, body: JsonBody) -> ApiResult {
    let row = row_of_path(&caller, &state, &request).await?;
    let permit = caller.write(resource_of(row.organization))?;
    let (admin, server) = (state.admin(), state.network_needed()?);
    let before = server.profile(&row.network_id).await.map_err(refusal)?.ok_or_else(ApiError::unknown_id)?;
    let mut form = Form::of(&body.0);
    let profile = read_profile(&mut form, Some(&before));
    form.finish()?;
    let mut profile = profile.ok_or_else(|| ApiError::bad_request(code::NOT_VALID_FORMAT))?;
    // Whose it is to be stands in either place; said nowhere, it stays whose it is.
    let sent = body.0.pointer("/deviceProfile/internalOrganizationId").or_else(|| body.0.get("internalOrganizationId"));
    let organization = sent.and_then(crate::validate::as_int).map(OrganizationId).or(row.organization);
    let target = if organization == row.organization { None } else { Some(caller.write(resource_of(organization))?) };
    check_name(&state, organization, &profile.name, Some(&row.network_id)).await?;
    profile.id.clone_from(&row.network_id);
    tag(&mut profile, organization);
    let task = admin.note_network_task(NetworkObject::Profile, &row.network_id, DUE_IN_S).await?;
    if let Err(error) = server.update_profile(&profile).await {
        if network::is_untouched(&error) {
            network::finish(admin, &task).await;
        }
        return Err(refusal(error));
    }
    let changed = FoundProfile { network_id: row.network_id, organization, name: profile.name };
    match admin.update_profile(&permit, target.as_ref(), &caller.changed_by, &changed).await {
        Ok(_) => {
            network::finish(admin, &task).await;
            Ok(HttpResponse::NoContent().finish())
        }
        Err(error) => {
            network::settle(admin, server, &task).await;
            Err(error.into())
        }
    }
}

/// Deletes a device profile that no device has.
#[utoipa::path(
    tag = "device-profile",
    params(("profile" = String, Path)),
    responses((status = 200, body = Deleted), (status = 409, description = "devices have it", body = Problem)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[delete("/chirpstack/device-profiles/{profile}")]
async fn delete(caller: Caller<ApplicationAdmin>, state: State, request: HttpRequest) -> ApiResult {
    let missing = |error: ApiError| match error.status() {
        StatusCode::NOT_FOUND => ApiError::bare(StatusCode::NOT_FOUND),
        _ => error,
    };
    let row = row_of_path(&caller, &state, &request).await.map_err(missing)?;
    let permit = caller.write(resource_of(row.organization))?;
    let in_use = || ApiError::new(StatusCode::CONFLICT, code::DELETE_NOT_ALLOWED_HAS_LORAWAN_DEVICE);
    match state.admin().delete_profile(&permit, &caller.changed_by, &row.network_id).await {
        Ok(num) => {
            settle_deletion(&state, NetworkObject::Profile, &row.network_id).await;
            Ok(deleted(num))
        }
        Err(AdminError::InUse(_)) => Err(in_use()),
        Err(error) => Err(error.into()),
    }
}

/// A profile that devices of an organisation may have.
pub(super) async fn usable(state: &AppState, id: &str, organization: OrganizationId) -> ApiResult<Option<ProfileRow>> {
    match state.admin().profile(id).await {
        Ok(row) => Ok(is_visible(&Some(vec![organization]), &row).then_some(row)),
        Err(AdminError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
