//! Device models (control-plane 2.10): FIWARE `DeviceModel` documents, checked against the schema's own rules.

use actix_web::web;
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::id::OrganizationId;
use sluse_schema::permission::Role;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::DeviceModelRow;
use utoipa_actix_web::service_config::ServiceConfig;

use super::applications::CONTROLLED_PROPERTIES;
use super::view;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok, uncached};
use crate::openapi::{
    Deleted, Listed,
    devices::{DeviceModel, DeviceModelDraft},
};
use crate::page::{PageQuery, Query};
use crate::validate::Form;

const REQUIRED: [&str; 8] =
    ["id", "type", "category", "controlledProperty", "manufacturerName", "brandName", "modelName", "name"];
const FUNCTIONS: [&str; 6] = ["levelControl", "sensing", "onOff", "openClose", "metering", "eventNotification"];

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create).service(list).service(one).service(update).service(delete);
}

/// What is wrong with a document, in ajv's words; empty when nothing is.
fn check(body: &Value) -> Vec<Value> {
    let Some(fields) = body.as_object() else {
        return vec![json!({"constraints": {"required": "should be object"}})];
    };
    let mut errors: Vec<Value> = REQUIRED
        .iter()
        .filter(|name| !fields.contains_key(**name))
        .map(|name| {
            json!({"property": name, "constraints": {"required": format!("should have required property '{name}'")}})
        })
        .collect();
    // The reference says everything under this name.
    let mut expect = |is_met: bool, text: &str| {
        if !is_met {
            errors.push(json!({"constraints": {"required": text}}));
        }
    };
    let one_of = "should be equal to one of the allowed values";
    const TEXT: &str = "should be string";
    let is_text = |name: &str| fields.get(name).is_none_or(Value::is_string);
    let is_among = |value: &Value, values: &[&str]| value.as_str().is_some_and(|text| values.contains(&text));
    for (name, values) in [
        ("type", &["DeviceModel"][..]),
        ("deviceClass", &["C0", "C1", "C2"]),
        ("energyLimitationClass", &["E0", "E1", "E2", "E9"]),
    ] {
        expect(is_text(name), TEXT);
        expect(fields.get(name).is_none_or(|value| is_among(value, values)), one_of);
    }
    for (name, values) in [
        ("controlledProperty", Some(&CONTROLLED_PROPERTIES[..])),
        ("function", Some(&FUNCTIONS[..])),
        ("supportedUnits", None),
    ] {
        let Some(value) = fields.get(name) else { continue };
        expect(value.is_array(), "should be array");
        for item in value.as_array().into_iter().flatten() {
            expect(item.is_string(), TEXT);
            expect(values.is_none_or(|values| is_among(item, values)), one_of);
        }
    }
    expect(is_text("documentation"), TEXT);
    let is_uri = |value: &Value| value.as_str().is_none_or(|text| url::Url::parse(text).is_ok());
    expect(fields.get("documentation").is_none_or(is_uri), "should match format \"uri\"");
    for name in ["manufacturerName", "brandName", "modelName", "name"] {
        expect(is_text(name), TEXT);
    }
    errors
}

fn needs_document(form: &mut Form<'_>) {
    if form.get("body").is_none() {
        form.fail("body", "isDefined", "body should not be null or undefined");
    }
}

/// The document of a request.
fn document(body: &Value) -> ApiResult<Value> {
    let mut form = Form::of(body);
    needs_document(&mut form);
    form.finish()?;
    let document = body.get("body").cloned().unwrap_or(Value::Null);
    let errors = check(&document);
    if errors.is_empty() { Ok(document) } else { Err(ApiError::bad_request(errors)) }
}

fn full(row: &DeviceModelRow) -> Value {
    let mut shown = view::with_authors(view::device_model(row), &row.stamps);
    shown["belongsTo"] = view::organization(&row.organization);
    shown
}

/// Creates a device model (FIWARE DeviceModel).
#[utoipa::path(
    tag = "device-model",
    request_body = DeviceModelDraft,
    responses((status = 201, body = DeviceModel)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/device-model")]
async fn create(caller: Caller<Reader>, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("belongsToId", None));
    needs_document(&mut form);
    form.finish()?;
    let permit = caller.write(Resource::Organization(organization))?;
    let document = document(&body)?;
    let row = state.admin().create_device_model(&permit, &caller.changed_by, organization, &document).await?;
    Ok(uncached(created(full(&row))))
}

