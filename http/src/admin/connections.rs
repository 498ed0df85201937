//! Connections: `/iot-device-payload-decoder-data-target-connection`. Devices and target are in one application, which the caller
//! has to administer; a decoder may be anybody's, as in the reference.
//!
//! Limits: 10 000 devices per connection; an answer names at most 50 000, a list that would be longer is refused: ask for less.

use actix_web::{delete, get, post, put};
use std::collections::{BTreeMap, BTreeSet};
use utoipa_actix_web::service_config::ServiceConfig;

use actix_web::web;
use serde_json::{Value, json};
use sluse_schema::id::{ApplicationId, ConnectionId, DecoderId, DeviceId, TargetId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::connection::{ConnectionFields, ConnectionFilter, ConnectionRow, NUM_DEVICES_MAX};
use sluse_schema::port::admin::decoder::DecoderRow;
use sluse_schema::port::admin::device::DeviceRow;
use sluse_schema::port::admin::target::TargetRow;
use sluse_schema::port::admin::{AdminError, AdminStore, Page};

use super::access::{InApplication, Referred};
use super::mask::Secrets;
use super::{decoders, device_shape, targets, view};
use crate::authz::{ApplicationAdmin, Caller, Reader};
use crate::config::PAGE_LIMIT_MAX;
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok};
use crate::openapi::{
    Deleted, Listed,
    targets::{Connection, ConnectionDraft, CopiedDevice},
};
use crate::page::{PageQuery, Query};
use crate::validate::{Form, as_int, as_javascript_text};

type State = web::Data<AppState>;

const NUM_DEVICES_SHOWN_MAX: usize = 50_000;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list)
        .service(create)
        .service(of_device)
        .service(of_target)
        .service(of_decoder)
        .service(append_device)
        .service(read)
        .service(update)
        .service(delete);
}

fn unknown(id: i64) -> ApiError {
    ApiError::not_found(format!("Could not find IoTDevicePayloadDecoderDataTargetConnection by id: {id}"))
}

/// What the connections of one answer refer to, each loaded once.
struct Parts {
    devices: BTreeMap<DeviceId, DeviceRow>,
    targets: BTreeMap<TargetId, TargetRow>,
    decoders: BTreeMap<DecoderId, DecoderRow>,
    referred: Referred,
}

impl Parts {
    async fn load(admin: &dyn AdminStore, rows: &[ConnectionRow]) -> ApiResult<Self> {
        if rows.iter().map(|row| row.fields.devices.len()).sum::<usize>() > NUM_DEVICES_SHOWN_MAX {
            let text =
                format!("these connections name more than {NUM_DEVICES_SHOWN_MAX} devices: ask for a smaller page");
            return Err(ApiError::bad_request(text));
        }
        let devices: BTreeSet<_> = rows.iter().flat_map(|row| row.fields.devices.iter().copied()).collect();
        let targets: BTreeSet<_> = rows.iter().map(|row| row.fields.target).collect();
        let decoders: BTreeSet<_> = rows.iter().filter_map(|row| row.fields.decoder).collect();
        let devices = admin.devices_by_id(&devices.into_iter().collect::<Vec<_>>()).await?;
        let targets = admin.targets_by_id(&targets.into_iter().collect::<Vec<_>>()).await?;
        let decoders = admin.decoders_by_id(&decoders.into_iter().collect::<Vec<_>>()).await?;
        let applications = rows.iter().map(|row| row.application);
        let organizations = decoders.iter().map(|row| row.fields.organization);
        Ok(Self {
            referred: Referred::load(admin, applications, organizations).await?,
            devices: devices.into_iter().map(|row| (row.id, row)).collect(),
            targets: targets.into_iter().map(|row| (row.id, row)).collect(),
            decoders: decoders.into_iter().map(|row| (row.id, row)).collect(),
        })
    }

