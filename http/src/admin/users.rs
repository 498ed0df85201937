//! Users (control-plane 2.4, without waiting users' acceptance). An account is changed only by whoever administers all of its
//! organisations; a global administrator's only by another.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{get, post, put};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sluse_schema::id::{OrganizationId, UserId};
use sluse_schema::permission::Role;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{
    AccountScope, AdminError, NewUser, PermissionDetail, UserChange, UserDetail, UserQuery,
};
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Anyone, Caller, Reader, TokenOnly, UserAdmin};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, listed, ok, text};
use crate::openapi as shape;
use crate::openapi::{
    Listed,
    tenants::{User, UserDraft, UserNames},
};
use crate::page::{PageQuery, Query};
use crate::password::PASSWORD_CHARS;
use crate::validate::{Form, Rule};

type Admin = Caller<TokenOnly<UserAdmin>>;

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create)
        .service(list)
        .service(minimal)
        .service(of_organization)
        .service(awaiting)
        .service(awaiting_of_organization)
        .service(hide_welcome)
        .service(one)
        .service(update)
        // What the web client reads at log-in, to turn ids into names.
        .service(names_at_log_in);
}

/// What a body says of a user.
struct UserForm {
    name: String,
    email: Option<String>,
    password: Option<String>,
    is_active: Option<bool>,
    expires_at: Option<DateTime<Utc>>,
    says_expiry: bool,
    is_global_admin: Option<bool>,
    permissions: Option<Vec<i64>>,
}

fn parse(body: &Value, is_new: bool) -> ApiResult<UserForm> {
    let mut form = Form::of(body);
    let name = form.text("name", &[Rule::Length(1, 50), Rule::NotBlank]);
    let email =
        if is_new || form.get("email").is_some() { Some(form.checked_text("email", &[Rule::Email])) } else { None };
    let password = if is_new {
        Some(form.text("password", &[Rule::Length(PASSWORD_CHARS.0, PASSWORD_CHARS.1)]))
    } else {
        // The web client sends an empty one when it is not to change.
        form.text_opt("password", &[]).filter(|p| !p.is_empty())
    };
    let parsed = UserForm {
        name,
        email,
        password,
        is_active: form.boolean_opt("active"),
        expires_at: form.date_opt("expiresOn"),
        says_expiry: form.has("expiresOn"),
        is_global_admin: form.boolean_opt("globalAdmin"),
        permissions: form.ids_opt("permissionIds"),
    };
    form.finish()?;
    Ok(parsed)
}