/// Changes a device model.
#[utoipa::path(
    tag = "device-model",
    params(("id" = i64, Path)),
    request_body = DeviceModelDraft,
    responses((status = 200, body = DeviceModel)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/device-model/{id}")]
async fn update(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let before = state.admin().device_model(id.0).await?;
    let permit = caller.write(Resource::Organization(before.organization.id))?;
    let document = document(&body)?;
    let row = state.admin().update_device_model(&permit, &caller.changed_by, id.0, &document).await?;
    Ok(uncached(ok(full(&row))))
}

/// Deletes a device model that no device uses.
#[utoipa::path(
    tag = "device-model",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[delete("/device-model/{id}")]
async fn delete(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let before = state.admin().device_model(id.0).await?;
    let permit = caller.write(Resource::Organization(before.organization.id))?;
    Ok(deleted(state.admin().delete_device_model(&permit, &caller.changed_by, id.0).await?))
}

/// One device model.
#[utoipa::path(
    tag = "device-model",
    params(("id" = i64, Path)),
    responses((status = 200, body = DeviceModel)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/device-model/{id}")]
async fn one(caller: Caller<Reader>, id: PathId, state: web::Data<AppState>) -> ApiResult {
    let row = state.admin().device_model(id.0).await?;
    caller.read(Resource::Organization(row.organization.id))?;
    let mut shown = view::with_authors(view::device_model(&row), &row.stamps);
    shown["belongsTo"] = json!(row.organization.id);
    Ok(ok(shown))
}

/// Device models, of one organisation or of all that the caller may see.
#[utoipa::path(
    tag = "device-model",
    params(PageQuery, ("organizationId" = Option<String>, Query)),
    responses((status = 200, body = Listed<DeviceModel>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/device-model")]
async fn list(caller: Caller<Reader>, query: Query, state: web::Data<AppState>) -> ApiResult {
    let page = query.page()?;
    let among = match query.int("organizationId")?.map(OrganizationId) {
        Some(organization) => {
            caller.read(Resource::Organization(organization))?;
            Some(vec![organization])
        }
        None if caller.principal.is_global_admin() => None,
        // Who only administers gateways sees no content.
        None => Some(caller.principal.organizations_with(&[
            Role::OrganizationUserAdmin,
            Role::OrganizationApplicationAdmin,
            Role::Read,
        ])),
    };
    let found = state.admin().device_models(among.as_deref(), &page).await?;
    let rows = found
        .rows
        .iter()
        .map(|row| {
            let mut shown = view::device_model(row);
            shown["belongsTo"] = view::organization(&row.organization);
            shown
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Value {
        json!({"id": "m1", "type": "DeviceModel", "category": ["sensor"], "controlledProperty": ["airPollution"],
               "manufacturerName": "Acme", "brandName": "Acme", "modelName": "A1", "name": "Acme A1"})
    }

    #[test]
    fn a_missing_property_is_named() {
        let mut missing = model();
        missing.as_object_mut().unwrap().remove("name");
        assert_eq!(
            check(&missing),
            [json!({"property": "name", "constraints": {"required": "should have required property 'name'"}})]
        );
        assert!(check(&model()).is_empty());
    }

    #[test]
    fn values_outside_their_sets_are_refused() {
        for (name, value) in [
            ("type", json!("Device")),
            ("deviceClass", json!("C9")),
            ("controlledProperty", json!(["luck"])),
            ("function", json!("sensing")),
            ("supportedUnits", json!([1])),
            ("documentation", json!("not a uri")),
            ("name", json!(7)),
        ] {
            let mut wrong = model();
            wrong[name] = value;
            let errors = check(&wrong);
            assert_eq!(errors.len(), 1, "{name}");
            assert!(errors[0]["constraints"]["required"].is_string(), "under the reference's name for everything");
        }
        let mut wrong = model();
        wrong["type"] = json!(7);
        assert_eq!(check(&wrong).len(), 2, "no text, and none of the allowed ones");
        assert_eq!(check(&Value::Null).len(), 1);
    }
}
