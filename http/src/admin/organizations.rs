//! Organisations (control-plane 2.5).

use actix_web::{HttpResponse, web};
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::id::OrganizationId;
use sluse_schema::permission::{Principal, Role};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{AdminError, OrganizationRow, PermissionRow};
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Anyone, ApplicationAdmin, Caller, GatewayAdmin, GlobalAdmin, Reader, TokenOnly, UserAdmin};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok};
use crate::openapi::{
    Deleted, Listed,
    tenants::{Named, Organization, OrganizationDetail, OrganizationDraft, OrganizationListing},
};
use crate::page::{PageQuery, Query};
use crate::validate::{Form, Rule};

const ORDER: [&str; 2] = ["id", "name"];

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create)
        .service(list)
        .service(minimal)
        .service(list_for_application_admin)
        .service(list_for_gateway_admin)
        .service(one)
        .service(rename)
        .service(delete)
        // What the web client reads at log-in.
        .service(names_at_log_in);
}

fn name_of(body: &Value) -> ApiResult<String> {
    let mut form = Form::of(body);
    let name = form.text("name", &[Rule::Max(1024)]);
    form.finish()?;
    Ok(name)
}

fn taken(error: AdminError) -> ApiError {
    match error {
        AdminError::Taken(_) => ApiError::bad_request(code::ORGANIZATION_ALREADY_EXISTS),
        other => other.into(),
    }
}

fn detail(organization: &OrganizationRow, permissions: &[PermissionRow]) -> Value {
    let mut row = view::with_authors(view::organization(organization), &organization.stamps);
    row["permissions"] = permissions.iter().map(view::permission).collect();
    row
}

/// Creates an organisation with its three default groups.
#[utoipa::path(
    tag = "organization",
    request_body = OrganizationDraft,
    responses((status = 201, body = Organization)),
    security(("token" = ["GlobalAdmin"]), ("apiKey" = ["GlobalAdmin"])),
)]
#[post("/organization")]
async fn create(caller: Caller<GlobalAdmin>, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let name = name_of(&body)?;
    let permit = caller.write(Resource::Platform)?;
    let row = state.admin().create_organization(&permit, &caller.changed_by, &name).await.map_err(taken)?;
    Ok(created(view::with_authors(view::organization(&row), &row.stamps)))
}

/// Renames an organisation.
#[utoipa::path(
    tag = "organization",
    params(("id" = i64, Path)),
    request_body = OrganizationDraft,
    responses((status = 200, body = OrganizationDetail)),
    security(("token" = ["GlobalAdmin"]), ("apiKey" = ["GlobalAdmin"])),
)]
#[put("/organization/{id}")]
async fn rename(
    caller: Caller<GlobalAdmin>,
    id: PathId,
    state: web::Data<AppState>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let name = name_of(&body)?;
    let permit = caller.write(Resource::Platform)?;
    let (row, permissions) = state
        .admin()
        .rename_organization(&permit, &caller.changed_by, OrganizationId(id.0), &name)
        .await
        .map_err(taken)?;
    Ok(ok(detail(&row, &permissions)))
}

/// Deletes an organisation and all that belongs to it; refused while it has gateways.
#[utoipa::path(
    tag = "organization",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["GlobalAdmin"]), ("apiKey" = ["GlobalAdmin"])),
)]
#[delete("/organization/{id}")]
async fn delete(caller: Caller<GlobalAdmin>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let permit = caller.write(Resource::Platform)?;
    let result = state.admin().delete_organization(&permit, &caller.changed_by, OrganizationId(id.0)).await;
    match result {
        Ok(num) => Ok(deleted(num)),
        // The reference says the same of an organisation that does not exist.
        Err(AdminError::NotFound | AdminError::InUse("gateway")) => {
            Err(ApiError::bad_request(code::ORGANIZATION_GATEWAYS_EXISTS))
        }
        Err(error) => Err(error.into()),
    }
}

