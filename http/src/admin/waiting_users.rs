//! Who waits to be let into an organisation, is let in, or is sent away (control-plane 2.4, 2.6). He is told by mail first: without it
//! nothing is changed. Asking is in [`super::kombit_creation`].

use actix_web::{get, put, web};
use serde_json::json;
use sluse_schema::id::{OrganizationId, UserId};
use sluse_schema::permission::Role;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{AdminError, UserQuery};
use utoipa_actix_web::service_config::ServiceConfig;

use super::users::{Admin, ORDER};
use super::{mails, view};
use crate::authz::{Anyone, Caller, TokenOnly};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, listed, ok};
use crate::openapi::{
    Listed,
    access::{AcceptUserDraft, OrganizationWithWaiting, RejectUserDraft},
    tenants,
};
use crate::page::Query;
use crate::validate::Form;

/// Routes; before those of users and groups, whose ids would take their names.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(reject).service(accept).service(awaiting).service(awaiting_of_organization);
}

async fn list_awaiting(caller: &Admin, filter: UserQuery, query: &Query, state: &AppState) -> ApiResult {
    let found = state.admin().users(&filter, &query.page()?.within(&ORDER)).await?;
    let ids: Vec<UserId> = found.rows.iter().map(|l| l.user.id).collect();
    let scopes = state.admin().account_scopes(&ids).await?;
    let rows = found
        .rows
        .iter()
        .map(|listing| {
            let requested = scopes.iter().find(|s| s.user == listing.user.id).map(|s| s.requested.clone());
            let mut row = view::user(&listing.user);
            row["requestedOrganizations"] = requested
                .unwrap_or_default()
                .into_iter()
                .filter(|id| caller.read(Resource::OrganizationUsers(*id)).is_ok())
                .map(|id| json!({"id": id}))
                .collect();
            row
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Users that wait to be accepted.
#[utoipa::path(
    tag = "user",
    responses((status = 200, body = Listed<tenants::User>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/awaitingUsers")]
async fn awaiting(caller: Admin, query: Query, state: web::Data<AppState>) -> ApiResult {
    let principal = &caller.principal;
    let among = (!principal.is_global_admin()).then(|| principal.organizations_with(&[Role::OrganizationUserAdmin]));
    list_awaiting(&caller, UserQuery::Awaiting(among), &query, &state).await
}

/// Users that wait to be accepted by one organisation.
#[utoipa::path(
    tag = "user",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<tenants::User>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/awaitingUsers/{id}")]
async fn awaiting_of_organization(caller: Admin, id: PathId, query: Query, state: web::Data<AppState>) -> ApiResult {
    let id = OrganizationId(id.of_list()?);
    caller.read(Resource::OrganizationUsers(id))?;
    list_awaiting(&caller, UserQuery::Awaiting(Some(vec![id])), &query, &state).await
}

/// Sends somebody away who waits to be let into an organisation, and tells him so by mail.
#[utoipa::path(
    tag = "user",
    request_body = RejectUserDraft,
    responses((status = 200, body = OrganizationWithWaiting)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[put("/user/rejectUser")]
async fn reject(caller: Admin, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("orgId", None));
    let id = UserId(form.id("userIdToReject", None));
    form.finish()?;
    let permit = caller.write(Resource::OrganizationUsers(organization))?;
    let missing = || ApiError::not_found(code::USER_DOES_NOT_EXIST);
    let scope = state.admin().account_scopes(&[id]).await?.pop().ok_or_else(missing)?;
    if !scope.requested.contains(&organization) {
        return Err(missing());
    }
    let user = state.admin().user(id, false).await?.user;
    let (of, _) = state.admin().organization(organization).await?;
    mails::send(&state, mails::access_refused(&state, &user, &of)).await?;
    let result = state.admin().reject_user(&permit, &caller.changed_by, id, organization).await;
    let (of, waiting) = result.map_err(|error| match error {
        AdminError::NotFound => missing(),
        other => other.into(),
    })?;
    let mut row = view::organization(&of);
    row["awaitingUsers"] = waiting.iter().map(view::user).collect();
    Ok(ok(row))
}

/// Lets somebody who waits into an organisation, with some of its groups, and tells him so by mail.
#[utoipa::path(
    tag = "permission",
    request_body = AcceptUserDraft,
    responses((status = 200, body = tenants::UserDetail)),
    security(("token" = [])),
)]
#[put("/permission/acceptUser")]
async fn accept(caller: Caller<TokenOnly<Anyone>>, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("organizationId", None));
    let id = UserId(form.id("userId", None));
    let groups = form.distinct_ids("permissionIds");
    form.finish()?;
    let permit = caller.write(Resource::OrganizationUsers(organization))?;
    let missing = || ApiError::not_found(code::USER_DOES_NOT_EXIST);
    let scope = state.admin().account_scopes(&[id]).await?.pop().ok_or_else(missing)?;
    let detail = state.admin().user(id, false).await?;
    let is_in_already = detail
        .permissions
        .iter()
        .any(|p| p.permission.organization_id == Some(organization) && groups.contains(&p.permission.id));
    if is_in_already {
        return Err(ApiError::bad_request(code::USER_ALREADY_IN_PERMISSION));
    }
    // Nobody is pulled into an organisation who did not ask for it.
    if !scope.requested.contains(&organization) {
        return Err(missing());
    }
    let named = state.admin().permissions_by_id(&groups).await?;
    if !named.iter().any(|p| p.organization_id == Some(organization)) {
        return Err(ApiError::bad_request(code::ID_DOES_NOT_EXIST));
    }
    let (of, _) = state.admin().organization(organization).await?;
    mails::send(&state, mails::access_granted(&state, &detail.user, &of)).await?;
    let result = state.admin().accept_user(&permit, &caller.changed_by, id, organization, &groups).await;
    let accepted = result.map_err(|error| match error {
        AdminError::NotFound => missing(),
        other => other.into(),
    })?;
    let is_own = |of: OrganizationId| caller.read(Resource::OrganizationUsers(of)).is_ok();
    let mut row = view::with_authors(view::user(&accepted.user), &accepted.user.stamps);
    row["permissions"] = accepted
        .permissions
        .iter()
        .filter(|p| p.permission.organization_id.is_some_and(is_own))
        .map(|p| view::permission(&p.permission))
        .collect();
    row["requestedOrganizations"] =
        accepted.requested_organizations.iter().filter(|o| is_own(o.id)).map(view::organization).collect();
    Ok(ok(row))
}
