//! Gateways: `/chirpstack/gateway`. Rows of ours, written to ChirpStack as well ([`crate::network`]); a list asks nobody else.
//!
//! A caller sees the gateways of organisations in which he has a role; those that belong to nobody yet, a global administrator.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use actix_web::{delete, get, post, put};
use chrono::{Days, Utc};
use serde_json::{Value, json};
use sluse_schema::id::{GatewayId, OrganizationId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::gateway::{GatewayFields, GatewayRow, Organizations};
use sluse_schema::port::admin::lorawan::NetworkObject;
use sluse_schema::port::admin::{AdminError, Page};
use sluse_schema::port::network_server::NetworkServerError;
use tokio::time::timeout;
use utoipa_actix_web::service_config::ServiceConfig;

use super::{gateway_input, view};
use crate::authz::{Caller, GatewayAdmin, Reader, Rule};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, ok};
use crate::network::align::network_gateway;
use crate::network::error::refusal;
use crate::network::{self, DUE_IN_S};
use crate::openapi::lorawan::{Done, GatewayChange, GatewayDraft, GatewayFilter, GatewayMove, Gateways, NotDone};
use crate::page::{PageQuery, Query};
use crate::validate::Form;

type State = web::Data<AppState>;

/// Columns of the reference's table, and what it derives. A list by one that has no order here comes by id.
const ORDER: [&str; 31] = [
    "id",
    "createdAt",
    "updatedAt",
    "organizationName",
    "name",
    "description",
    "gatewayId",
    "rxPacketsReceived",
    "txPacketsEmitted",
    "tags",
    "location",
    "altitude",
    "lastSeenAt",
    "placement",
    "modelName",
    "antennaType",
    "status",
    "gatewayResponsibleName",
    "gatewayResponsibleEmail",
    "gatewayResponsiblePhoneNumber",
    "operationalResponsibleName",
    "operationalResponsibleEmail",
    "notifyOffline",
    "notifyUnusualPackages",
    "offlineAlarmThresholdMinutes",
    "minimumPackages",
    "maximumPackages",
    "alarmMail",
    "hasSentOfflineNotification",
    "organization",
    "organizationId",
];

/// Gateways that a map shows.
const NUM_ON_MAP_MAX: i64 = 10_000;
/// How long an answer waits for figures from ChirpStack.
const FIGURES_WITHIN: Duration = Duration::from_secs(4);

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create).service(list).service(map).service(relocate).service(read).service(update).service(delete);
}

/// The gateway of a path, as every route but the one that shows it refuses what is none.
pub(super) fn gateway_to_change(request: &HttpRequest) -> ApiResult<GatewayId> {
    gateway_of_path(request).map_err(|_| ApiError::bad_request("Invalid gateway id"))
}

/// The gateway of a path.
fn gateway_of_path(request: &HttpRequest) -> ApiResult<GatewayId> {
    let text = request.match_info().get("gateway").unwrap_or("");
    if text.chars().count() != 16 {
        return Err(ApiError::bad_request(code::WRONG_LENGTH));
    }
    text.parse().map_err(|_| ApiError::bad_request(code::NOT_VALID_FORMAT))
}

/// What a gateway is to the policy.
pub(super) fn resource(row: &GatewayRow) -> Resource {
    resource_of(row.organization.as_ref().map(|o| o.id))
}

fn resource_of(organization: Option<OrganizationId>) -> Resource {
    organization.map_or(Resource::Platform, Resource::OrganizationGateways)
}

/// Whose gateways a list is about: of the organisation that is asked for, or of all in which the caller has a role. Of another
/// tenant's organisation there are none: the web client offers everybody's to filter by.
pub(super) fn among<R: Rule>(caller: &Caller<R>, query: &Query) -> ApiResult<Organizations> {
    match query.int("organizationId")?.map(OrganizationId) {
        Some(organization) => {
            let is_visible = caller.read(Resource::OrganizationGateways(organization)).is_ok();
            Ok(Some(if is_visible { vec![organization] } else { Vec::new() }))
        }
        None if caller.principal.is_global_admin() => Ok(None),
        None => Ok(Some(caller.principal.organizations())),
    }
}

