//! Organisations (control-plane 2.5).

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use sluse_schema::id::OrganizationId;
use sluse_schema::permission::{Principal, Role};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{AdminError, OrganizationRow, PermissionRow};

use super::view;
use crate::authz::{Anyone, ApplicationAdmin, Caller, GatewayAdmin, GlobalAdmin, Reader, TokenOnly, UserAdmin};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok};
use crate::page::Query;
use crate::validate::{Form, Rule};

/// Routes.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.route("/organization", web::post().to(create))
        .route("/organization", web::get().to(list))
        .route("/organization/minimal", web::get().to(minimal))
        .route("/organization/applicationAdmin", web::get().to(list_for_application_admin))
        .route("/organization/gatewayAdmin", web::get().to(list_for_gateway_admin))
        .route("/organization/{id}", web::get().to(one))
        .route("/organization/{id}", web::put().to(rename))
        .route("/organization/{id}", web::delete().to(delete))
        // What the web client reads at log-in.
        .route("/kombitCreation/minimal", web::get().to(names));
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

async fn create(caller: Caller<GlobalAdmin>, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let name = name_of(&body)?;
    let permit = caller.write(Resource::Platform)?;
    let row = state.admin().create_organization(&permit, &caller.changed_by, &name).await.map_err(taken)?;
    Ok(created(view::with_authors(view::organization(&row), &row.stamps)))
}

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

async fn one(caller: Caller<UserAdmin>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let id = OrganizationId(id.0);
    // Another tenant's organisation is as good as none.
    caller.read(Resource::OrganizationUsers(id)).map_err(|_| ApiError::unknown_id())?;
    let (row, permissions) = state.admin().organization(id).await?;
    Ok(ok(detail(&row, &permissions)))
}

async fn list_with(principal: &Principal, role: Role, query: &Query, state: &AppState) -> ApiResult {
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

async fn list(caller: Caller<UserAdmin>, query: Query, state: web::Data<AppState>) -> ApiResult {
    list_with(&caller.principal, Role::OrganizationUserAdmin, &query, &state).await
}

async fn list_for_application_admin(
    caller: Caller<ApplicationAdmin>,
    query: Query,
    state: web::Data<AppState>,
) -> ApiResult {
    list_with(&caller.principal, Role::OrganizationApplicationAdmin, &query, &state).await
}

async fn list_for_gateway_admin(caller: Caller<GatewayAdmin>, query: Query, state: web::Data<AppState>) -> ApiResult {
    list_with(&caller.principal, Role::OrganizationGatewayAdmin, &query, &state).await
}

async fn all_names(state: &AppState) -> ApiResult<HttpResponse> {
    let names = state.admin().organization_names().await?;
    let num_all = names.len() as i64;
    Ok(listed(names.into_iter().map(|(id, name)| json!({"id": id, "name": name})).collect(), num_all))
}

async fn minimal(_caller: Caller<Reader>, state: web::Data<AppState>) -> ApiResult {
    all_names(&state).await
}

async fn names(_caller: Caller<TokenOnly<Anyone>>, state: web::Data<AppState>) -> ApiResult {
    all_names(&state).await
}