    /// One connection with all that it joins. Devices come newest first.
    fn shown(&self, row: &ConnectionRow) -> Value {
        let devices: Vec<Value> = row
            .fields
            .devices
            .iter()
            .rev()
            .filter_map(|id| self.devices.get(id))
            // One that left meanwhile belongs to whoever it went to.
            .filter(|device| device.fields.application == row.application)
            .map(|device| {
                let mut shown = device_shape::device(device);
                shown["application"] = self.referred.application(device.fields.application);
                shown
            })
            .collect();
        let target = self.targets.get(&row.fields.target);
        let decoder = row.fields.decoder.and_then(|id| self.decoders.get(&id));
        let fields = json!({
            "iotDevices": devices,
            "payloadDecoder": decoder.map(|row| decoders::decoder_detail(row, &self.referred)),
            "dataTarget": target.map(|row| targets::target_detail(row, &self.referred, Secrets::Masked)),
        });
        view::base(row.id.0, &row.stamps, fields)
    }
}

async fn detail(admin: &dyn AdminStore, row: &ConnectionRow) -> ApiResult<Value> {
    let parts = Parts::load(admin, std::slice::from_ref(row)).await?;
    Ok(view::with_authors(parts.shown(row), &row.stamps))
}

async fn page_of(caller: Caller<Reader>, state: State, filter: ConnectionFilter, page: Page) -> ApiResult {
    let admin = state.admin();
    let mut found = admin.connections(filter, &caller.principal.visible_applications(), &page).await?;
    if let ConnectionFilter::OfDevice(device) = filter {
        // The reference joins only the device that is asked for.
        found.rows.iter_mut().for_each(|row| row.fields.devices.retain(|id| *id == device));
    }
    let parts = Parts::load(admin, &found.rows).await?;
    let rows = found.rows.iter().map(|row| parts.shown(row)).collect();
    Ok(listed(rows, found.num_all))
}

