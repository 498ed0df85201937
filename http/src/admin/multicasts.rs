//! Multicast groups: `/multicast`. A group stands in ChirpStack once it has devices, all of its own application.
//!
//! Decided here, unlike the reference: of the device objects that a client sends, only the ids count; a change adds and removes
//! devices in ChirpStack too; keys are shown to whoever may change the group.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{delete, get, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, DeviceId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::AdminError;
use sluse_schema::port::admin::device::{DeviceRow, DeviceType};
use sluse_schema::port::admin::lorawan::{MulticastFields, MulticastRow, NetworkObject};
use sluse_schema::secret::Secret;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::{self, Referred};
use super::device_shape::{self, APPLICATION_SESSION_KEY, NETWORK_SESSION_KEY};
use super::downlinks;
use super::gateways::settle_deletion;
use super::mask::{Secrets, means_keep, merged};
use super::view;
use crate::authz::{ApplicationAdmin, Caller, Reader, Rule as CallerRule};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok, uncached};
use crate::network::align::{network_multicast, push_members};
use crate::network::error::refusal;
use crate::network::{self, DUE_IN_S};
use crate::openapi::{
    Deleted, Listed,
    lorawan::{MulticastDownlink, MulticastDraft},
};
use crate::page::{PageQuery, Query};
use crate::validate::{Form, Rule, as_int};

type State = web::Data<AppState>;

/// Devices of one group.
const NUM_DEVICES_MAX: usize = 1000;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create).service(list).service(read).service(update).service(delete).service(queue).service(send);
}

fn resource(row: &MulticastRow) -> Resource {
    Resource::Application { application: row.fields.application, organization: row.organization }
}

/// A group as lists show it; the definition has the group's own id.
fn shown(row: &MulticastRow, application: Value, secrets: Secrets) -> Value {
    let fields = &row.fields;
    let definition = json!({
        "address": fields.address,
        "networkSessionKey": secrets.shown(fields.secrets.get(NETWORK_SESSION_KEY)),
        "applicationSessionKey": secrets.shown(fields.secrets.get(APPLICATION_SESSION_KEY)),
        "frameCounter": fields.frame_counter,
        "dataRate": fields.data_rate,
        "frequency": fields.frequency_hz,
        "groupType": fields.group_type,
        "chirpstackGroupId": row.network_id,
    });
    let definition = view::base(row.id, &row.stamps, definition);
    let fields = json!({
        "groupName": fields.name,
        "application": application,
        "lorawanMulticastDefinition": definition,
    });
    view::base(row.id, &row.stamps, fields)
}

/// A group with its devices. Whoever may change it sees its keys, which is noted.
async fn detail<R: CallerRule>(caller: &Caller<R>, state: &AppState, row: &MulticastRow) -> ApiResult<Value> {
    let admin = state.admin();
    let referred = Referred::load(admin, [row.fields.application], []).await?;
    let secrets = match caller.write(resource(row)) {
        Ok(permit) => {
            admin.record_reveal(&permit, &caller.changed_by, ChangedEntity::Multicast, &[row.id]).await?;
            Secrets::Clear
        }
        Err(_) => Secrets::Masked,
    };
    let devices = admin.devices_by_id(&row.devices).await?;
    let mut group = view::with_authors(shown(row, referred.application(row.fields.application), secrets), &row.stamps);
    group["lorawanMulticastDefinition"] = view::with_authors(group["lorawanMulticastDefinition"].take(), &row.stamps);
    group["iotDevices"] = devices
        .iter()
        .map(|device| {
            let mut shown = device_shape::device(device);
            shown["application"] = referred.application(device.fields.application);
            shown
        })
        .collect();
    Ok(group)
}

/// What a body says; on a change what is not sent stays.
struct Input {
    fields: MulticastFields,
    /// `None`: as they are.
    devices: Option<Vec<DeviceId>>,
}

fn hex_text(form: &mut Form<'_>, name: &str, num_digits: usize) -> String {
    form.checked_text(name, &[Rule::Hexadecimal, Rule::Min(num_digits), Rule::Max(num_digits)])
}

