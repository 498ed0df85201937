//! Users (control-plane 2.4). An account (name, address, password, whether it is active) is changed only by whoever administers
//! all of its organisations; a global administrator's only by another. Whoever administers some of them decides about the user's
//! groups there, and sees nothing of the others.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{get, post, put};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sluse_schema::id::{OrganizationId, UserId};
use sluse_schema::permission::Role;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{
    AccountScope, AdminError, NewUser, PermissionDetail, UserChange, UserDetail, UserQuery,
};
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Anyone, Caller, Reader, Rule as CallerRule, TokenOnly, UserAdmin};
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

pub(super) type Admin = Caller<TokenOnly<UserAdmin>>;

/// Columns that lists can be ordered by.
pub(super) const ORDER: [&str; 2] = ["id", "name"];
const ORDER_OF_GLOBAL: [&str; 4] = ["id", "name", "lastLogin", "expiresOn"];

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create)
        .service(list)
        .service(minimal)
        .service(of_organization)
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
        is_active: form.beyond(|form| {
            if form.has("active") && form.get("active").is_none() {
                form.fail("active", "isBoolean", "active must be a boolean value");
            }
            form.boolean_opt("active")
        }),
        expires_at: form.beyond(|form| form.instant_opt("expiresOn")),
        says_expiry: form.has("expiresOn"),
        is_global_admin: form.beyond(|form| form.boolean_opt("globalAdmin")),
        permissions: form.beyond(|form| form.ids_opt("permissionIds")),
    };
    form.finish()?;
    Ok(parsed)
}

/// What groups named in a request are.
struct Groups {
    /// Those that are an organisation's.
    ids: Vec<i64>,
    /// Of which organisations, ascending.
    organizations: Vec<OrganizationId>,
    by_group: Vec<(i64, OrganizationId)>,
    /// Whether the group of global administrators is among them: the web client sends it along with the others.
    has_global: bool,
}

async fn groups(ids: &[i64], state: &AppState) -> ApiResult<Groups> {
    let rows = state.admin().permissions_by_id(ids).await?;
    if rows.len() != ids.len() {
        return Err(ApiError::bad_request(code::ID_DOES_NOT_EXIST));
    }
    let by_group: Vec<_> = rows.iter().filter_map(|p| Some((p.id, p.organization_id?))).collect();
    let mut organizations: Vec<_> = by_group.iter().map(|(_, organization)| *organization).collect();
    organizations.sort_unstable();
    organizations.dedup();
    let has_global = by_group.len() < rows.len();
    Ok(Groups { ids: by_group.iter().map(|(id, _)| *id).collect(), organizations, by_group, has_global })
}

async fn hashed(password: String, state: &AppState) -> ApiResult<sluse_schema::secret::Secret> {
    state.passwords.hash(password).await.map_err(|error| {
        tracing::error!(%error, "a password could not be hashed");
        ApiError::internal()
    })
}

/// Whether the caller may know of a group that somebody is in: his own, and those of organisations whose users he administers.
fn sees_group<R: CallerRule>(caller: &Caller<R>, of: UserId, detail: &PermissionDetail) -> bool {
    let resource = detail.permission.organization_id.map_or(Resource::Platform, Resource::OrganizationUsers);
    of == caller.principal.user || caller.read(resource).is_ok()
}

fn with_organizations(caller: &Admin, detail: &UserDetail) -> Value {
    let mut row = view::with_authors(view::user(&detail.user), &detail.user.stamps);
    row["permissions"] = detail
        .permissions
        .iter()
        .filter(|p| sees_group(caller, detail.user.id, p))
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
    let groups = groups(&form.permissions.unwrap_or_default(), &state).await?;
    let is_global_admin = form.is_global_admin == Some(true) || groups.has_global;
    let permit = caller.write(Resource::NewAccount { organizations: groups.organizations, is_global_admin })?;
    let new = NewUser {
        name: form.name,
        email: form.email.unwrap_or_default(),
        password_hash: hashed(form.password.unwrap_or_default(), &state).await?,
        is_active: form.is_active.unwrap_or(true),
        expires_at: form.expires_at,
        is_global_admin,
        permissions: groups.ids,
    };
    let result = state.admin().create_user(&permit, &caller.changed_by, &new).await;
    match result {
        Ok(detail) => Ok(created(with_organizations(&caller, &detail))),
        Err(AdminError::Taken(_)) => Err(ApiError::bad_request(code::USER_ALREADY_EXISTS)),
        Err(error) => Err(error.into()),
    }
}