/// Connections between devices, decoders and data targets.
#[utoipa::path(
    tag = "connection",
    params(PageQuery),
    responses((status = 200, body = Listed<Connection>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device-payload-decoder-data-target-connection")]
async fn list(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    page_of(caller, state, ConnectionFilter::All, query.page()?).await
}

/// Connections of a device.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<Connection>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device-payload-decoder-data-target-connection/byIoTDevice/{id}")]
async fn of_device(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    page_of(caller, state, ConnectionFilter::OfDevice(DeviceId(id.of_list()?)), Page::first(PAGE_LIMIT_MAX)).await
}

/// Connections of a data target.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<Connection>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device-payload-decoder-data-target-connection/byDataTarget/{id}")]
async fn of_target(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    page_of(caller, state, ConnectionFilter::OfTarget(TargetId(id.of_list()?)), Page::first(PAGE_LIMIT_MAX)).await
}

/// Connections through a payload decoder.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<Connection>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device-payload-decoder-data-target-connection/byPayloadDecoder/{id}")]
async fn of_decoder(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    page_of(caller, state, ConnectionFilter::OfDecoder(DecoderId(id.of_list()?)), Page::first(PAGE_LIMIT_MAX)).await
}

/// One connection.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    responses((status = 200, body = Connection)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device-payload-decoder-data-target-connection/{id}")]
async fn read(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = one(state.admin(), id).await?;
    caller.read(row.resource())?;
    Ok(ok(detail(state.admin(), &row).await?))
}

async fn one(admin: &dyn AdminStore, id: PathId) -> ApiResult<ConnectionRow> {
    match admin.connection(ConnectionId(id.0)).await {
        Err(AdminError::NotFound) => Err(unknown(id.0)),
        other => Ok(other?),
    }
}

/// Reads a body and looks everything up that it names, with a permit for the one application that all of it is in.
async fn read_body(
    caller: &Caller<ApplicationAdmin>,
    admin: &dyn AdminStore,
    body: &Value,
) -> ApiResult<(Permit, ConnectionFields)> {
    let mut form = Form::of(body);
    let devices = form.beyond(|form| form.ids_opt("iotDeviceIds")).unwrap_or_default();
    let devices: Vec<DeviceId> = devices.into_iter().map(DeviceId).collect();
    let target = TargetId(form.id("dataTargetId", None));
    let decoder = form.get("payloadDecoderId");
    if devices.len() > NUM_DEVICES_MAX {
        let text = format!("iotDeviceIds must contain no more than {NUM_DEVICES_MAX} elements");
        form.fail("iotDeviceIds", "arrayMaxSize", text);
    }
    form.finish()?;
    let rows = admin.devices_by_id(&devices).await?;
    if rows.is_empty() {
        return Err(ApiError::bad_request("Must contain at least one IoTDevice"));
    }
    // Who may not change one of them learns nothing of the rest.
    let resources: BTreeMap<ApplicationId, Resource> =
        rows.iter().map(|row| (row.fields.application, row.resource())).collect();
    for resource in resources.values() {
        caller.write(resource.clone())?;
    }
    if let Some(missing) = devices.iter().find(|id| rows.binary_search_by_key(*id, |row| row.id).is_err()) {
        return Err(ApiError::bad_request(format!("Could not find IoTDevice by id: '{missing}'")));
    }
    let target_row = match admin.target(target).await {
        Err(AdminError::NotFound) => {
            return Err(ApiError::bad_request(format!("Could not find DataTarget by id: '{target}'")));
        }
        other => other?,
    };
    let decoder = match decoder {
        None => None,
        Some(sent) => match as_int(sent).map(DecoderId) {
            Some(id) if !admin.decoders_by_id(&[id]).await?.is_empty() => Some(id),
            _ => {
                let id = as_javascript_text(sent);
                return Err(ApiError::bad_request(format!("Could not find PayloadDecoder by id: '{id}'")));
            }
        },
    };
    if resources.keys().any(|application| *application != target_row.fields.application) {
        return Err(ApiError::bad_request(code::NOT_SAME_APPLICATION));
    }
    let permit = caller.write(target_row.resource())?;
    Ok((permit, ConnectionFields { target, decoder, devices }))
}

/// Connects devices with a data target, through a decoder or without.
#[utoipa::path(
    tag = "connection",
    request_body = ConnectionDraft,
    responses((status = 201, body = Connection)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[post("/iot-device-payload-decoder-data-target-connection")]
async fn create(caller: Caller<ApplicationAdmin>, state: State, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let (permit, fields) = read_body(&caller, admin, &body.0).await?;
    let row = admin.create_connection(&permit, &caller.changed_by, &fields).await?;
    Ok(created(detail(admin, &row).await?))
}

/// Changes a connection.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    request_body = ConnectionDraft,
    responses((status = 200, body = Connection)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/iot-device-payload-decoder-data-target-connection/{id}")]
async fn update(caller: Caller<ApplicationAdmin>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let stored = one(admin, id).await?;
    let permit = caller.write(stored.resource())?;
    let (target_permit, fields) = read_body(&caller, admin, &body.0).await?;
    let row = admin.update_connection(&permit, Some(&target_permit), &caller.changed_by, stored.id, &fields).await?;
    Ok(ok(detail(admin, &row).await?))
}

/// Adds a device that was copied from one of this connection.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    request_body = CopiedDevice,
    responses((status = 200, body = Connection)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/iot-device-payload-decoder-data-target-connection/appendCopiedDevice/{id}")]
async fn append_device(caller: Caller<ApplicationAdmin>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let mut form = Form::of(&body.0);
    let device = DeviceId(form.id("deviceId", Some(1)));
    form.finish()?;
    let stored = one(admin, id).await?;
    let permit = caller.write(stored.resource())?;
    let row = admin.device(device).await?;
    caller.write(row.resource())?;
    if row.fields.application != stored.application {
        return Err(ApiError::bad_request(code::NOT_SAME_APPLICATION));
    }
    let row = admin.append_device(&permit, &caller.changed_by, stored.id, device).await?;
    Ok(ok(detail(admin, &row).await?))
}

/// Removes a connection; what was accepted before is still delivered.
#[utoipa::path(
    tag = "connection",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[delete("/iot-device-payload-decoder-data-target-connection/{id}")]
async fn delete(caller: Caller<ApplicationAdmin>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let stored = one(admin, id).await?;
    let permit = caller.write(stored.resource())?;
    Ok(deleted(admin.delete_connection(&permit, &caller.changed_by, stored.id).await?))
}