fn read_input(form: &mut Form<'_>, stored: Option<&MulticastFields>) -> Input {
    let wants = |form: &Form<'_>, name: &str| stored.is_none() || form.get(name).is_some();
    let text_or = |of: fn(&MulticastFields) -> &String| stored.map(of).cloned().unwrap_or_default();
    let number_or = |of: fn(&MulticastFields) -> i64| stored.map(of).unwrap_or_default();
    let name =
        if wants(form, "name") { form.text("name", &[Rule::Min(1), Rule::Max(50)]) } else { text_or(|s| &s.name) };
    let application = match stored {
        Some(stored) => stored.application,
        None => ApplicationId(form.id("applicationID", Some(1))),
    };
    let address = if wants(form, "mcAddr") { hex_text(form, "mcAddr", 8) } else { text_or(|s| &s.address) };
    let mut secrets = std::collections::BTreeMap::new();
    for (sent, kept) in [("mcNwkSKey", NETWORK_SESSION_KEY), ("mcAppSKey", APPLICATION_SESSION_KEY)] {
        let before: Option<&Secret> = stored.and_then(|stored| stored.secrets.get(kept));
        if !(means_keep(form.get(sent)) && before.is_some()) {
            hex_text(form, sent, 32);
        }
        if let Some(secret) = merged(form.get(sent), before) {
            secrets.insert(kept.to_owned(), secret);
        }
    }
    let number = |form: &mut Form<'_>, name: &str, before: i64| {
        if wants(form, name) { form.int_capped(name, Some(0), i64::from(u32::MAX)) } else { before }
    };
    let frame_counter = number(form, "fCnt", number_or(|s| s.frame_counter));
    let data_rate = number(form, "dr", number_or(|s| s.data_rate));
    let frequency_hz = number(form, "frequency", number_or(|s| s.frequency_hz));
    let group_type = if wants(form, "groupType") {
        let text = form.text("groupType", &[Rule::Min(1), Rule::Max(32)]);
        if (1..=32).contains(&text.chars().count()) && text != "CLASS_C" {
            form.beyond(|form| {
                form.fail("groupType", "isEnum", "groupType must be one of the following values: CLASS_C")
            });
        }
        text
    } else {
        text_or(|s| &s.group_type)
    };
    let devices = form.get("iotDevices").map(|value| form.beyond(|form| read_devices(form, value)));
    Input {
        fields: MulticastFields {
            application,
            name,
            address,
            frame_counter,
            data_rate,
            frequency_hz,
            group_type,
            secrets,
        },
        devices,
    }
}

