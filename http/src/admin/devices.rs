//! IoT devices: `/iot-device`. Radio devices stand in the network server too ([`super::lorawan_devices`], [`super::downlinks`]).
//!
//! `GET /iot-device/:id` adds to the reference: `linkState` (battery, margin, last join …), `counters`, signal figures per
//! transmission.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::device::{DeviceFields, DeviceRow, DeviceType, NewRoute};
use sluse_schema::port::admin::{AdminError, AdminStore, ChangedBy};
use sluse_schema::secret::Secret;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::{self, InApplication, Referred, may_write};
use super::device_input::{self, DeviceInput};
use super::device_shape::OTAA_KEY;
use super::lorawan_devices::{self, Writing};
use super::mask::Secrets;
use super::{device_batch, device_csv, device_remote, device_shape, downlinks, sigfox_downlink, view};
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok, uncached};
use crate::openapi::{
    Deleted, Listed,
    devices::{Device, DeviceDetail, DeviceDraft, DeviceKey, DeviceMove, DownlinkDraft},
};
use crate::page::{PageQuery, Query};
use crate::validate::{Form, as_int};

type State = web::Data<AppState>;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create)
        .service(device_batch::create_many)
        .service(device_batch::update_many)
        .service(change_application)
        .service(reset_api_key)
        .service(device_csv::read)
        .service(of_decoder)
        .service(stats)
        .service(read)
        .service(update)
        .service(delete)
        .service(waiting_downlinks)
        .service(send_downlink)
        .service(sent_downlinks)
        .service(flush_downlinks);
}

/// Errors about one device have a body of their own: `{"message": code}`.
pub fn device_error(code: &str) -> ApiError {
    ApiError::raw(StatusCode::BAD_REQUEST, json!({"message": code}))
}

/// What went wrong in the store with one device, as the reference says it.
pub fn of_store(error: AdminError) -> ApiError {
    match error {
        AdminError::Taken(_) => device_error(code::ID_INVALID_OR_ALREADY_IN_USE),
        AdminError::BadReference("application") => device_error(code::APPLICATION_DOES_NOT_EXIST),
        AdminError::BadReference("device model") => device_error(code::DEVICE_MODEL_DOES_NOT_EXIST),
        AdminError::BadReference(_) | AdminError::InUse(_) => device_error(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE),
        other => other.into(),
    }
}

/// A new API key, which is also what the device is found by.
pub fn new_api_key() -> Secret {
    Secret::new(uuid::Uuid::new_v4().to_string())
}

/// Where a device is to be, for who may write there. Asked before anything else: who may not learns nothing of what is there.
pub async fn place(
    caller: &Caller<Reader>,
    admin: &dyn AdminStore,
    application: ApplicationId,
) -> ApiResult<(OrganizationId, Permit)> {
    let missing = || device_error(code::APPLICATION_DOES_NOT_EXIST);
    access::application_to_write(caller, admin, application, missing).await
}

/// A device's model has to belong to the organisation that the device is in.
async fn check_model(admin: &dyn AdminStore, organization: OrganizationId, model: Option<i64>) -> ApiResult<()> {
    let Some(model) = model else { return Ok(()) };
    match admin.device_model(model).await {
        Ok(model) if model.organization.id == organization => Ok(()),
        Ok(_) => Err(device_error(code::DEVICE_MODEL_ORGANIZATION_DOES_NOT_MATCH)),
        Err(AdminError::NotFound) => Err(device_error(code::DEVICE_MODEL_DOES_NOT_EXIST)),
        Err(error) => Err(error.into()),
    }
}

/// A device as the answers to its creation and change show it.
pub async fn shown(admin: &dyn AdminStore, row: &DeviceRow) -> ApiResult<Value> {
    let referred = Referred::load(admin, [row.fields.application], []).await?;
    // Only who may change it made or changed it.
    let mut shown = device_shape::device_with_authors(row, Secrets::Clear);
    shown["application"] = referred.application(row.fields.application);
    shown["deviceModel"] = model_of(admin, row).await?;
    Ok(shown)
}

