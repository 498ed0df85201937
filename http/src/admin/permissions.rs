//! User groups (control-plane 2.6), with the reference's holes closed: nobody makes a group of global administrators, groups hold
//! applications of their own organisation only, and whoever does not administer an organisation's users sees only his own groups.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::id::{ApplicationId, OrganizationId, UserId};
use sluse_schema::permission::{Principal, Role};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{
    AdminError, NewPermission, PermissionChange, PermissionDetail, PermissionQuery, PermissionRow,
};
use utoipa_actix_web::service_config::ServiceConfig;

use super::{application_shape, view};
use crate::authz::{Anyone, Caller, Rule as CallerRule, TokenOnly, UserAdmin};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok};
use crate::openapi as shape;
use crate::openapi::{
    Deleted, Listed,
    applications::ApplicationListing,
    tenants::{PermissionDraft, User},
};
use crate::page::{PageQuery, Query};
use crate::validate::{FieldError, Form, Rule};

/// Columns that lists can be ordered by.
const ORDER: [&str; 4] = ["id", "name", "type", "organisations"];

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create)
        .service(list)
        .service(list_for_application_admin)
        .service(list_without_users)
        .service(one)
        .service(update)
        .service(delete)
        .service(applications_of)
        .service(users_of);
}

fn resource_of(row: &PermissionRow) -> Resource {
    row.organization_id.map_or(Resource::Platform, Resource::OrganizationUsers)
}

/// Unknown groups have the short form of 404 here.
fn missing(error: AdminError) -> ApiError {
    match error {
        AdminError::NotFound => ApiError::bare(StatusCode::NOT_FOUND),
        other => other.into(),
    }
}

fn full(detail: &PermissionDetail) -> Value {
    let mut row = view::with_authors(view::permission_with_levels(detail), &detail.permission.stamps);
    row["users"] = detail.users.iter().map(view::user).collect();
    row["applications"] = detail.applications.iter().map(view::application).collect();
    row
}

const NO_LEVEL: &str = "each value in nested property levels must be either object or array";

/// What is wrong with a level that names no role.
fn no_role(level: &Value) -> FieldError {
    let text = format!("type must be one of the following values: {}", Role::ALL.map(Role::as_str).join(", "));
    FieldError::new("type", level.get("type").cloned()).failing("isEnum", text).about(level.clone())
}

/// The roles of `levels`, or what is wrong with them in class-validator's form.
fn levels(form: &mut Form<'_>) -> Vec<Role> {
    let Some(items) = form.get("levels").and_then(Value::as_array) else {
        form.fail("levels", "ArrayDistinct", code::DUPLICATE_PERMISSION_TYPES);
        form.fail("levels", "isArray", "levels must be an array");
        match form.get("levels") {
            Some(level) if level.is_object() => {
                let children = vec![no_role(level)];
                form.fail_inside("levels", children);
            }
            _ if form.has("levels") => form.fail("levels", "nestedValidation", NO_LEVEL),
            _ => {}
        }
        return Vec::new();
    };
    let mut roles = Vec::with_capacity(items.len());
    let mut children = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.get("type").and_then(Value::as_str).and_then(Role::of_str) {
            Some(role) => roles.push(role),
            None if !item.is_object() && !item.is_array() => {
                let outer = FieldError::new(&index.to_string(), Some(item.clone()))
                    .failing("nestedValidation", NO_LEVEL)
                    .about(Value::Array(items.clone()));
                children.push(outer);
            }
            None => {
                let inner = no_role(item);
                let outer = FieldError::new(&index.to_string(), Some(item.clone()))
                    .about(Value::Array(items.clone()))
                    .with_children(vec![inner]);
                children.push(outer);
            }
        }
    }
    form.fail_inside("levels", children);
    let num_roles = roles.len();
    roles.sort_unstable();
    roles.dedup();
    if roles.len() != num_roles {
        form.fail("levels", "ArrayDistinct", code::DUPLICATE_PERMISSION_TYPES);
    }
    roles
}