/// Numbers that the reference's column shows as text.
fn numeric(number: Option<f64>) -> Option<String> {
    number.map(|n| n.to_string())
}

/// A gateway as lists show it.
pub fn gateway(row: &GatewayRow) -> Value {
    let fields = &row.fields;
    let shown = json!({
        "gatewayId": row.gateway.to_string(),
        "name": fields.name,
        "description": fields.description,
        "rxPacketsReceived": row.num_received,
        "txPacketsEmitted": row.num_sent,
        "tags": fields.tags,
        "location": {
            "latitude": fields.latitude,
            "longitude": fields.longitude,
            "altitude": numeric(fields.altitude),
        },
        "altitude": numeric(fields.altitude),
        "lastSeenAt": view::instant_opt(row.last_seen_at),
        "placement": fields.placement,
        "modelName": fields.model_name,
        "antennaType": fields.antenna_type,
        "status": fields.status,
        "gatewayResponsibleName": fields.gateway_responsible_name,
        "gatewayResponsibleEmail": fields.gateway_responsible_email,
        "gatewayResponsiblePhoneNumber": fields.gateway_responsible_phone_number,
        "operationalResponsibleName": fields.operational_responsible_name,
        "operationalResponsibleEmail": fields.operational_responsible_email,
        "notifyOffline": fields.notify_offline,
        "notifyUnusualPackages": fields.notify_unusual_packages,
        "offlineAlarmThresholdMinutes": fields.offline_alarm_threshold_minutes,
        "minimumPackages": fields.minimum_packages,
        "maximumPackages": fields.maximum_packages,
        "alarmMail": fields.alarm_mail,
        "hasSentOfflineNotification": row.has_sent_offline_notification,
        "organization": row.organization.as_ref().map(view::organization),
        "organizationId": row.organization.as_ref().map(|o| o.id),
        "organizationName": row.organization.as_ref().map(|o| o.name.clone()),
    });
    view::base(row.id, &row.stamps, shown)
}

fn failed(text: &str) -> ApiError {
    ApiError::raw(StatusCode::BAD_REQUEST, json!({"success": false, "error": text}))
}

const PACKAGES: &str = "Minimum has to be under maximum, and maximum has to be over minimum";

fn check_packages(fields: &GatewayFields) -> ApiResult<()> {
    match (fields.minimum_packages, fields.maximum_packages) {
        (Some(min), Some(max)) if min > max => Err(failed(PACKAGES)),
        _ => Ok(()),
    }
}