/// Organisations of these groups, which must all exist and be of one.
async fn organizations_of(permissions: &[i64], state: &AppState) -> ApiResult<Vec<OrganizationId>> {
    let rows = state.admin().permissions_by_id(permissions).await?;
    let mut ids: Vec<OrganizationId> = rows.iter().filter_map(|p| p.organization_id).collect();
    if ids.len() != permissions.len() {
        return Err(ApiError::bad_request(code::ID_DOES_NOT_EXIST));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

async fn hashed(password: String, state: &AppState) -> ApiResult<sluse_schema::secret::Secret> {
    state.passwords.hash(password).await.map_err(|error| {
        tracing::error!(%error, "a password could not be hashed");
        ApiError::internal()
    })
}

fn with_organizations(detail: &UserDetail) -> Value {
    let mut row = view::with_authors(view::user(&detail.user), &detail.user.stamps);
    row["permissions"] = detail
        .permissions
        .iter()
        .map(|p| {
            let mut permission = view::permission(&p.permission);
            permission["organization"] = p.organization.as_ref().map_or(Value::Null, view::organization);
            permission
        })
        .collect();
    row
}

/// Creates a user.
#[utoipa::path(
    tag = "user",
    request_body = UserDraft,
    responses((status = 201, body = shape::tenants::UserDetail)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[post("/user")]
async fn create(caller: Admin, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let form = parse(&body, true)?;
    let permissions = form.permissions.unwrap_or_default();
    let organizations = organizations_of(&permissions, &state).await?;
    let is_global_admin = form.is_global_admin.unwrap_or(false);
    let permit = caller.write(Resource::Account { user: UserId(0), organizations, is_global_admin })?;
    let new = NewUser {
        name: form.name,
        email: form.email.unwrap_or_default(),
        password_hash: hashed(form.password.unwrap_or_default(), &state).await?,
        is_active: form.is_active.unwrap_or(true),
        expires_at: form.expires_at,
        is_global_admin,
        permissions,
    };
    let result = state.admin().create_user(&permit, &caller.changed_by, &new).await;
    match result {
        Ok(detail) => Ok(created(with_organizations(&detail))),
        Err(AdminError::Taken(_)) => Err(ApiError::bad_request(code::USER_ALREADY_EXISTS)),
        Err(error) => Err(error.into()),
    }
}

async fn scope_of(id: UserId, state: &AppState) -> ApiResult<AccountScope> {
    state.admin().account_scopes(&[id]).await?.pop().ok_or_else(ApiError::unknown_id)
}

/// Changes a user; the groups are replaced.
#[utoipa::path(
    tag = "user",
    params(("id" = i64, Path)),
    request_body = UserDraft,
    responses((status = 200, body = shape::tenants::UserDetail)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[put("/user/{id}")]
async fn update(caller: Admin, id: PathId, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let id = UserId(id.0);
    let form = parse(&body, false)?;
    let scope = scope_of(id, &state).await?;
    let mut organizations = scope.organizations;
    if let Some(permissions) = &form.permissions {
        organizations.extend(organizations_of(permissions, &state).await?);
        organizations.sort_unstable();
        organizations.dedup();
    }
    let is_global_admin = scope.is_global_admin || form.is_global_admin == Some(true);
    let permit = caller.write(Resource::Account { user: id, organizations, is_global_admin })?;
    let before = state.admin().user(id, false).await?;
    if before.user.name_id.is_some() && (form.password.is_some() || form.name != before.user.name) {
        return Err(ApiError::bad_request(code::CANNOT_MODIFY_ON_KOMBIT_USER));
    }
    let is_bad = |p: &String| !(PASSWORD_CHARS.0..=PASSWORD_CHARS.1).contains(&p.chars().count());
    if form.password.as_ref().is_some_and(is_bad) {
        return Err(ApiError::bad_request(code::PASSWORD_DOES_NOT_MEET_REQUIREMENTS));
    }
    let password_hash = match form.password {
        Some(password) => Some(hashed(password, &state).await?),
        None => None,
    };
    let change = UserChange {
        name: form.name,
        email: form.email,
        password_hash,
        is_active: form.is_active,
        expires_at: form.says_expiry.then_some(form.expires_at),
        is_global_admin: form.is_global_admin,
        permissions: form.permissions,
    };
    let result = state.admin().update_user(&permit, &caller.changed_by, id, &change).await;
    match result {
        Ok(detail) => Ok(ok(with_organizations(&detail))),
        Err(AdminError::Taken(_)) => Err(ApiError::bad_request(code::EMAIL_ALREADY_IN_USE)),
        Err(error) => Err(error.into()),
    }
}

/// One user with his groups.
#[utoipa::path(
    tag = "user",
    params(("id" = i64, Path), ("extendedInfo" = Option<String>, Query)),
    responses((status = 200, body = shape::tenants::UserDetail)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/{id}")]
async fn one(caller: Admin, id: PathId, query: Query, state: web::Data<AppState>) -> ApiResult {
    let id = UserId(id.0);
    let scope = scope_of(id, &state).await?;
    caller.read(Resource::Account {
        user: id,
        organizations: scope.organizations,
        is_global_admin: scope.is_global_admin,
    })?;
    let is_extended = query.text("extendedInfo").is_some_and(|v| v != "false");
    let detail = state.admin().user(id, is_extended).await?;
    let mut row = view::with_authors(view::user(&detail.user), &detail.user.stamps);
    row["permissions"] = detail
        .permissions
        .iter()
        .map(|p| if is_extended { extended(p, &caller) } else { view::permission(&p.permission) })
        .collect();
    row["requestedOrganizations"] = detail.requested_organizations.iter().map(view::organization).collect();
    Ok(ok(row))
}

/// A group with its members, as far as the caller administers them.
fn extended(detail: &PermissionDetail, caller: &Admin) -> Value {
    let mut row = view::permission_with_levels(detail);
    let resource = detail.permission.organization_id.map_or(Resource::Platform, Resource::OrganizationUsers);
    let sees_members = caller.read(resource).is_ok();
    row["users"] = detail.users.iter().filter(|_| sees_members).map(view::user).collect();
    row
}

/// Users that the caller administers.
#[utoipa::path(
    tag = "user",
    params(PageQuery),
    responses((status = 200, body = Listed<User>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user")]
async fn list(caller: Admin, query: Query, state: web::Data<AppState>) -> ApiResult {
    let page = query.page()?;
    let is_global = caller.principal.is_global_admin();
    let filter = if is_global {
        UserQuery::All
    } else {
        UserQuery::InOrganizations(caller.principal.organizations_with(&[Role::OrganizationUserAdmin]))
    };
    let found = state.admin().users(&filter, &page).await?;
    let rows = found
        .rows
        .iter()
        .map(|listing| {
            let mut row = view::user(&listing.user);
            if is_global {
                row["permissions"] = listing
                    .permissions
                    .iter()
                    .map(|p| {
                        let mut permission = view::permission(&p.permission);
                        permission["type"] = p.levels.iter().map(view::level).collect();
                        permission
                    })
                    .collect();
            }
            row
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Users of an organisation.
#[utoipa::path(
    tag = "user",
    params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = Listed<User>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/organizationUsers/{id}")]
async fn of_organization(caller: Admin, id: PathId, query: Query, state: web::Data<AppState>) -> ApiResult {
    let id = OrganizationId(id.0);
    caller.read(Resource::OrganizationUsers(id)).map_err(|_| ApiError::unknown_id())?;
    let found = state.admin().users(&UserQuery::InOrganizations(vec![id]), &query.page()?).await?;
    Ok(listed(found.rows.iter().map(|l| view::user(&l.user)).collect(), found.num_all))
}

async fn list_awaiting(filter: UserQuery, query: &Query, state: &AppState) -> ApiResult {
    let found = state.admin().users(&filter, &query.page()?).await?;
    let ids: Vec<UserId> = found.rows.iter().map(|l| l.user.id).collect();
    let scopes = state.admin().account_scopes(&ids).await?;
    let rows = found
        .rows
        .iter()
        .map(|listing| {
            let requested = scopes.iter().find(|s| s.user == listing.user.id).map(|s| s.requested.clone());
            let mut row = view::user(&listing.user);
            row["requestedOrganizations"] =
                requested.unwrap_or_default().into_iter().map(|id| json!({"id": id})).collect();
            row
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Users that wait to be accepted.
#[utoipa::path(
    tag = "user",
    responses((status = 200, body = Listed<User>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/awaitingUsers")]
async fn awaiting(caller: Admin, query: Query, state: web::Data<AppState>) -> ApiResult {
    let principal = &caller.principal;
    let among = (!principal.is_global_admin()).then(|| principal.organizations_with(&[Role::OrganizationUserAdmin]));
    list_awaiting(UserQuery::Awaiting(among), &query, &state).await
}

/// Users that wait to be accepted by one organisation.
#[utoipa::path(
    tag = "user",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<User>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/awaitingUsers/{id}")]
async fn awaiting_of_organization(caller: Admin, id: PathId, query: Query, state: web::Data<AppState>) -> ApiResult {
    let id = OrganizationId(id.0);
    caller.read(Resource::OrganizationUsers(id))?;
    list_awaiting(UserQuery::Awaiting(Some(vec![id])), &query, &state).await
}

/// Ids and names of users.
#[utoipa::path(
    tag = "user",
    responses((status = 200, body = UserNames)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/user/minimal")]
async fn minimal(_caller: Admin, state: web::Data<AppState>) -> ApiResult {
    all_names(&state).await
}

/// Ids and names of users, to name those who created and changed things.
#[utoipa::path(
    tag = "kombitCreation",
    responses((status = 200, body = UserNames)),
    security(("token" = [])),
)]
#[get("/kombitCreation/minimalUsers")]
async fn names_at_log_in(_caller: Caller<TokenOnly<Anyone>>, state: web::Data<AppState>) -> ApiResult {
    all_names(&state).await
}

async fn all_names(state: &AppState) -> ApiResult {
    let users: Vec<Value> =
        state.admin().user_names().await?.into_iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
    Ok(ok(json!({"users": users})))
}

/// Acts on the caller, whatever the path says.
#[utoipa::path(
    tag = "user",
    params(("id" = i64, Path)),
    responses((status = 200, body = bool, content_type = "text/html")),
    security(("token" = ["Read"])),
)]
#[put("/user/{id}/hide-welcome")]
async fn hide_welcome(caller: Caller<TokenOnly<Reader>>, state: web::Data<AppState>) -> ApiResult {
    let own = caller.principal.user;
    let permit = caller.write(Resource::Own(own))?;
    let is_hidden = state.admin().hide_welcome(&permit, &caller.changed_by, own).await?;
    Ok(text(StatusCode::OK, is_hidden.to_string()))
}