/// Name of the group of global administrators, which the web client knows them by: of a user in a group of that name it sends
/// `globalAdmin: true` when a global administrator saves him.
const NAME_OF_GLOBAL: &str = "GlobalAdmin";

/// No tenant's group is called so, however it is written: or its members would be lifted by the next who edits them.
fn check_name(name: &str) -> ApiResult<()> {
    let letters: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    if letters == NAME_OF_GLOBAL.to_lowercase() {
        return Err(ApiError::bad_request(code::NAME_INVALID_OR_ALREADY_IN_USE));
    }
    Ok(())
}

/// Whether the caller may put these users into a group: those of organisations whose users he administers, and those who asked to
/// be let into one.
async fn check_members<R: CallerRule>(caller: &Caller<R>, users: &[UserId], state: &AppState) -> ApiResult<()> {
    if users.is_empty() || caller.principal.is_global_admin() {
        return Ok(());
    }
    let scopes = state.admin().account_scopes(users).await?;
    if scopes.len() != users.len() {
        return Err(ApiError::unknown_id());
    }
    let administered = caller.principal.organizations_with(&[Role::OrganizationUserAdmin]);
    let is_known = |ids: &[OrganizationId]| ids.iter().any(|o| administered.contains(o));
    let is_allowed = scopes.iter().all(|s| is_known(&s.organizations) || is_known(&s.requested));
    if is_allowed { Ok(()) } else { Err(ApiError::forbidden()) }
}