async fn scope_of(id: UserId, state: &AppState) -> ApiResult<AccountScope> {
    state.admin().account_scopes(&[id]).await?.pop().ok_or_else(ApiError::unknown_id)
}

/// Changes a user; groups that are given replace those that the caller administers.
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
    let account = Resource::Account {
        user: id,
        organizations: scope.organizations.clone(),
        is_global_admin: scope.is_global_admin,
    };
    let detail = if caller.write(account).is_ok() {
        change_account(&caller, scope, form, &state).await?
    } else {
        change_partly(&caller, &scope, form, &state).await?
    };
    Ok(ok(with_organizations(&caller, &detail)))
}

/// What becomes of name, address and password.
async fn identity(form: &UserForm, before: &UserDetail, state: &AppState) -> ApiResult<UserChange> {
    if before.user.name_id.is_some() && (form.password.is_some() || form.name != before.user.name) {
        return Err(ApiError::bad_request(code::CANNOT_MODIFY_ON_KOMBIT_USER));
    }
    let is_bad = |p: &String| !(PASSWORD_CHARS.0..=PASSWORD_CHARS.1).contains(&p.chars().count());
    if form.password.as_ref().is_some_and(is_bad) {
        return Err(ApiError::bad_request(code::PASSWORD_DOES_NOT_MEET_REQUIREMENTS));
    }
    let password_hash = match &form.password {
        Some(password) => Some(hashed(password.clone(), state).await?),
        None => None,
    };
    Ok(UserChange {
        name: form.name.clone(),
        email: form.email.clone(),
        password_hash,
        is_active: None,
        expires_at: None,
        is_global_admin: None,
        permissions: None,
    })
}

fn refused(error: AdminError) -> ApiError {
    match error {
        AdminError::Taken(_) => ApiError::bad_request(code::EMAIL_ALREADY_IN_USE),
        AdminError::InUse(what) => ApiError::bad_request(format!("{what} cannot be taken away")),
        other => other.into(),
    }
}

/// For whoever administers all of the user's organisations: everything may change.
async fn change_account(
    caller: &Admin,
    scope: AccountScope,
    form: UserForm,
    state: &AppState,
) -> ApiResult<UserDetail> {
    let id = scope.user;
    let groups = match &form.permissions {
        Some(ids) => Some(groups(ids, state).await?),
        None => None,
    };
    let mut organizations = scope.organizations;
    if let Some(groups) = &groups {
        organizations.extend(&groups.organizations);
        organizations.sort_unstable();
        organizations.dedup();
    }
    // Among the groups it only says what is so already: `globalAdmin` makes one, and unmakes him.
    let is_lifted = form.is_global_admin == Some(true)
        || (form.is_global_admin.is_none() && groups.as_ref().is_some_and(|g| g.has_global));
    let is_global_admin = scope.is_global_admin || is_lifted;
    let permit = caller.write(Resource::Account { user: id, organizations, is_global_admin })?;
    let before = state.admin().user(id, false).await?;
    let change = UserChange {
        is_active: form.is_active,
        expires_at: form.says_expiry.then_some(form.expires_at),
        is_global_admin: if is_lifted { Some(true) } else { form.is_global_admin },
        permissions: groups.map(|g| g.ids),
        ..identity(&form, &before, state).await?
    };
    state.admin().update_user(&permit, &caller.changed_by, id, &change).await.map_err(refused)
}

/// For whoever administers some of the user's organisations: his groups there may change, the rest may not. Of himself he changes
/// name, address and password as well.
async fn change_partly(
    caller: &Admin,
    scope: &AccountScope,
    form: UserForm,
    state: &AppState,
) -> ApiResult<UserDetail> {
    let administered = caller.principal.organizations_with(&[Role::OrganizationUserAdmin]);
    if !scope.organizations.iter().any(|o| administered.contains(o)) && scope.user != caller.principal.user {
        return Err(ApiError::forbidden());
    }
    let before = state.admin().user(scope.user, false).await?;
    let is_own_identity = scope.user == caller.principal.user;
    if !leaves_rights(&form, scope, &before) || !(is_own_identity || leaves_identity(&form, &before)) {
        return Err(ApiError::forbidden());
    }
    let memberships = memberships(caller, scope, &form, &before, state).await?;
    let mut detail = before;
    if !leaves_identity(&form, &detail) {
        let permit = caller.write(Resource::Own(scope.user))?;
        let change = identity(&form, &detail, state).await?;
        detail = state.admin().update_user(&permit, &caller.changed_by, scope.user, &change).await.map_err(refused)?;
    }
    if let Some((permits, groups)) = memberships {
        detail = state.admin().set_memberships(&permits, &caller.changed_by, scope.user, &groups).await?;
    }
    Ok(detail)
}