/// One organisation with its groups.
#[utoipa::path(
    tag = "organization",
    params(("id" = i64, Path)),
    responses((status = 200, body = OrganizationDetail)),
    security(("token" = ["OrganizationUserAdmin"]), ("apiKey" = ["OrganizationUserAdmin"])),
)]
#[get("/organization/{id}")]
async fn one(caller: Caller<UserAdmin>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let id = OrganizationId(id.0);
    // Another tenant's organisation is as good as none.
    caller.read(Resource::OrganizationProfile(id)).map_err(|_| ApiError::unknown_id())?;
    let (row, permissions) = state.admin().organization(id).await?;
    Ok(ok(detail(&row, &permissions)))
}

async fn list_with(principal: &Principal, role: Role, query: &Query, state: &AppState) -> ApiResult {
    query.check_direction()?;
    if query.text("orderOn") == Some("lastLogin") {
        // The reference offers it, and has no such column.
        query.check_among("orderOn", &ORDER)?;
    }
    let page = query.page()?;
    let among = (!principal.is_global_admin()).then(|| principal.organizations_with(&[role]));
    let found = state.admin().organizations(among.as_deref(), &page).await?;
    let rows = found
        .rows
        .iter()
        .map(|listing| {
            let mut row = view::organization(&listing.organization);
            row["applications"] = listing.applications.iter().map(view::application).collect();
            row
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Organisations whose users the caller administers.
#[utoipa::path(
    tag = "organization",
    params(PageQuery),
    responses((status = 200, body = Listed<OrganizationListing>)),
    security(("token" = ["OrganizationUserAdmin"]), ("apiKey" = ["OrganizationUserAdmin"])),
)]
#[get("/organization")]
async fn list(caller: Caller<UserAdmin>, query: Query, state: web::Data<AppState>) -> ApiResult {
    list_with(&caller.principal, Role::OrganizationUserAdmin, &query, &state).await
}

/// Organisations in which the caller administers applications.
#[utoipa::path(
    tag = "organization",
    params(PageQuery),
    responses((status = 200, body = Listed<OrganizationListing>)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[get("/organization/applicationAdmin")]
async fn list_for_application_admin(
    caller: Caller<ApplicationAdmin>,
    query: Query,
    state: web::Data<AppState>,
) -> ApiResult {
    list_with(&caller.principal, Role::OrganizationApplicationAdmin, &query, &state).await
}

/// Organisations in which the caller administers gateways.
#[utoipa::path(
    tag = "organization",
    params(PageQuery),
    responses((status = 200, body = Listed<OrganizationListing>)),
    security(("token" = ["OrganizationGatewayAdmin"]), ("apiKey" = ["OrganizationGatewayAdmin"])),
)]
#[get("/organization/gatewayAdmin")]
async fn list_for_gateway_admin(caller: Caller<GatewayAdmin>, query: Query, state: web::Data<AppState>) -> ApiResult {
    list_with(&caller.principal, Role::OrganizationGatewayAdmin, &query, &state).await
}

async fn all_names(state: &AppState) -> ApiResult<HttpResponse> {
    let names = state.admin().organization_names().await?;
    let num_all = names.len() as i64;
    Ok(listed(names.into_iter().map(|(id, name)| json!({"id": id, "name": name})).collect(), num_all))
}

/// Ids and names of all organisations.
#[utoipa::path(
    tag = "organization",
    responses((status = 200, body = Listed<Named>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/organization/minimal")]
async fn minimal(_caller: Caller<Reader>, state: web::Data<AppState>) -> ApiResult {
    all_names(&state).await
}

/// Ids and names of all organisations, for whoever has just logged in.
#[utoipa::path(
    tag = "kombitCreation",
    responses((status = 200, body = Listed<Named>)),
    security(("token" = [])),
)]
#[get("/kombitCreation/minimal")]
async fn names_at_log_in(_caller: Caller<TokenOnly<Anyone>>, state: web::Data<AppState>) -> ApiResult {
    all_names(&state).await
}