/// Creates a user group.
#[utoipa::path(
    tag = "permission",
    request_body = PermissionDraft,
    responses((status = 201, body = shape::tenants::PermissionDetail)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[post("/permission")]
async fn create(
    caller: Caller<TokenOnly<UserAdmin>>,
    state: web::Data<AppState>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let mut form = Form::of(&body);
    let roles = levels(&mut form);
    let name = form.text("name", &[Rule::Length(1, 1024)]);
    let organization = OrganizationId(form.id("organizationId", None));
    let users = form.beyond(|form| form.ids_opt("userIds")).unwrap_or_default();
    let users: Vec<UserId> = users.into_iter().map(UserId).collect();
    let applications = form.beyond(|form| form.ids_opt("applicationIds")).unwrap_or_default();
    let applications = applications.into_iter().map(ApplicationId).collect();
    // Nothing but `true` says so, and nothing else is wrong: as in the reference.
    let automatically_add_new_applications = form.get("automaticallyAddNewApplications") == Some(&json!(true));
    form.finish()?;
    let permit = caller.write(Resource::OrganizationUsers(organization))?;
    if roles.contains(&Role::GlobalAdmin) {
        // There is one such group, and it belongs to no organisation.
        return Err(ApiError::forbidden());
    }
    check_name(&name)?;
    check_members(&caller, &users, &state).await?;
    let new = NewPermission { name, organization, roles, users, applications, automatically_add_new_applications };
    let detail = state.admin().create_permission(&permit, &caller.changed_by, &new).await?;
    let mut row = full(&detail);
    if let Some(levels) = row["type"].as_array_mut() {
        for level in levels {
            level["createdBy"] = json!(detail.permission.stamps.created_by);
            level["updatedBy"] = json!(detail.permission.stamps.updated_by);
        }
    }
    Ok(created(row))
}

/// Changes a user group; members and applications are replaced.
#[utoipa::path(
    tag = "permission",
    params(("id" = i64, Path)),
    request_body = shape::tenants::PermissionChange,
    responses((status = 200, body = shape::tenants::PermissionDetail)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[put("/permission/{id}")]
async fn update(
    caller: Caller<TokenOnly<UserAdmin>>,
    id: PathId,
    state: web::Data<AppState>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let mut form = Form::of(&body);
    let name = form.text("name", &[Rule::Length(1, 1024)]);
    let users = form.beyond(|form| form.ids_opt("userIds"));
    let users: Option<Vec<UserId>> = users.map(|ids| ids.into_iter().map(UserId).collect());
    let applications = form.beyond(|form| form.ids_opt("applicationIds"));
    let applications = applications.map(|ids| ids.into_iter().map(ApplicationId).collect());
    let automatically_add_new_applications =
        form.get("automaticallyAddNewApplications").map(|said| *said == json!(true));
    form.finish()?;
    let before = state.admin().permission_detail(id.0).await.map_err(missing)?;
    let permit = caller.write(resource_of(&before.permission))?;
    if before.permission.organization_id.is_some() {
        check_name(&name)?;
    }
    let is_new = |user: &UserId| !before.users.iter().any(|u| u.id == *user);
    let added: Vec<UserId> = users.iter().flatten().copied().filter(is_new).collect();
    check_members(&caller, &added, &state).await?;
    let change = PermissionChange { name, users, applications, automatically_add_new_applications };
    let detail = state.admin().update_permission(&permit, &caller.changed_by, id.0, &change).await.map_err(missing)?;
    Ok(ok(full(&detail)))
}

/// Deletes a user group.
#[utoipa::path(
    tag = "permission",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[delete("/permission/{id}")]
async fn delete(caller: Caller<TokenOnly<UserAdmin>>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let row = state.admin().permission(id.0).await.map_err(missing)?;
    if row.organization_id.is_none() {
        return Err(ApiError::bad_request("You cannot delete GlobalAdmin"));
    }
    let permit = caller.write(resource_of(&row))?;
    Ok(deleted(state.admin().delete_permission(&permit, &caller.changed_by, id.0).await.map_err(missing)?))
}

/// The filter of a list, narrowed to what the caller may see.
fn narrowed(principal: &Principal, query: &Query, role: Role) -> ApiResult<PermissionQuery> {
    let organization = query.int("organisationId")?.map(OrganizationId);
    let member = query.int("userId")?.map(UserId);
    let mut narrowed = PermissionQuery {
        organization,
        among: None,
        member,
        is_without_global: query.flag("ignoreGlobalAdmin"),
        with_users: true,
    };
    if principal.is_global_admin() {
        return Ok(narrowed);
    }
    let administered = principal.organizations_with(&[role]);
    match organization {
        // His own groups there, with nobody but himself in them: the web client asks so for whoever makes an application.
        Some(organization) if !administered.contains(&organization) => {
            narrowed.among = Some(principal.organizations());
            narrowed.member = Some(principal.user);
        }
        _ => narrowed.among = Some(administered),
    }
    Ok(narrowed)
}

fn listing(detail: &PermissionDetail, with_users: bool) -> Value {
    let mut row = view::permission_with_levels(detail);
    if with_users {
        row["users"] = detail.users.iter().map(view::user).collect();
    }
    row
}

/// User groups.
#[utoipa::path(
    tag = "permission",
    params(PageQuery),
    responses((status = 200, body = Listed<shape::tenants::PermissionDetail>)),
    security(("token" = [])),
)]
#[get("/permission")]
async fn list(caller: Caller<TokenOnly<Anyone>>, query: Query, state: web::Data<AppState>) -> ApiResult {
    let filter = narrowed(&caller.principal, &query, Role::OrganizationUserAdmin)?;
    let found = state.admin().permissions(&filter, &query.page()?.ordered_within(&ORDER)).await?;
    Ok(listed(found.rows.iter().map(|d| listing(d, true)).collect(), found.num_all))
}

