//! Applications (control-plane 2.8), and the lists of their devices. Nothing here waits for ChirpStack.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::id::{ApplicationId, OrganizationId};
use sluse_schema::permission::Role;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::StoreError;
use sluse_schema::port::admin::{AdminError, ApplicationDraft, ApplicationListing, ApplicationQuery, StatusCheck};
use utoipa_actix_web::service_config::ServiceConfig;

use super::application_shape::{self, device_listing, full, map_device};
use super::{access, view};
use crate::authz::{ApplicationAdmin, Caller, Reader, Rule as CallerRule};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok, uncached};
use crate::openapi as shape;
use crate::openapi::{
    Deleted, Listed, Problem,
    applications::{DashboardCounts, Relocation},
    devices::Device,
};
use crate::page::{PageQuery, Query};
use crate::validate::{DATE_MS_MAX, Form, Rule, parse_date};

/// Devices that an organisation's map shows.
const NUM_MAP_DEVICES_MAX: i64 = 50_000;

/// `ApplicationStatus`.
pub const STATUSES: [&str; 5] = ["NONE", "IN-OPERATION", "PROJECT", "PROTOTYPE", "OTHER"];

/// Types that devices of an application may be of.
pub const DEVICE_TYPES: [&str; 6] =
    ["GENERIC_HTTP", "LORAWAN", "MQTT_INTERNAL_BROKER", "MQTT_EXTERNAL_BROKER", "SIGFOX", "OTHER"];

/// `ControlledProperty`, also of device models.
pub const CONTROLLED_PROPERTIES: [&str; 41] = [
    "airPollution",
    "atmosphericPressure",
    "cdom",
    "conductance",
    "conductivity",
    "depth",
    "eatingActivity",
    "electricityConsumption",
    "energy",
    "fillingLevel",
    "gasComsumption",
    "heading",
    "humidity",
    "light",
    "location",
    "milking",
    "motion",
    "movementActivity",
    "noiseLevel",
    "occupancy",
    "orp",
    "pH",
    "power",
    "precipitation",
    "pressure",
    "salinity",
    "smoke",
    "soilMoisture",
    "solarRadiation",
    "speed",
    "tds",
    "temperature",
    "trafficFlow",
    "tss",
    "turbidity",
    "waterConsumption",
    "waterPollution",
    "weatherConditions",
    "weight",
    "windDirection",
    "windSpeed",
];

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create)
        .service(list)
        .service(relocate)
        .service(one)
        .service(update)
        .service(delete)
        .service(owners)
        .service(dashboard)
        .service(devices)
        .service(devices_of_organization)
        .service(map);
}

fn is_phone_number(text: &str) -> bool {
    let mut run = 0;
    text.bytes().any(|b| {
        run = if b.is_ascii_digit() || b == b'-' || b == b'+' { run + 1 } else { 0 };
        run >= 6
    })
}

/// Whether a date is a text that is none: no error of validation in the reference, but one of saving.
fn is_no_date(form: &Form<'_>, name: &str) -> bool {
    form.get(name).is_some_and(|value| match value {
        Value::String(text) => parse_date(text).is_none(),
        Value::Array(_) | Value::Object(_) => true,
        Value::Number(ms) => ms.as_f64().is_none_or(|ms| ms.abs() > DATE_MS_MAX),
        _ => false,
    })
}

/// Fields that stay on a change when they are not sent, with their columns. Dates do not: without them there are none.
const KEPT: [(&str, &str); 9] = [
    ("description", "description"),
    ("status", "status"),
    ("category", "category"),
    ("owner", "owner"),
    ("contactPerson", "contact_person"),
    ("contactEmail", "contact_email"),
    ("contactPhone", "contact_phone"),
    ("personalData", "personal_data"),
    ("hardware", "hardware"),
];