/// Clients send whole devices; their ids are what counts.
fn read_devices(form: &mut Form<'_>, value: &Value) -> Vec<DeviceId> {
    let Some(items) = value.as_array() else {
        form.fail("iotDevices", "isArray", "iotDevices must be an array");
        return Vec::new();
    };
    if items.len() > NUM_DEVICES_MAX {
        let text = format!("iotDevices must contain no more than {NUM_DEVICES_MAX} elements");
        form.fail("iotDevices", "arrayMaxSize", text);
        return Vec::new();
    }
    let id_of = |item: &Value| item.get("id").and_then(as_int).or_else(|| as_int(item));
    let ids: Vec<Option<i64>> = items.iter().map(id_of).collect();
    if ids.contains(&None) {
        let text = "each value in iotDevices must be a number conforming to the specified constraints";
        form.fail("iotDevices", "isNumber", text);
    }
    let mut ids: Vec<DeviceId> = ids.into_iter().flatten().map(DeviceId).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The devices of a group: radio devices of its application that stand in ChirpStack.
async fn members(state: &AppState, application: ApplicationId, ids: &[DeviceId]) -> ApiResult<Vec<DeviceRow>> {
    let devices = state.admin().devices_by_id(ids).await?;
    let is_member = |device: &DeviceRow| {
        device.fields.application == application
            && device.fields.kind == DeviceType::Lorawan
            && device.fields.settings.contains_key("chirpstackApplicationId")
    };
    if devices.len() == ids.len() && devices.iter().all(is_member) {
        Ok(devices)
    } else {
        Err(ApiError::bad_request(code::POST_FAILED))
    }
}

/// Makes a multicast group.
#[utoipa::path(
    tag = "multicast",
    request_body = MulticastDraft,
    responses((status = 201, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/multicast")]
async fn create(caller: Caller<Reader>, state: State, body: JsonBody) -> ApiResult {
    let mut form = Form::of(&body.0);
    let input = read_input(&mut form, None);
    form.finish()?;
    let admin = state.admin();
    let application = input.fields.application;
    let missing = || ApiError::bad_request(code::ID_DOES_NOT_EXIST);
    let (_, permit) = access::application_to_write(&caller, admin, application, missing).await?;
    let ids = input.devices.unwrap_or_default();
    let mut made = None;
    if !ids.is_empty() {
        let devices = members(&state, application, &ids).await?;
        let server = state.network_needed()?;
        let network_application =
            network::ensure_application(admin, server, &permit, &caller.changed_by, application).await?;
        let group = network_multicast(&input.fields, network_application);
        let id = server.create_multicast(&group).await.map_err(refusal)?;
        let task = admin.note_network_task(NetworkObject::Multicast, &id, DUE_IN_S).await?;
        let wanted: Vec<_> = devices.iter().filter_map(|device| device.fields.dev_eui).collect();
        if let Err(error) = push_members(server, &id, &group.application, &wanted).await {
            network::settle(admin, server, &task).await;
            return Err(refusal(error));
        }
        made = Some((server, task, id));
    }
    let network_id = made.as_ref().map(|(_, _, id)| id.as_str());
    let row = admin.create_multicast(&permit, &caller.changed_by, &input.fields, &ids, network_id).await;
    if let Some((server, task, _)) = &made {
        match &row {
            Ok(_) => network::finish(admin, task).await,
            Err(_) => network::settle(admin, *server, task).await,
        }
    }
    let row = row.map_err(of_store)?;
    Ok(created(detail(&caller, &state, &row).await?))
}

fn of_store(error: AdminError) -> ApiError {
    match error {
        AdminError::BadReference(_) => ApiError::bad_request(code::POST_FAILED),
        other => other.into(),
    }
}

/// A page of multicast groups.
#[utoipa::path(
    tag = "multicast",
    params(PageQuery, ("applicationId" = Option<i64>, Query)),
    responses((status = 200, body = Listed<Value>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/multicast")]
async fn list(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    let page = query.page()?;
    let admin = state.admin();
    let application = query.int("applicationId")?.map(ApplicationId);
    if let Some(id) = application {
        let denied = || ApiError::unauthorized();
        match access::application(admin, id).await? {
            Some(resource) => drop(caller.read(resource).map_err(|_| denied())?),
            // A global administrator may know that there is none; its list is empty.
            None if caller.principal.is_global_admin() => {}
            None => return Err(denied()),
        }
    }
    let found = admin.multicasts(&caller.principal.visible_applications(), application, &page).await?;
    let referred = Referred::load(admin, found.rows.iter().map(|row| row.fields.application), []).await?;
    let rows = found
        .rows
        .iter()
        .map(|row| shown(row, referred.application(row.fields.application), Secrets::Masked))
        .collect();
    Ok(listed(rows, found.num_all))
}

/// One multicast group with its devices.
#[utoipa::path(
    tag = "multicast",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/multicast/{id}")]
async fn read(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = state.admin().multicast(id.0).await?;
    // Another tenant's is as good as none, as in the reference.
    caller.read(resource(&row)).map_err(|_| ApiError::unknown_id())?;
    Ok(ok(detail(&caller, &state, &row).await?))
}

/// Changes a multicast group and its devices.
#[utoipa::path(
    tag = "multicast",
    params(("id" = i64, Path)),
    request_body = MulticastDraft,
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/multicast/{id}")]
async fn update(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let stored = admin.multicast(id.0).await?;
    let permit = caller.write(resource(&stored))?;
    let mut form = Form::of(&body.0);
    let input = read_input(&mut form, Some(&stored.fields));
    form.finish()?;
    if let Some(asked) = form_application(&body.0)
        && asked != stored.fields.application
    {
        access::application_to_write(&caller, admin, asked, || ApiError::bad_request(code::POST_FAILED)).await?;
        return Err(ApiError::bad_request(code::POST_FAILED));
    }
    let ids = input.devices.unwrap_or_else(|| stored.devices.clone());
    let devices = members(&state, stored.fields.application, &ids).await?;
    let mut network_id = stored.network_id.clone();
    let mut pushed = None;
    if network_id.is_some() || !ids.is_empty() {
        let server = state.network_needed()?;
        let network_application =
            network::ensure_application(admin, server, &permit, &caller.changed_by, stored.fields.application).await?;
        let group = network_multicast(&input.fields, network_application);
        let (group_id, task) = match &network_id {
            Some(group_id) => {
                let task = admin.note_network_task(NetworkObject::Multicast, group_id, DUE_IN_S).await?;
                if let Err(error) = server.update_multicast(group_id, &group).await {
                    network::settle(admin, server, &task).await;
                    return Err(refusal(error));
                }
                (group_id.clone(), task)
            }
            None => {
                let group_id = server.create_multicast(&group).await.map_err(refusal)?;
                let task = admin.note_network_task(NetworkObject::Multicast, &group_id, DUE_IN_S).await?;
                (group_id, task)
            }
        };
        let wanted: Vec<_> = devices.iter().filter_map(|device| device.fields.dev_eui).collect();
        if let Err(error) = push_members(server, &group_id, &group.application, &wanted).await {
            network::settle(admin, server, &task).await;
            return Err(refusal(error));
        }
        network_id = Some(group_id);
        pushed = Some((server, task));
    }
    let row =
        admin.update_multicast(&permit, &caller.changed_by, id.0, &input.fields, &ids, network_id.as_deref()).await;
    if let Some((server, task)) = &pushed {
        match &row {
            Ok(_) => network::finish(admin, task).await,
            Err(_) => network::settle(admin, *server, task).await,
        }
    }
    let row = row.map_err(of_store)?;
    Ok(uncached(ok(detail(&caller, &state, &row).await?)))
}

/// The application that a change names; a group stays where it is.
fn form_application(body: &Value) -> Option<ApplicationId> {
    body.get("applicationID").and_then(as_int).map(ApplicationId)
}

/// Deletes a multicast group.
#[utoipa::path(
    tag = "multicast",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[delete("/multicast/{id}")]
async fn delete(caller: Caller<ApplicationAdmin>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let row = admin.multicast(id.0).await?;
    let permit = caller.write(resource(&row))?;
    let num = admin.delete_multicast(&permit, &caller.changed_by, id.0).await?;
    if let Some(network_id) = &row.network_id {
        settle_deletion(&state, NetworkObject::Multicast, network_id).await;
    }
    Ok(deleted(num))
}

/// What waits in a group's queue.
#[utoipa::path(
    tag = "multicast",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/multicast/{id}/downlink-multicast")]
async fn queue(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let row = state.admin().multicast(id.0).await?;
    caller.read(resource(&row))?;
    let group = row.network_id.as_deref().ok_or_else(|| ApiError::bare(StatusCode::NOT_FOUND))?;
    let items = state.network_needed()?.multicast_queue(group).await.map_err(refusal)?;
    let items: Vec<Value> = items
        .iter()
        .map(|item| {
            json!({
                "multicastGroupId": item.group,
                "fCnt": item.f_cnt,
                "fPort": item.f_port,
                "data": STANDARD.encode(&item.data),
            })
        })
        .collect();
    Ok(ok(json!({"deviceQueueItems": items})))
}

/// Queues a downlink for a group, in the place of what waits.
#[utoipa::path(
    tag = "multicast",
    params(("id" = i64, Path)),
    request_body = MulticastDownlink,
    responses((status = 201, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/multicast/{id}/downlink-multicast")]
async fn send(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let row = state.admin().multicast(id.0).await?;
    let permit = caller.write(resource(&row))?;
    let mut form = Form::of(&body.0);
    form.checked_text("data", &[Rule::Hexadecimal]);
    let data = form.beyond(downlinks::read_data);
    let port = form.int("port", Some(1), Some(downlinks::PORT_MAX));
    form.finish()?;
    let group = row.network_id.as_deref().ok_or_else(|| ApiError::bare(StatusCode::BAD_REQUEST))?;
    let server = state.network_needed()?;
    // Devices of a group hear one message at a time: what waits is superseded, as in the reference.
    server.flush_multicast(group).await.map_err(refusal)?;
    let f_cnt = server.enqueue_multicast(group, u32::try_from(port).unwrap_or(1), &data).await.map_err(refusal)?;
    state.admin().record_multicast_downlink(&permit, &caller.changed_by, row.id, port).await?;
    Ok(uncached(created(json!({"fCnt": f_cnt}))))
}