/// The groups that a user is to have in the organisations that the caller administers, with the permits for them; `None`: nothing
/// was said.
async fn memberships(
    caller: &Admin,
    scope: &AccountScope,
    form: &UserForm,
    before: &UserDetail,
    state: &AppState,
) -> ApiResult<Option<(Vec<Permit>, Vec<i64>)>> {
    let Some(ids) = &form.permissions else { return Ok(None) };
    let wanted = groups(ids, state).await?;
    if wanted.has_global && !scope.is_global_admin {
        return Err(ApiError::forbidden());
    }
    let administered = caller.principal.organizations_with(&[Role::OrganizationUserAdmin]);
    let (own, foreign): (Vec<_>, Vec<_>) =
        wanted.by_group.into_iter().partition(|(_, organization)| administered.contains(organization));
    // Groups elsewhere stay: he may name them, not add to them.
    let is_in = |group: i64| before.permissions.iter().any(|p| p.permission.id == group);
    if !foreign.iter().all(|(group, _)| is_in(*group)) {
        return Err(ApiError::forbidden());
    }
    let permits = administered
        .into_iter()
        .map(|organization| caller.write(Resource::OrganizationUsers(organization)))
        .collect::<ApiResult<Vec<_>>>()?;
    Ok(Some((permits, own.into_iter().map(|(group, _)| group).collect())))
}

/// Whether a body leaves name, address and password as they are: the web client sends whole objects.
fn leaves_identity(form: &UserForm, before: &UserDetail) -> bool {
    let user = &before.user;
    let has_same_email =
        form.email.as_ref().is_none_or(|sent| user.email.as_ref().is_some_and(|e| e.eq_ignore_ascii_case(sent)));
    form.name == user.name && form.password.is_none() && has_same_email
}

/// Whether a body leaves what the account is good for as it is.
fn leaves_rights(form: &UserForm, scope: &AccountScope, before: &UserDetail) -> bool {
    let user = &before.user;
    form.is_active.is_none_or(|sent| sent == user.is_active)
        && form.is_global_admin.is_none_or(|sent| sent == scope.is_global_admin)
        && (!form.says_expiry || form.expires_at == user.expires_at)
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
    // Whoever waits to be let in has to be seen by whom it concerns.
    let organizations = scope.organizations.iter().chain(&scope.requested).copied().collect();
    caller.read(Resource::Account { user: id, organizations, is_global_admin: scope.is_global_admin })?;
    detail(&caller, id, &query, &state).await
}

/// A user, whom the caller may read, with as many of his groups as concern the caller.
pub(super) async fn detail<R: CallerRule>(
    caller: &Caller<R>,
    id: UserId,
    query: &Query,
    state: &AppState,
) -> ApiResult {
    let is_extended = query.text("extendedInfo").is_some_and(|v| v != "false");
    let detail = state.admin().user(id, is_extended).await?;
    let mut row = view::with_authors(view::user(&detail.user), &detail.user.stamps);
    row["permissions"] = detail
        .permissions
        .iter()
        .filter(|p| sees_group(caller, id, p))
        .map(|p| if is_extended { extended(p, caller) } else { view::permission(&p.permission) })
        .collect();
    row["requestedOrganizations"] = detail
        .requested_organizations
        .iter()
        .filter(|o| id == caller.principal.user || caller.read(Resource::OrganizationUsers(o.id)).is_ok())
        .map(view::organization)
        .collect();
    Ok(ok(row))
}

/// A group with its members, as far as the caller administers them.
fn extended<R: CallerRule>(detail: &PermissionDetail, caller: &Caller<R>) -> Value {
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
    let is_global = caller.principal.is_global_admin();
    query.check_direction()?;
    let page = query.page()?.within(if is_global { &ORDER_OF_GLOBAL } else { &ORDER });
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
    let id = OrganizationId(id.of_list()?);
    caller.read(Resource::OrganizationUsers(id)).map_err(|_| ApiError::unknown_id())?;
    let found = state.admin().users(&UserQuery::InOrganizations(vec![id]), &query.page()?.within(&ORDER)).await?;
    Ok(listed(found.rows.iter().map(|l| view::user(&l.user)).collect(), found.num_all))
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