/// What a body says; `organization`: where the application is now, if it says nothing of that.
fn draft(body: &Value, organization: Option<OrganizationId>) -> ApiResult<ApplicationDraft> {
    let mut form = Form::of(body);
    let short = [Rule::Max(100)];
    let long = [Rule::Max(1024)];
    let phone = [
        Rule::Custom("isPhoneNumberString", "contactPhone must be a valid phone number", is_phone_number),
        Rule::Max(12),
    ];
    let has_no_date = is_no_date(&form, "startDate") || is_no_date(&form, "endDate");
    let name = form.text("name", &[Rule::Min(1), Rule::Max(50)]);
    let organization = match (organization, form.get("organizationId")) {
        (Some(current), None) => current,
        _ => OrganizationId(form.beyond(|form| form.id("organizationId", None))),
    };
    let draft = ApplicationDraft {
        organization,
        name,
        description: form.text_opt("description", &long),
        status: form.one_of_opt("status", &STATUSES),
        start_date: if has_no_date { None } else { form.beyond(|form| form.date_opt("startDate")) },
        end_date: if has_no_date { None } else { form.beyond(|form| form.date_opt("endDate")) },
        category: form.text_opt("category", &short),
        owner: form.text_opt("owner", &short),
        contact_person: form.text_opt("contactPerson", &short),
        contact_email: form.text_opt("contactEmail", &short),
        // The web client sends "" for none.
        contact_phone: match form.get("contactPhone").and_then(Value::as_str) {
            Some("") => None,
            _ => form.get("contactPhone").map(|_| form.checked_text("contactPhone", &phone)),
        },
        personal_data: form.boolean_opt("personalData"),
        hardware: form.text_opt("hardware", &long),
        controlled_properties: form.subset_opt("controlledProperties", &CONTROLLED_PROPERTIES),
        device_types: form.subset_opt("deviceTypes", &DEVICE_TYPES),
        permissions: form.beyond(|form| form.ids_opt("permissionIds")),
        kept: KEPT.iter().filter(|(name, _)| !form.has(name)).map(|(_, column)| *column).collect(),
    };
    // Checked, and ignored: ChirpStack says which id it has.
    form.text_opt("chirpstackId", &long);
    form.finish()?;
    if has_no_date {
        return Err(ApiError::bad_request("MESSAGE.POST-FAILED"));
    }
    Ok(draft)
}

/// What the database itself refuses is a failed attempt to the reference.
fn of_store(error: AdminError) -> ApiError {
    match error {
        AdminError::Store(StoreError::Refused(_)) => ApiError::bad_request(code::POST_FAILED),
        other => other.into(),
    }
}