/// Registers a gateway, in ChirpStack too.
#[utoipa::path(
    tag = "chirpstack-gateway",
    request_body = GatewayDraft,
    responses((status = 201, body = Done), (status = 400, description = "not done", body = NotDone)),
    security(("token" = ["OrganizationGatewayAdmin"]), ("apiKey" = ["OrganizationGatewayAdmin"])),
)]
#[post("/chirpstack/gateway")]
async fn create(caller: Caller<GatewayAdmin>, state: State, body: JsonBody) -> ApiResult {
    let mut form = Form::of(&body.0);
    let input = gateway_input::read(&mut form, None);
    let organization = OrganizationId(form.beyond(|form| form.id("organizationId", None)));
    form.finish()?;
    let Some((input, id)) = input.and_then(|input| input.gateway.map(|id| (input, id))) else {
        return Err(ApiError::bad_request(code::NOT_VALID_FORMAT));
    };
    let permit = caller.write(Resource::OrganizationGateways(organization))?;
    check_packages(&input.fields)?;
    let (admin, server) = (state.admin(), state.network_needed()?);
    let taken = || ApiError::bad_request(code::ID_INVALID_OR_ALREADY_IN_USE);
    match admin.gateway(id).await {
        Ok(_) => return Err(taken()),
        Err(AdminError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let task = admin.note_network_task(NetworkObject::Gateway, &id.to_string(), DUE_IN_S).await?;
    let wanted = network_gateway(id, Some(organization), &input.fields);
    let mut made = server.create_gateway(&wanted).await;
    if made == Err(NetworkServerError::AlreadyExists) && task.is_deletion {
        // Deleted here, and not there yet.
        server.delete_gateway(id).await.map_err(refusal)?;
        made = server.create_gateway(&wanted).await;
    }
    if let Err(error) = made {
        if network::is_untouched(&error) && !task.is_deletion {
            network::finish(admin, &task).await;
        }
        return Err(if error == NetworkServerError::AlreadyExists { taken() } else { refusal(error) });
    }
    match admin.create_gateway(&permit, &caller.changed_by, id, Some(organization), &input.fields).await {
        Ok(_) => {
            network::finish(admin, &task).await;
            Ok(created(json!({"success": true})))
        }
        Err(error) => {
            network::settle(admin, server, &task).await;
            Err(match error {
                AdminError::Taken(_) => taken(),
                other => other.into(),
            })
        }
    }
}

/// A page of gateways.
#[utoipa::path(
    tag = "chirpstack-gateway",
    params(PageQuery, GatewayFilter),
    responses((status = 200, body = Gateways)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/chirpstack/gateway")]
async fn list(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    query.check_among("orderOn", &ORDER)?;
    let found = state.admin().gateways(&among(&caller, &query)?, &query.page()?).await?;
    Ok(ok(json!({"resultList": found.rows.iter().map(gateway).collect::<Vec<_>>(), "totalCount": found.num_all})))
}

/// Where gateways are, and when they were last heard.
#[utoipa::path(
    tag = "chirpstack-gateway",
    params(GatewayFilter),
    responses((status = 200, body = Gateways)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/chirpstack/gateway/getAllForMaps")]
async fn map(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    let found = state.admin().gateways(&among(&caller, &query)?, &Page::first(NUM_ON_MAP_MAX)).await?;
    let rows: Vec<Value> = found
        .rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id,
                "gatewayId": row.gateway.to_string(),
                "name": row.fields.name,
                "lastSeenAt": view::instant_opt(row.last_seen_at),
                "organization": row.organization.as_ref().map(|o| json!({"id": o.id, "name": o.name})),
                "organizationId": row.organization.as_ref().map(|o| o.id),
                "organizationName": row.organization.as_ref().map(|o| o.name.clone()),
                "location": {"latitude": row.fields.latitude, "longitude": row.fields.longitude},
            })
        })
        .collect();
    Ok(ok(json!({"resultList": rows, "totalCount": found.num_all})))
}

