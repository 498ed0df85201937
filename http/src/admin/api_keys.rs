//! API keys (control-plane 2.7). A key is shown to whoever made it, once, and never again: everywhere else its first characters
//! stand for it. It is administered by whoever administers all organisations of its groups.

use actix_web::{delete, get, post, put, web};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sluse_schema::id::OrganizationId;
use sluse_schema::permission::Role;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{ApiKeyChange, ApiKeyDetail, NewApiKey, PermissionDetail};
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Anyone, Caller, KeyOnly, TokenOnly, UserAdmin};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok};
use crate::openapi::access::{ApiKey, ApiKeyDraft};
use crate::openapi::{Deleted, Listed, tenants};
use crate::page::{PageQuery, Query};
use crate::validate::{FieldError, Form, Rule};

type Admin = Caller<TokenOnly<UserAdmin>>;

/// Columns that a list can be ordered by.
const ORDER: [&str; 6] = ["id", "name", "expiresOn", "createdAt", "updatedAt", "key"];

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create).service(list).service(one).service(update).service(delete).service(own_organization);
}

fn parse(body: &Value) -> ApiResult<ApiKeyChange> {
    let mut form = Form::of(body);
    let name = form.text("name", &[Rule::Length(2, 50)]);
    let permissions = form.distinct_ids("permissionIds");
    let expires_at = form.beyond(|form| form.instant_opt("expiresOn"));
    let says_expiry = form.has("expiresOn");
    form.finish()?;
    Ok(ApiKeyChange { name, permissions, expires_at: says_expiry.then_some(expires_at) })
}

/// The resource that a key with these groups is.
async fn resource_of(groups: &[i64], state: &AppState) -> ApiResult<Resource> {
    let mut ids = groups.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let rows = state.admin().permissions_by_id(&ids).await?;
    if rows.len() != ids.len() {
        return Err(ApiError::bad_request(code::ID_DOES_NOT_EXIST));
    }
    let mut organizations: Vec<OrganizationId> = rows.iter().filter_map(|p| p.organization_id).collect();
    organizations.sort_unstable();
    organizations.dedup();
    Ok(Resource::ApiKey { organizations, is_global_admin: rows.iter().any(|p| p.organization_id.is_none()) })
}

fn groups_of(detail: &ApiKeyDetail) -> Vec<i64> {
    detail.permissions.iter().map(|p| p.permission.id).collect()
}

fn masked(prefix: &str) -> String {
    format!("{prefix}…")
}

fn shown(detail: &ApiKeyDetail, key: String, group: impl Fn(&PermissionDetail) -> Value) -> Value {
    let mut row = view::base(
        detail.key.id,
        &detail.key.stamps,
        json!({"key": key, "name": detail.key.name, "expiresOn": view::instant_opt(detail.key.expires_at)}),
    );
    row["permissions"] = detail.permissions.iter().map(group).collect();
    row
}

/// The answer to a write: with the system user and the authors.
fn written(detail: &ApiKeyDetail, key: String, keys_of_group: &Value) -> Value {
    let group = |p: &PermissionDetail| {
        let mut row = view::permission(&p.permission);
        row["apiKeys"] = keys_of_group.clone();
        row
    };
    let mut row = view::with_authors(shown(detail, key, group), &detail.key.stamps);
    row["systemUser"] = view::user(&detail.system_user);
    row
}