/// Creates an application.
#[utoipa::path(
    tag = "application",
    request_body = shape::applications::ApplicationDraft,
    responses((status = 201, body = shape::applications::ApplicationDetail)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[post("/application")]
async fn create(caller: Caller<ApplicationAdmin>, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let draft = draft(&body, None)?;
    let permit = caller.write(Resource::Organization(draft.organization))?;
    let result = state.admin().create_application(&permit, &caller.changed_by, &draft).await;
    let detail = result.map_err(of_store)?;
    let mut row = full(&detail);
    let own = detail.application.id.0;
    // Groups are shown as they were before: that is how the reference answers here.
    for permission in row["permissions"].as_array_mut().into_iter().flatten() {
        if let Some(ids) = permission["applicationIds"].as_array_mut() {
            ids.retain(|id| *id != json!(own));
        }
    }
    for name in ["controlledProperties", "deviceTypes"] {
        for item in row[name].as_array_mut().into_iter().flatten() {
            *item = view::with_authors(item.take(), &detail.application.stamps);
        }
    }
    row["multicasts"] = json!([]);
    Ok(uncached(created(row)))
}

/// Changes an application.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    request_body = shape::applications::ApplicationDraft,
    responses((status = 200, body = shape::applications::ApplicationDetail)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/application/{id}")]
async fn update(
    caller: Caller<ApplicationAdmin>,
    id: PathId,
    state: web::Data<AppState>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let id = ApplicationId(id.0);
    let resource = access::application_for(&caller, state.admin(), id).await?;
    let organization = access::organization_of(&resource);
    let permit = caller.write(resource)?;
    let draft = draft(&body, Some(organization))?;
    let target = target_permit(&caller, organization, draft.organization)?;
    let detail = state.admin().update_application(&permit, target.as_ref(), &caller.changed_by, id, &draft).await?;
    let mut row = full(&detail);
    // What was not sent stays, and the answer says nothing of it; what was sent is made anew. As in the reference.
    for (name, _) in KEPT.iter().filter(|(name, _)| body.get(name).is_none()) {
        row[*name] = Value::Null;
    }
    for name in ["controlledProperties", "deviceTypes"].iter().filter(|name| body.get(**name).is_some()) {
        for item in row[*name].as_array_mut().into_iter().flatten() {
            let stamps = &detail.application.stamps;
            view::extend(item, json!({"createdBy": stamps.updated_by, "updatedBy": stamps.updated_by}));
        }
    }
    Ok(uncached(ok(row)))
}

/// Permission to put an application into an organisation, when it is not there already.
fn target_permit<R: CallerRule>(
    caller: &Caller<R>,
    current: OrganizationId,
    target: OrganizationId,
) -> ApiResult<Option<Permit>> {
    if current == target { Ok(None) } else { caller.write(Resource::Organization(target)).map(Some) }
}

/// Moves an application to another organisation.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    request_body = Relocation,
    responses((status = 200, body = shape::applications::ApplicationDetail)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/application/updateApplicationOrganization/{id}")]
async fn relocate(
    caller: Caller<ApplicationAdmin>,
    id: PathId,
    state: web::Data<AppState>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let id = ApplicationId(id.0);
    let permit = caller.write(access::application_for(&caller, state.admin(), id).await?)?;
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("organizationId", None));
    let permissions = form.ids("permissionIds");
    form.finish()?;
    let target = caller.write(Resource::Organization(organization))?;
    let result =
        state.admin().move_application(&permit, &target, &caller.changed_by, id, organization, &permissions).await;
    match result {
        Ok(detail) => {
            let mut row = full(&detail);
            if permissions.is_empty() {
                // The organisation said which groups take what is new, so the reference shows it with all of its groups.
                let (_, groups) = state.admin().organization(organization).await?;
                row["belongsTo"]["permissions"] = groups.iter().map(view::permission).collect();
            }
            Ok(uncached(ok(row)))
        }
        Err(AdminError::BadReference(_)) => Err(ApiError::bad_request(code::POST_FAILED)),
        Err(error) => Err(error.into()),
    }
}

/// Deletes an application with its devices and data targets.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted), (status = 409, description = "it has Sigfox devices", body = Problem)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[delete("/application/{id}")]
async fn delete(caller: Caller<ApplicationAdmin>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let id = ApplicationId(id.0);
    let permit = caller.write(access::application_for(&caller, state.admin(), id).await?)?;
    match state.admin().delete_application(&permit, &caller.changed_by, id).await {
        Ok(num) => Ok(deleted(num)),
        Err(AdminError::InUse("Sigfox devices")) => {
            Err(ApiError::new(StatusCode::CONFLICT, code::DELETE_NOT_ALLOWED_HAS_SIGFOX_DEVICE))
        }
        Err(error) => Err(error.into()),
    }
}

/// One application.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = shape::applications::ApplicationDetail)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}")]
async fn one(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let id = ApplicationId(id.0);
    caller.read(access::application_for(&caller, state.admin(), id).await?)?;
    Ok(ok(full(&state.admin().application(id).await?)))
}

/// Whether the caller may list what an application has. One that is not there has nothing, for who may know that.
async fn may_list<R: CallerRule>(caller: &Caller<R>, state: &AppState, id: ApplicationId) -> ApiResult<()> {
    match access::application(state.admin(), id).await? {
        Some(resource) => caller.read(resource).map(drop),
        None if caller.principal.is_global_admin() => Ok(()),
        None => Err(ApiError::forbidden()),
    }
}

/// The filter of a list, with what the caller may see in it.
fn filter<R: CallerRule>(
    caller: &Caller<R>,
    query: &Query,
    organization: Option<OrganizationId>,
) -> ApiResult<ApplicationQuery> {
    if let Some(organization) = organization {
        caller.read(Resource::Organization(organization))?;
    }
    let status_check = match query.text("statusCheck") {
        Some("stable") => Some(StatusCheck::Stable),
        Some("alert") => Some(StatusCheck::Alert),
        _ => None,
    };
    Ok(ApplicationQuery {
        visible: caller.principal.visible_applications(),
        organization,
        status: query.text("status").map(str::to_owned),
        status_check,
        owner: query.text("owner").map(str::to_owned),
    })
}

/// Applications with a summary of their devices and data targets.
#[utoipa::path(
    tag = "application",
    params(PageQuery, ("organizationId" = Option<String>, Query)),
    responses((status = 200, body = Listed<shape::applications::ApplicationListing>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application")]
async fn list(caller: Caller<Reader>, query: Query, state: web::Data<AppState>) -> ApiResult {
    query.check_direction()?;
    let page = query.page_or_all()?;
    let mut filter = filter(&caller, &query, query.int("organizationId")?.map(OrganizationId))?;
    let administered = caller.principal.organizations_with(&[Role::OrganizationApplicationAdmin]);
    if filter.organization.is_none() && !administered.is_empty() {
        // Who administers applications asks without an organisation where he may put something: only there, as in the reference.
        filter.visible = caller.principal.visible_applications_in(&administered);
    }
    let found = state.admin().applications(&filter, &page).await?;
    let rows = found
        .rows
        .iter()
        .map(|ApplicationListing { detail, status_check }| {
            let mut row = application_shape::listing(detail);
            row["belongsTo"] = view::organization(&detail.organization);
            row["statusCheck"] = json!(match status_check {
                StatusCheck::Stable => "stable",
                StatusCheck::Alert => "alert",
            });
            row
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Owners of an organisation's applications, to filter by.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}/filter-information")]
async fn owners(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let organization = OrganizationId(id.of_list()?);
    caller.read(Resource::Organization(organization)).map_err(|_| ApiError::unknown_id())?;
    let owners = state.admin().application_owners(&caller.principal.visible_applications(), organization).await?;
    Ok(ok(json!(owners)))
}

/// How many applications an organisation has, and how many have trouble.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = DashboardCounts)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}/application-dashboard-data")]
async fn dashboard(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let organization = OrganizationId(id.of_list()?);
    // Another tenant's organisation is as good as none, as in the reference.
    caller.read(Resource::Organization(organization)).map_err(|_| ApiError::unknown_id())?;
    let counts = state.admin().dashboard_counts(&caller.principal.visible_applications(), organization).await?;
    Ok(ok(json!({
        "total": counts.num_applications,
        "withError": counts.num_with_error,
        "totalDevices": counts.num_devices,
    })))
}

/// Devices of an application with what they last sent.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = Listed<Device>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}/iot-devices")]
async fn devices(caller: Caller<Reader>, id: PathId, query: Query, state: web::Data<AppState>) -> ApiResult {
    let id = ApplicationId(id.of_list()?);
    may_list(&caller, &state, id).await?;
    let found = state.admin().application_devices(id, &query.page()?).await?;
    Ok(listed(found.rows.iter().map(device_listing).collect(), found.num_all))
}

/// Devices of an organisation, for the map.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}/iot-devices-org")]
async fn devices_of_organization(
    caller: Caller<Reader>,
    id: PathId,
    query: Query,
    state: web::Data<AppState>,
) -> ApiResult {
    let filter = filter(&caller, &query, Some(OrganizationId(id.of_list()?)))?;
    let found = state.admin().organization_devices(&filter, NUM_MAP_DEVICES_MAX).await?;
    Ok(ok(found.iter().map(application_shape::device).collect()))
}

/// Devices of an application, for the map.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}/iot-devices-map")]
async fn map(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let id = ApplicationId(id.of_list()?);
    may_list(&caller, &state, id).await?;
    Ok(ok(state.admin().application_map(id).await?.iter().map(map_device).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_checked_in_the_references_words() {
        let body = json!({"name": "x".repeat(51), "organizationId": 1, "contactPhone": "abc", "status": "MAYBE"});
        let error = draft(&body, None).unwrap_err();
        let items = error.body()["message"].as_array().unwrap().clone();
        let of = |name: &str| items.iter().find(|i| i["property"] == name).unwrap()["constraints"].clone();
        assert_eq!(of("name"), json!({"maxLength": "name must be shorter than or equal to 50 characters"}));
        assert_eq!(of("contactPhone"), json!({"isPhoneNumberString": "contactPhone must be a valid phone number"}));
        assert_eq!(
            of("status"),
            json!({"isEnum": "status must be one of the following values: NONE, IN-OPERATION, PROJECT, PROTOTYPE, OTHER"})
        );
    }

    #[test]
    fn an_application_without_an_organisation_lands_in_none() {
        let body = json!({"name": "Parking"});
        assert_eq!(draft(&body, None).unwrap_err().body()["message"][0]["property"], "organizationId");
        assert_eq!(draft(&body, Some(OrganizationId(4))).unwrap().organization, OrganizationId(4));
    }

    #[test]
    fn phone_numbers_have_six_digits_in_a_row_and_twelve_characters() {
        for (text, expected) in [("12345678", true), ("+45123456789", true), ("abc", false), ("12 34 56 78", false)] {
            assert_eq!(is_phone_number(text), expected, "{text}");
        }
        let body = json!({"name": "A", "organizationId": 1, "contactPhone": "1234567890123"});
        let error = draft(&body, None).unwrap_err();
        let text = "contactPhone must be shorter than or equal to 12 characters";
        assert_eq!(error.body()["message"][0]["constraints"], json!({"maxLength": text}));
    }
}
