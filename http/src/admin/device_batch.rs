//! Many devices at once: `createMany` and `updateMany`. Each device stands for itself: what is wrong with one is said beside it.
//! Limits: 50 devices per call.

use std::collections::BTreeSet;

use actix_web::http::StatusCode;
use actix_web::post;
use actix_web::web;
use serde_json::{Value, json};
use sluse_schema::id::DeviceId;
use sluse_schema::port::admin::AdminStore;
use sluse_schema::port::admin::device::DeviceRow;

use super::access::{InApplication, may_write};
use super::device_input::{self, DeviceInput};
use super::devices::{create_one, place, shown, update_one};
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, created};
use crate::openapi::devices::{BatchResult, DeviceDrafts};
use crate::validate::{FieldError, Form, as_int};

const NUM_DEVICES_MAX: usize = 50;
const NO_OBJECT: &str = "each value in nested property data must be either object or array";

/// The items of `data`, once their number is right.
fn items<'a>(form: &mut Form<'a>) -> &'a [Value] {
    let items = form.get("data").and_then(Value::as_array);
    match items {
        None => {
            // As class-validator has it: what is no list has too many elements and none at all.
            form.fail("data", "arrayMaxSize", format!("data must contain no more than {NUM_DEVICES_MAX} elements"));
            form.fail("data", "arrayNotEmpty", "data should not be empty");
            if form.has("data") && !form.get("data").is_some_and(Value::is_object) {
                form.fail("data", "nestedValidation", NO_OBJECT);
            }
        }
        Some(items) if items.is_empty() => form.fail("data", "arrayNotEmpty", "data should not be empty"),
        Some(items) if items.len() > NUM_DEVICES_MAX => {
            form.fail("data", "arrayMaxSize", format!("data must contain no more than {NUM_DEVICES_MAX} elements"));
        }
        Some(items) => return items,
    }
    &[]
}

/// Checks every item; errors name the place of theirs.
fn read_all<'a>(
    form: &mut Form<'a>,
    needs_id: bool,
    stored: impl Fn(&Value) -> Option<&'a DeviceRow>,
) -> Vec<(&'a Value, Option<DeviceInput>)> {
    let (mut errors, mut beyond) = (Vec::new(), Vec::new());
    let mut read = Vec::new();
    for (at, item) in items(form).iter().enumerate() {
        if !item.is_object() && !item.is_array() {
            let wrong = FieldError::new(&at.to_string(), Some(item.clone())).failing("nestedValidation", NO_OBJECT);
            errors.push(wrong.about(form.get("data").cloned().unwrap_or_default()));
            continue;
        }
        let mut inner = Form::of(item);
        if needs_id {
            inner.id("id", Some(1));
        }
        let input = device_input::read(&mut inner, stored(item).map(|row| &row.fields));
        let (wrong, wrong_here) = inner.into_parts();
        for (children, into) in [(wrong, &mut errors), (wrong_here, &mut beyond)] {
            if !children.is_empty() {
                let about = form.get("data").cloned().unwrap_or_default();
                into.push(FieldError::new(&at.to_string(), Some(item.clone())).about(about).with_children(children));
            }
        }
        read.push((item, input));
    }
    form.fail_inside("data", errors);
    form.beyond(|form| form.fail_inside("data", beyond));
    read
}

fn result(item: &Value, outcome: ApiResult<Value>) -> ApiResult<Value> {
    let about = json!({"name": item.get("name"), "applicationId": item.get("applicationId")});
    match outcome {
        Ok(data) => Ok(json!({"data": data, "idMetadata": about})),
        // Only what is wrong with this one device is said beside it.
        Err(error) if [400, 404].contains(&error.status().as_u16()) || error.body().get("statusCode").is_none() => {
            Ok(json!({"idMetadata": about, "error": {"message": error.body()["message"]}}))
        }
        Err(error) => Err(error),
    }
}

/// Refuses the whole batch, before anything of it is done, when one device would be where the caller may not write.
async fn check_places(
    caller: &Caller<Reader>,
    admin: &dyn AdminStore,
    inputs: impl Iterator<Item = &DeviceInput>,
) -> ApiResult<()> {
    let applications: BTreeSet<_> = inputs.map(|input| input.application).collect();
    for application in applications {
        match place(caller, admin, application).await {
            // Only a global administrator is told so, beside the device that names it.
            Err(error) if error.status() == StatusCode::BAD_REQUEST => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Creates up to 50 devices; each succeeds or fails by itself.
#[utoipa::path(
    tag = "iot-device",
    request_body = DeviceDrafts,
    responses((status = 201, body = Vec<BatchResult>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/iot-device/createMany")]
pub(super) async fn create_many(caller: Caller<Reader>, state: web::Data<AppState>, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let mut form = Form::of(&body.0);
    let read = read_all(&mut form, false, |_| None);
    form.finish()?;
    check_places(&caller, admin, read.iter().filter_map(|(_, input)| input.as_ref())).await?;
    let mut results = Vec::with_capacity(read.len());
    for (item, input) in read {
        let input = input.ok_or_else(|| ApiError::bad_request(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE))?;
        let outcome = match create_one(&caller, &state, input).await {
            Ok(row) => shown(admin, &row).await,
            Err(error) => Err(error),
        };
        results.push(result(item, outcome)?);
    }
    Ok(created(Value::Array(results)))
}

/// Changes up to 50 devices; each succeeds or fails by itself.
#[utoipa::path(
    tag = "iot-device",
    request_body = DeviceDrafts,
    responses((status = 201, body = Vec<BatchResult>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/iot-device/updateMany")]
pub(super) async fn update_many(caller: Caller<Reader>, state: web::Data<AppState>, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let mut form = Form::of(&body.0);
    let id_of = |item: &Value| item.get("id").and_then(as_int).map(DeviceId);
    let ids: Vec<DeviceId> = items(&mut form).iter().filter_map(id_of).collect();
    let stored = admin.devices_by_id(&ids).await?;
    let find = |item: &Value| stored.iter().find(|row| Some(row.id) == id_of(item));
    let mut form = Form::of(&body.0);
    let known = |item: &Value| find(item).filter(|row| may_write(&caller.principal, row.resource()));
    let read = read_all(&mut form, true, known);
    form.finish()?;
    for (item, _) in &read {
        if let Some(row) = find(item) {
            caller.write(row.resource())?;
        }
    }
    // What becomes of a device that is not there is nobody's business but its own line's.
    check_places(&caller, admin, read.iter().filter(|(item, _)| find(item).is_some()).filter_map(|(_, i)| i.as_ref()))
        .await?;
    let (mut results, mut unknown) = (Vec::with_capacity(read.len()), Vec::new());
    for (item, input) in read {
        let Some(row) = find(item) else {
            unknown.push(result(item, Err(ApiError::unknown_id()))?);
            continue;
        };
        let input = input.ok_or_else(|| ApiError::bad_request(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE))?;
        let hide = input.clone();
        let outcome = match update_one(&caller, &state, row, input).await {
            Ok(row) => shown(admin, &row).await.map(|mut answer| {
                hide.hide_unsent(&mut answer);
                answer
            }),
            Err(error) => Err(error),
        };
        results.push(result(item, outcome)?);
    }
    results.append(&mut unknown);
    Ok(created(Value::Array(results)))
}
