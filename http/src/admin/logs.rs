//! The change log and the system log. A global administrator reads everything; who administers an organisation's users reads the
//! lines of the change log that concern it, without what they say of other organisations.

use actix_web::{get, web};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::permission::Role;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{ChangeLogQuery, ChangeLogRow, Page, SystemLogQuery, SystemLogRow};
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Caller, GlobalAdmin, UserAdmin};
use crate::context::AppState;
use crate::error::ApiResult;
use crate::json::listed;
use crate::openapi::Listed;
use crate::openapi::access::{ChangeLogLine, SystemLogLine};
use crate::page::{PageQuery, Query};
use crate::validate::{FieldError, parse_date};

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(change_log).service(system_log);
}

fn instant(query: &Query, name: &str) -> ApiResult<Option<DateTime<Utc>>> {
    let Some(text) = query.text(name) else { return Ok(None) };
    match parse_date(text) {
        Some(at) => Ok(Some(at)),
        None => Err(FieldError::new(name, Some(json!(text)))
            .failing("isDate", format!("{name} must be a Date instance"))
            .into_api_error()),
    }
}

/// Newest first, unless an order is asked for by name: then as `sort` says.
fn page(query: &Query) -> ApiResult<Page> {
    Ok(query.page()?.within(&["id", "timestamp"]))
}

fn text(query: &Query, name: &str) -> Option<String> {
    query.text(name).map(|text| text.replace('\0', ""))
}

/// Lines of the change log: who changed, or tried to change, what.
#[utoipa::path(
    tag = "log",
    params(
        PageQuery,
        ("entity" = Option<String>, Query, description = "like `device`, or OS2iot's name of it, like `IoTDevice`"),
        ("entityId" = Option<i64>, Query),
        ("userId" = Option<i64>, Query),
        ("organizationId" = Option<i64>, Query),
        ("action" = Option<String>, Query, description = "CREATE, UPDATE, DELETE, LOGIN, REVEAL or ACCESS"),
        ("from" = Option<String>, Query, description = "from this moment on, ISO 8601"),
        ("to" = Option<String>, Query, description = "before this moment, ISO 8601"),
    ),
    responses((status = 200, body = Listed<ChangeLogLine>)),
    security(("token" = ["OrganizationUserAdmin"]), ("apiKey" = ["OrganizationUserAdmin"])),
)]
#[get("/change-log")]
async fn change_log(caller: Caller<UserAdmin>, query: Query, state: web::Data<AppState>) -> ApiResult {
    let among = match query.int("organizationId")?.map(OrganizationId) {
        Some(organization) => {
            caller.read(Resource::OrganizationUsers(organization))?;
            Some(vec![organization])
        }
        None if caller.principal.is_global_admin() => None,
        None => Some(caller.principal.organizations_with(&[Role::OrganizationUserAdmin])),
    };
    let filter = ChangeLogQuery {
        among,
        entity: text(&query, "entity")
            .map(|text| ChangedEntity::of_any_name(&text).map_or(text, |entity| entity.as_str().to_owned())),
        entity_id: query.int("entityId")?,
        user: query.int("userId")?,
        action: text(&query, "action").map(|action| action.to_uppercase()),
        from: instant(&query, "from")?,
        to: instant(&query, "to")?,
    };
    let found = state.admin().change_log(&filter, &page(&query)?).await?;
    let visible = (!caller.principal.is_global_admin())
        .then(|| caller.principal.organizations_with(&[Role::OrganizationUserAdmin]));
    Ok(listed(found.rows.into_iter().map(|row| line(row, visible.as_deref())).collect(), found.num_all))
}

fn line(row: ChangeLogRow, visible: Option<&[OrganizationId]>) -> Value {
    let is_visible = |id: i64| visible.is_none_or(|visible| visible.contains(&OrganizationId(id)));
    let cut = |value: Value| if visible.is_some() { within(value, &is_visible) } else { value };
    let kind = ChangedEntity::of_str(&row.entity)
        .map_or_else(|| row.entity.clone(), |entity| entity.reference_name_of(&row.action).to_owned());
    let organizations: Vec<_> = row.organizations.iter().filter(|o| is_visible(o.0)).collect();
    json!({
        "id": row.id,
        "timestamp": view::instant(row.happened_at),
        "userId": row.user,
        "principal": row.principal,
        "credential": row.credential,
        "remoteAddress": row.remote_address,
        "requestId": row.request_id,
        "actionType": row.action,
        "entity": row.entity,
        "type": kind,
        "entityId": row.entity_id,
        "name": row.name,
        "organizationIds": organizations,
        "before": row.before.map(cut),
        "after": row.after.map(cut),
        "completed": row.is_success,
        "reason": row.reason,
    })
}

/// A row without its links to organisations that the reader does not administer.
fn within(mut row: Value, is_visible: &impl Fn(i64) -> bool) -> Value {
    if let Some(groups) = row.get_mut("permissions").and_then(Value::as_array_mut) {
        groups.retain(|group| match group.get("organization") {
            Some(organization) => organization.as_i64().is_some_and(is_visible),
            None => true,
        });
    }
    if let Some(requested) = row.get_mut("requested_organizations").and_then(Value::as_array_mut) {
        requested.retain(|id| id.as_i64().is_some_and(is_visible));
    }
    row
}

/// Lines of the system log: warnings and errors of every node.
#[utoipa::path(
    tag = "log",
    params(
        PageQuery,
        ("level" = Option<String>, Query, description = "WARN or ERROR"),
        ("nodeId" = Option<String>, Query),
        ("target" = Option<String>, Query, description = "how the name of the program's part begins"),
        ("from" = Option<String>, Query, description = "from this moment on, ISO 8601"),
        ("to" = Option<String>, Query, description = "before this moment, ISO 8601"),
    ),
    responses((status = 200, body = Listed<SystemLogLine>)),
    security(("token" = ["GlobalAdmin"]), ("apiKey" = ["GlobalAdmin"])),
)]
#[get("/system-log")]
async fn system_log(caller: Caller<GlobalAdmin>, query: Query, state: web::Data<AppState>) -> ApiResult {
    caller.read(Resource::Platform)?;
    let filter = SystemLogQuery {
        level: text(&query, "level").map(|level| level.to_uppercase()),
        node_id: text(&query, "nodeId"),
        target: text(&query, "target"),
        from: instant(&query, "from")?,
        to: instant(&query, "to")?,
    };
    let found = state.admin().system_log(&filter, &page(&query)?).await?;
    Ok(listed(found.rows.into_iter().map(system_line).collect(), found.num_all))
}

fn system_line(row: SystemLogRow) -> Value {
    json!({
        "id": row.id,
        "timestamp": view::instant(row.happened_at),
        "nodeId": row.node_id,
        "level": row.level,
        "target": row.target,
        "message": row.message,
        "fields": row.fields,
        "count": row.num_times,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_nothing_of_organisations_that_its_reader_does_not_administer() {
        let user = json!({"name": "Rita", "requested_organizations": [1, 2],
                          "permissions": [{"id": 5, "organization": 1}, {"id": 6, "organization": 2}, {"id": 7, "organization": null}]});
        let seen = within(user, &|id| id == 1);
        assert_eq!(seen["permissions"], json!([{"id": 5, "organization": 1}]));
        assert_eq!(seen["requested_organizations"], json!([1]));
        let application = json!({"permissions": [3, 4]});
        assert_eq!(within(application.clone(), &|_| false), application);
    }
}