/// Makes an API key; the answer is the only one that shows it.
#[utoipa::path(
    tag = "api-key",
    request_body = ApiKeyDraft,
    responses((status = 201, body = ApiKey)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[post("/api-key")]
async fn create(caller: Admin, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let form = parse(&body)?;
    let permit = caller.write(resource_of(&form.permissions, &state).await?)?;
    let key = uuid::Uuid::new_v4().to_string();
    let new = NewApiKey {
        name: form.name,
        key_hash: Sha256::digest(key.as_bytes()).into(),
        prefix: key[..8].to_owned(),
        permissions: form.permissions,
        expires_at: form.expires_at.flatten(),
    };
    let detail = state.admin().create_api_key(&permit, &caller.changed_by, &new).await?;
    Ok(created(written(&detail, key, &Value::Null)))
}

/// Changes an API key's name, groups and expiry; the key itself stays.
#[utoipa::path(
    tag = "api-key",
    params(("id" = i64, Path)),
    request_body = ApiKeyDraft,
    responses((status = 200, body = ApiKey)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[put("/api-key/{id}")]
async fn update(caller: Admin, id: PathId, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let form = parse(&body)?;
    let before = state.admin().api_key(id.0).await?;
    let mut groups = groups_of(&before);
    // He has to administer the groups that it has as well as those that it is to have.
    caller.write(resource_of(&groups, &state).await?)?;
    groups.extend(&form.permissions);
    let permit = caller.write(resource_of(&groups, &state).await?)?;
    let mut detail = state.admin().update_api_key(&permit, &caller.changed_by, id.0, &form).await?;
    // Renamed as well; the reference answers with the system user as it was.
    detail.system_user.name = before.system_user.name;
    Ok(ok(written(&detail, masked(&detail.key.prefix), &json!([]))))
}

/// Deletes an API key together with its system user.
#[utoipa::path(
    tag = "api-key",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[delete("/api-key/{id}")]
async fn delete(caller: Admin, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let groups = groups_of(&state.admin().api_key(id.0).await?);
    let permit = caller.write(resource_of(&groups, &state).await?)?;
    Ok(deleted(state.admin().delete_api_key(&permit, &caller.changed_by, id.0).await?))
}

/// API keys of an organisation; all of them only for a global administrator.
#[utoipa::path(
    tag = "api-key",
    params(PageQuery, ("organizationId" = Option<i64>, Query)),
    responses((status = 200, body = Listed<ApiKey>)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/api-key")]
async fn list(caller: Admin, query: Query, state: web::Data<AppState>) -> ApiResult {
    let organization = query.int("organizationId")?.map(OrganizationId);
    match organization {
        Some(organization) => {
            caller.read(Resource::OrganizationUsers(organization))?;
        }
        None if caller.principal.is_global_admin() => {}
        None => {
            let text = "organizationId must be a number conforming to the specified constraints";
            return Err(FieldError::new("organizationId", None).failing("isNumber", text).into_api_error());
        }
    }
    query.check_among("orderOn", &ORDER)?;
    query.check_among("sort", &["ASC", "DESC"])?;
    let found = state.admin().api_keys(organization, &query.page()?.within(&ORDER)).await?;
    let group = |p: &PermissionDetail| {
        let mut row = view::permission(&p.permission);
        row["organization"] = p.organization.as_ref().map_or(Value::Null, view::organization);
        row
    };
    // A key may have groups of several organisations; those of others are none of the caller's business.
    let is_visible = |p: &PermissionDetail| {
        let resource = p.permission.organization_id.map_or(Resource::Platform, Resource::OrganizationUsers);
        caller.read(resource).is_ok()
    };
    let rows = found.rows.into_iter().map(|mut detail| {
        detail.permissions.retain(is_visible);
        shown(&detail, masked(&detail.key.prefix), group)
    });
    Ok(listed(rows.collect(), found.num_all))
}

/// An API key with its groups.
#[utoipa::path(
    tag = "api-key",
    params(("id" = i64, Path)),
    responses((status = 200, body = ApiKey)),
    security(("token" = ["OrganizationUserAdmin"])),
)]
#[get("/api-key/{id}")]
async fn one(caller: Admin, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let detail = state.admin().api_key(id.0).await?;
    caller.read(resource_of(&groups_of(&detail), &state).await?)?;
    Ok(ok(shown(&detail, masked(&detail.key.prefix), |p| view::permission(&p.permission))))
}

/// The organisation of the API key that calls, when its groups are of exactly one.
#[utoipa::path(
    tag = "api-key-info",
    responses((status = 200, body = tenants::Organization)),
    security(("apiKey" = [])),
)]
#[get("/api-key-info/organization")]
async fn own_organization(caller: Caller<KeyOnly<Anyone>>, state: web::Data<AppState>) -> ApiResult {
    let roles = [Role::Read, Role::OrganizationApplicationAdmin, Role::OrganizationUserAdmin];
    let organizations = caller.principal.organizations_with(&roles);
    let rows = match organizations.as_slice() {
        [only] => state.admin().organizations_by_id(&[*only]).await?,
        _ => Vec::new(),
    };
    match rows.first() {
        Some(row) => Ok(ok(view::organization(row))),
        None => Err(ApiError::bad_request("The API key does not belong to exactly one organization")),
    }
}