/// One gateway with its figures by day.
#[utoipa::path(
    tag = "chirpstack-gateway",
    params(("gateway" = String, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/chirpstack/gateway/{gateway}")]
async fn read(caller: Caller<Reader>, state: State, request: HttpRequest) -> ApiResult {
    let id = gateway_of_path(&request)?;
    let row = state.admin().gateway(id).await?;
    caller.read(resource(&row))?;
    let stats = match state.network() {
        Some(server) => {
            let from = Utc::now().date_naive() - Days::new(u64::from(state.config.stats_days));
            match timeout(FIGURES_WITHIN, server.gateway_days(id, from)).await {
                Ok(Ok(days)) => days,
                Ok(Err(error)) => {
                    tracing::debug!(%error, gateway = %id, "no figures from chirpstack");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        }
        None => Vec::new(),
    };
    let stats: Vec<Value> = stats
        .iter()
        .map(|day| {
            json!({
                "timestamp": view::instant(day.at),
                "rxPacketsReceived": day.num_received as i64,
                "txPacketsEmitted": day.num_sent as i64,
            })
        })
        .collect();
    Ok(ok(json!({"gateway": view::with_authors(gateway(&row), &row.stamps), "stats": stats})))
}

/// Changes a gateway, in ChirpStack too.
#[utoipa::path(
    tag = "chirpstack-gateway",
    params(("gateway" = String, Path)),
    request_body = GatewayChange,
    responses((status = 200, body = Done), (status = 400, description = "not done", body = NotDone)),
    security(("token" = ["OrganizationGatewayAdmin"]), ("apiKey" = ["OrganizationGatewayAdmin"])),
)]
#[put("/chirpstack/gateway/{gateway}")]
async fn update(caller: Caller<GatewayAdmin>, state: State, request: HttpRequest, body: JsonBody) -> ApiResult {
    let id = gateway_to_change(&request)?;
    if body.0.get("gateway").is_some_and(|sent| sent.get("gatewayId").is_some_and(|v| !v.is_null())) {
        return Err(ApiError::bad_request(code::GATEWAY_ID_NOT_ALLOWED_IN_UPDATE));
    }
    let admin = state.admin();
    let row = admin.gateway(id).await?;
    let permit = caller.write(resource(&row))?;
    let mut form = Form::of(&body.0);
    let input = gateway_input::read(&mut form, Some(&row.fields));
    form.finish()?;
    let fields = input.ok_or_else(|| ApiError::bad_request(code::NOT_VALID_FORMAT))?.fields;
    check_packages(&fields)?;
    let server = state.network_needed()?;
    let task = admin.note_network_task(NetworkObject::Gateway, &id.to_string(), DUE_IN_S).await?;
    let wanted = network_gateway(id, row.organization.as_ref().map(|o| o.id), &fields);
    let written = match server.update_gateway(&wanted).await {
        // Deleted in ChirpStack by hand: the row is what counts.
        Err(NetworkServerError::NotFound) => server.create_gateway(&wanted).await,
        other => other,
    };
    if let Err(error) = written {
        if network::is_untouched(&error) {
            network::finish(admin, &task).await;
        }
        return Err(refusal(error));
    }
    match admin.update_gateway(&permit, &caller.changed_by, id, &fields).await {
        Ok(_) => {
            network::finish(admin, &task).await;
            Ok(ok(json!({"success": true})))
        }
        Err(error) => {
            network::settle(admin, server, &task).await;
            Err(error.into())
        }
    }
}

/// Gives a gateway to another organisation; the caller administers the gateways of both.
#[utoipa::path(
    tag = "chirpstack-gateway",
    params(("id" = i64, Path)),
    request_body = GatewayMove,
    responses((status = 200, body = Value)),
    security(("token" = ["OrganizationGatewayAdmin"]), ("apiKey" = ["OrganizationGatewayAdmin"])),
)]
#[put("/chirpstack/gateway/updateGatewayOrganization/{id}")]
async fn relocate(caller: Caller<GatewayAdmin>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let row = admin.gateway_by_row(id.0).await?;
    let permit = caller.write(resource(&row))?;
    let mut form = Form::of(&body.0);
    let organization = OrganizationId(form.id("organizationId", Some(1)));
    form.finish()?;
    let target = caller.write(Resource::OrganizationGateways(organization))?;
    let moved = admin.move_gateway(&permit, &target, &caller.changed_by, row.gateway, organization).await?;
    if let Some(server) = state.network() {
        let task = admin.note_network_task(NetworkObject::Gateway, &row.gateway.to_string(), 0).await?;
        network::settle(admin, server, &task).await;
    }
    Ok(ok(view::with_authors(gateway(&moved), &moved.stamps)))
}

/// Deletes a gateway, in ChirpStack too.
#[utoipa::path(
    tag = "chirpstack-gateway",
    params(("gateway" = String, Path)),
    responses((status = 200, body = Done)),
    security(("token" = ["OrganizationGatewayAdmin"]), ("apiKey" = ["OrganizationGatewayAdmin"])),
)]
#[delete("/chirpstack/gateway/{gateway}")]
async fn delete(caller: Caller<GatewayAdmin>, state: State, request: HttpRequest) -> ApiResult {
    let id = gateway_to_change(&request)?;
    let admin = state.admin();
    let row = admin.gateway(id).await?;
    let permit = caller.write(resource(&row))?;
    admin.delete_gateway(&permit, &caller.changed_by, id).await?;
    settle_deletion(&state, NetworkObject::Gateway, &id.to_string()).await;
    Ok(ok(json!({"success": true})))
}

/// Deletes in the network server what was deleted here, at once if it goes, and otherwise later.
pub(super) async fn settle_deletion(state: &AppState, kind: NetworkObject, key: &str) {
    let (admin, Some(server)) = (state.admin(), state.network()) else { return };
    match admin.network_task(kind, key).await {
        Ok(Some(task)) => network::settle(admin, server, &task).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a deletion stays for the job"),
    }
}