async fn model_of(admin: &dyn AdminStore, row: &DeviceRow) -> ApiResult<Value> {
    let Some(id) = row.fields.device_model else { return Ok(Value::Null) };
    match admin.device_model(id).await {
        Ok(model) => {
            let mut shown = view::with_authors(view::device_model(&model), &model.stamps);
            shown["belongsTo"] = view::organization(&model.organization);
            Ok(shown)
        }
        Err(AdminError::NotFound) => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

/// How a device of this type is written when the network server has to hold it too.
fn writing<'a>(state: &'a AppState, by: &'a ChangedBy, kind: DeviceType) -> Option<Writing<'a>> {
    let server = state.network().filter(|_| kind == DeviceType::Lorawan)?;
    Some(Writing { state, server, by })
}

/// Creates a device.
#[utoipa::path(
    tag = "iot-device",
    request_body = DeviceDraft,
    responses((status = 201, body = Device)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/iot-device")]
async fn create(caller: Caller<Reader>, state: State, body: JsonBody) -> ApiResult {
    let mut form = Form::of(&body.0);
    let input = device_input::read(&mut form, None);
    form.finish()?;
    let input = input.ok_or_else(|| device_error(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE))?;
    let row = create_one(&caller, &state, input).await?;
    let mut answer = shown(state.admin(), &row).await?;
    if let Some(sent) = row.fields.secrets.get(OTAA_KEY) {
        // Whoever sent it is told what was stored.
        answer[OTAA_KEY] = sent.reveal().into();
    }
    Ok(uncached(created(answer)))
}

/// Creates one device that was read without errors.
pub async fn create_one(caller: &Caller<Reader>, state: &AppState, input: DeviceInput) -> ApiResult<DeviceRow> {
    let admin = state.admin();
    let (organization, permit) = place(caller, admin, input.application).await?;
    check_model(admin, organization, input.device_model()).await?;
    let fields = device_remote::prepare(state, organization, None, input.into_new(new_api_key)).await?;
    match writing(state, &caller.changed_by, fields.kind) {
        Some(writing) => writing.create(&permit, fields).await,
        None => admin.create_device(&permit, &caller.changed_by, &fields).await.map_err(of_store),
    }
}

/// Changes a device.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    request_body = DeviceDraft,
    responses((status = 200, body = Device)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/iot-device/{id}")]
async fn update(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let stored = match admin.device(DeviceId(id.0)).await {
        Ok(row) => Some(row),
        Err(AdminError::NotFound) => None,
        Err(error) => return Err(error.into()),
    };
    // Whether a secret may be missing is known only against the stored device, and told only to whoever may change it.
    let known = stored.as_ref().filter(|row| may_write(&caller.principal, row.resource()));
    let mut form = Form::of(&body.0);
    form.id("id", Some(1));
    let input = device_input::read(&mut form, known.map(|row| &row.fields));
    form.finish()?;
    let stored = stored.ok_or_else(|| ApiError::bare(StatusCode::NOT_FOUND))?;
    let input = input.ok_or_else(|| device_error(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE))?;
    let hide = input.clone();
    let row = update_one(&caller, &state, &stored, input).await?;
    let mut answer = shown(admin, &row).await?;
    hide.hide_unsent(&mut answer);
    Ok(uncached(ok(answer)))
}

/// Changes one device by what was read against it without errors.
pub async fn update_one(
    caller: &Caller<Reader>,
    state: &AppState,
    stored: &DeviceRow,
    input: DeviceInput,
) -> ApiResult<DeviceRow> {
    let admin = state.admin();
    let permit = caller.write(stored.resource())?;
    let (organization, target_permit) = place(caller, admin, input.application).await?;
    if input.kind != stored.fields.kind {
        return Err(device_error(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE));
    }
    check_model(admin, organization, input.device_model()).await?;
    let fields = input.into_changed(&stored.fields);
    let fields = device_remote::prepare(state, organization, Some(&stored.fields), fields).await?;
    if let Some(writing) = writing(state, &caller.changed_by, fields.kind) {
        return writing.update(&permit, &target_permit, stored, fields).await;
    }
    admin.update_device(&permit, Some(&target_permit), &caller.changed_by, stored.id, &fields).await.map_err(of_store)
}

/// One device with its latest payload and the window of its last transmissions.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = DeviceDetail)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/{id}")]
async fn read(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let row = admin.device(DeviceId(id.0)).await?;
    caller.read(row.resource())?;
    let device_state = admin.device_state(row.id).await?;
    let referred = Referred::load(admin, [row.fields.application], [row.organization]).await?;
    let secrets = match caller.write(row.resource()) {
        Ok(permit) if device_shape::has_secrets(&row) => {
            admin.record_reveal(&permit, &caller.changed_by, ChangedEntity::Device, &[row.id.0]).await?;
            Secrets::Clear
        }
        _ => Secrets::Masked,
    };
    let mut shown = device_shape::device_with_authors(&row, secrets);
    let mut application = referred.application(row.fields.application);
    application["belongsTo"] = referred.organization(row.organization);
    shown["application"] = application;
    shown["deviceModel"] = model_of(admin, &row).await?;
    if let Some((name, mut settings)) = device_shape::settings(&row, secrets) {
        if row.fields.kind == DeviceType::Lorawan {
            lorawan_devices::enrich(&state, &row, device_state.as_ref(), &mut settings).await;
        }
        shown[name] = settings;
    }
    let latest = device_state.as_ref().and_then(|s| s.latest.as_ref());
    shown["latestReceivedMessage"] = latest.map_or(Value::Null, |l| device_shape::latest_message(row.id.0, l));
    let window = device_state.as_ref().map_or(&[][..], |s| &s.transmissions);
    shown["receivedMessagesMetadata"] = device_shape::transmissions(window).into();
    if let Some(device_state) = &device_state {
        let (link, counters) = device_shape::link_and_counters(device_state);
        shown["linkState"] = link;
        shown["counters"] = counters;
    }
    Ok(ok(shown))
}

/// Deletes a device.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[delete("/iot-device/{id}")]
async fn delete(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let gone = || ApiError::bare(StatusCode::NOT_FOUND);
    let row = match admin.device(DeviceId(id.0)).await {
        Err(AdminError::NotFound) => return Err(gone()),
        other => other?,
    };
    let permit = caller.write(row.resource())?;
    match admin.delete_device(&permit, &caller.changed_by, row.id).await {
        Err(AdminError::NotFound) => Err(gone()),
        other => {
            let num = other?;
            lorawan_devices::deleted(&state, &row).await;
            Ok(deleted(num))
        }
    }
}

/// Replaces the key an HTTP device sends with.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = DeviceKey)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/iot-device/resetHttpDeviceApiKey/{id}")]
async fn reset_api_key(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let row = admin.device(DeviceId(id.0)).await?;
    let permit = caller.write(row.resource())?;
    if row.fields.kind != DeviceType::GenericHttp {
        return Err(ApiError::bad_request("The requested device is not a generic HTTP device"));
    }
    let api_key = new_api_key();
    let shown = api_key.reveal().to_owned();
    let fields = DeviceFields { api_key: Some(api_key), ..row.fields };
    admin.update_device(&permit, None, &caller.changed_by, row.id, &fields).await.map_err(of_store)?;
    Ok(ok(json!({"apiKey": shown})))
}

/// Moves a device to another application, which ends its connections, and makes those that the body asks for.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    request_body = DeviceMove,
    responses((status = 200, body = Device)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/iot-device/changeApplication/{id}")]
async fn change_application(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let row = known(admin, id).await?;
    let permit = caller.write(row.resource())?;
    if row.fields.kind == DeviceType::Sigfox {
        return Err(ApiError::bad_request(code::NOT_VALID_FORMAT));
    }
    let mut form = Form::of(&body.0);
    let application = ApplicationId(form.id("applicationId", Some(1)));
    let device_model = form.id_opt("deviceModelId");
    form.finish()?;
    let routes = read_routes(body.0.get("dataTargetToPayloadDecoderIds"))?;
    let (organization, target_permit) = place(&caller, admin, application).await?;
    check_model(admin, organization, device_model).await?;
    let fields = DeviceFields { application, device_model, ..row.fields.clone() };
    let row = match writing(&state, &caller.changed_by, fields.kind) {
        Some(writing) => writing.relocate(&permit, &target_permit, &row, fields, &routes).await?,
        None => admin
            .move_device(&permit, &target_permit, &caller.changed_by, row.id, &fields, &routes)
            .await
            .map_err(of_store)?,
    };
    Ok(ok(shown(admin, &row).await?))
}

const NUM_ROUTES_MAX: usize = 100;

fn read_routes(sent: Option<&Value>) -> ApiResult<Vec<NewRoute>> {
    let items = sent.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if items.len() > NUM_ROUTES_MAX {
        return Err(ApiError::bad_request(format!("at most {NUM_ROUTES_MAX} connections can be made at once")));
    }
    items
        .iter()
        .map(|item| {
            let id = |name: &str| item.get(name).and_then(as_int);
            let target = id("dataTargetId").ok_or_else(|| ApiError::bad_request(code::ID_MISSING_FROM_REQUEST))?;
            Ok(NewRoute { target: TargetId(target), decoder: id("payloadDecoderId").map(DecoderId) })
        })
        .collect()
}

/// The visible devices that a decoder decodes for, with no more than their names.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = Listed<Value>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/minimalByPayloadDecoder/{id}")]
async fn of_decoder(caller: Caller<Reader>, state: State, id: PathId, query: Query) -> ApiResult {
    let mut page = query.page()?;
    if query.text("limit").is_none() {
        page.limit = 20;
    }
    let visible = caller.principal.visible_applications();
    let found = state.admin().devices_of_decoder(DecoderId(id.of_list()?), &visible, &page).await?;
    let rows = found
        .rows
        .iter()
        .map(|device| {
            json!({
                "id": device.id,
                "name": device.name,
                "lastActiveTime": view::instant_opt(device.last_active_at),
                "organizationId": device.organization,
                "applicationId": device.application,
                "canRead": true,
            })
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Statistics come from the network server of a radio device; no other device has any.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, description = "empty for a device without a radio", body = Vec<Value>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/stats/{id}")]
async fn stats(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = state.admin().device(DeviceId(id.0)).await?;
    caller.read(row.resource())?;
    match row.fields.kind {
        DeviceType::Lorawan => Ok(ok(lorawan_devices::stats(&state, &row).await)),
        DeviceType::Sigfox => {
            let stored = state.admin().device_state(row.id).await?;
            Ok(ok(sigfox_downlink::daily_signal(stored.as_ref().map_or(&[][..], |s| &s.transmissions))))
        }
        _ => Ok(HttpResponse::Ok().finish()),
    }
}

/// What waits to be sent to a device.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/{id}/downlink")]
async fn waiting_downlinks(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = state.admin().device(DeviceId(id.0)).await?;
    caller.read(row.resource())?;
    match row.fields.kind {
        DeviceType::Lorawan => downlinks::waiting(&state, &row).await,
        DeviceType::Sigfox => Ok(ok(sigfox_downlink::queue(&row))),
        _ => Err(ApiError::bad_request(code::ONLY_ALLOWED_FOR_LORAWAN_AND_SIGFOX)),
    }
}

/// Downlinks that were sent, newest first.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/{id}/historicalDownlink")]
async fn sent_downlinks(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = state.admin().device(DeviceId(id.0)).await?;
    caller.read(row.resource())?;
    match row.fields.kind {
        DeviceType::Lorawan => downlinks::sent(&state, &row).await,
        DeviceType::Sigfox => Ok(ok(sigfox_downlink::queue(&row))),
        // Nothing was ever sent to it.
        _ => Ok(ok(json!([]))),
    }
}

/// A device that is to change: one that is not there is refused without a word.
async fn known(admin: &dyn AdminStore, id: PathId) -> ApiResult<DeviceRow> {
    match admin.device(DeviceId(id.0)).await {
        Err(AdminError::NotFound) => Err(ApiError::bare(StatusCode::NOT_FOUND)),
        other => Ok(other?),
    }
}

/// Queues a downlink.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    request_body = DownlinkDraft,
    responses((status = 201)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/iot-device/{id}/downlink")]
async fn send_downlink(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let row = known(state.admin(), id).await?;
    match row.fields.kind {
        DeviceType::Lorawan => {
            let permit = caller.write(row.resource())?;
            downlinks::send(&state, &permit, &caller.changed_by, &row, &body.0).await
        }
        DeviceType::Sigfox => sigfox_downlink::set(&caller, &state, row, &body.0).await,
        _ => {
            caller.write(row.resource())?;
            let mut form = Form::of(&body.0);
            downlinks::check_data(&mut form);
            form.finish()?;
            Err(ApiError::bad_request(code::DOWNLINK_NOT_SUPPORTED_FOR_DEVICE_TYPE))
        }
    }
}

/// Empties the queue of downlinks.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 201)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/iot-device/{id}/flushDownlinkQueue")]
async fn flush_downlinks(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = known(state.admin(), id).await?;
    let permit = caller.write(row.resource())?;
    match row.fields.kind {
        DeviceType::Lorawan => downlinks::flush(&state, &permit, &caller.changed_by, &row).await,
        _ => Err(ApiError::bad_request(code::DOWNLINK_NOT_SUPPORTED_FOR_DEVICE_TYPE)),
    }
}