/// User groups of organisations in which the caller administers applications.
#[utoipa::path(
    tag = "permission",
    params(PageQuery),
    responses((status = 200, body = Listed<Value>)),
    security(("token" = [])),
)]
#[get("/permission/applicationAdmin")]
async fn list_for_application_admin(
    caller: Caller<TokenOnly<Anyone>>,
    query: Query,
    state: web::Data<AppState>,
) -> ApiResult {
    let principal = &caller.principal;
    let mut filter = narrowed(principal, &query, Role::OrganizationApplicationAdmin)?;
    let administers = principal.organizations_with(&[Role::OrganizationUserAdmin]);
    let sees_users = principal.is_global_admin() || filter.organization.is_some_and(|o| administers.contains(&o));
    filter.with_users = sees_users;
    let found = state.admin().permissions(&filter, &query.page()?.ordered_within(&ORDER)).await?;
    let rows = found.rows.iter().map(|d| if sees_users { listing(d, true) } else { slim(d) }).collect();
    Ok(listed(rows, found.num_all))
}

fn slim(detail: &PermissionDetail) -> Value {
    json!({
        "id": detail.permission.id,
        "name": detail.permission.name,
        "automaticallyAddNewApplications": detail.permission.automatically_add_new_applications,
        "organization": detail.organization.as_ref().map(view::organization),
    })
}

/// User groups without their members.
#[utoipa::path(
    tag = "permission",
    params(PageQuery),
    responses((status = 200, body = Listed<Value>)),
    security(("token" = [])),
)]
#[get("/permission/getAllPermissionsWithoutUsers")]
async fn list_without_users(caller: Caller<TokenOnly<Anyone>>, query: Query, state: web::Data<AppState>) -> ApiResult {
    let mut filter = narrowed(&caller.principal, &query, Role::OrganizationUserAdmin)?;
    filter.with_users = false;
    if !caller.principal.is_global_admin() {
        // Here nobody sees his own groups elsewhere, as in the reference.
        filter.among = Some(caller.principal.organizations_with(&[Role::OrganizationUserAdmin]));
    }
    let found = state.admin().permissions(&filter, &query.page()?.ordered_within(&ORDER)).await?;
    Ok(listed(found.rows.iter().map(|d| listing(d, false)).collect(), found.num_all))
}

/// One user group.
#[utoipa::path(
    tag = "permission",
    params(("id" = i64, Path)),
    responses((status = 200, body = shape::tenants::PermissionDetail)),
    security(("token" = [])),
)]
#[get("/permission/{id}")]
async fn one(caller: Caller<TokenOnly<Anyone>>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let detail = state.admin().permission_detail(id.0).await.map_err(missing)?;
    caller.read(resource_of(&detail.permission))?;
    Ok(ok(full(&detail)))
}

/// Applications of a user group.
#[utoipa::path(
    tag = "permission",
    params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = Listed<ApplicationListing>)),
    security(("token" = [])),
)]
#[get("/permission/{id}/applications")]
async fn applications_of(
    caller: Caller<TokenOnly<Anyone>>,
    id: PathId,
    query: Query,
    state: web::Data<AppState>,
) -> ApiResult {
    let row = state.admin().permission(id.0).await.map_err(missing)?;
    caller.read(resource_of(&row))?;
    let found =
        state.admin().permission_applications(id.0, &query.page()?.within(&["id", "name", "updatedAt"])).await?;
    Ok(listed(found.rows.iter().map(application_shape::listing).collect(), found.num_all))
}

/// Members of a user group.
#[utoipa::path(
    tag = "permission",
    params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = Listed<User>)),
    security(("token" = [])),
)]
#[get("/permission/{id}/users")]
async fn users_of(
    caller: Caller<TokenOnly<Anyone>>,
    id: PathId,
    query: Query,
    state: web::Data<AppState>,
) -> ApiResult {
    let row = state.admin().permission(id.0).await.map_err(missing)?;
    caller.read(resource_of(&row))?;
    let found = state.admin().permission_users(id.0, &query.page()?.within(&[])).await?;
    Ok(listed(found.rows.iter().map(view::user).collect(), found.num_all))
}
