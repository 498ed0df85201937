//! Trying a data target out: `POST /data-target/testDataTarget`. What it sends is real and stands in the target's log, so only
//! who may change the target may try it, with devices that he may see.
//!
//! With a decoder the package is decoded first, as a device's payload would be. Without a package an MQTT target is only
//! connected to.

use std::sync::Arc;

use actix_web::{post, web};
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::delivery::{Attempt, AttemptClass};
use sluse_schema::id::{DecoderId, DeviceId, TargetId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::target::{TargetRow, TargetType};
use sluse_schema::port::{Decoded, Probe};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::InApplication;
use super::test_decoder::{DecoderSource, decode_once};
use crate::audit;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, created};
use crate::openapi::content::{TargetTrial, TargetTrialResult};
use crate::validate::Form;

type State = web::Data<AppState>;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(test);
}

/// Sends a package to a data target, decoded or as it is, and answers what came of it.
#[utoipa::path(
    tag = "data-target",
    request_body = TargetTrial,
    responses((status = 201, body = TargetTrialResult)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/data-target/testDataTarget")]
async fn test(caller: Caller<Reader>, state: State, JsonBody(body): JsonBody) -> ApiResult {
    let admin = state.admin();
    let mut form = Form::of(&body);
    let target = TargetId(form.int("dataTargetId", None, None));
    let device = form.int_opt("iotDeviceId", None, None).map(DeviceId);
    let decoder = form.int_opt("payloadDecoderId", None, None).map(DecoderId);
    let sent = form.get("dataPackage");
    let package = sent.and_then(Value::as_str).filter(|package| is_json_of_parts(package)).map(str::to_owned);
    if sent.is_some() && package.is_none() {
        form.fail("dataPackage", "isJson", "dataPackage must be a json string");
    }
    form.finish()?;
    let row = admin.target(target).await?;
    caller.write(row.resource())?;
    if let Some(device) = device {
        let device = admin.device(device).await?;
        caller.read(device.resource())?;
    }
    let mut payload = package.map(Bytes::from);
    let mut answer = json!({});
    if let Some(decoder) = decoder {
        caller.read(Resource::Shared)?;
        let package = payload.take().ok_or_else(|| ApiError::bad_request("dataPackage is needed to decode"))?;
        let device = device.ok_or_else(|| ApiError::bad_request("iotDeviceId is needed to decode"))?;
        let decoded = decode(&state, decoder, device, package).await?;
        answer["decodedPayload"] = serde_json::from_slice(&decoded).unwrap_or(Value::Null);
        payload = Some(decoded);
    }
    if row.fields.kind == TargetType::OpenDataDk {
        noted(&caller, &state, &row).await;
        return Ok(created(answer));
    }
    if payload.is_none() && row.fields.kind != TargetType::Mqtt {
        return Err(ApiError::bad_request("dataPackage is needed for every target but MQTT"));
    }
    let probe = Probe { target, device, decoder, body: payload };
    let attempt = state.ports.probe.probe(probe).await?.ok_or_else(ApiError::unknown_id)?;
    answer["result"] = result(&attempt);
    noted(&caller, &state, &row).await;
    Ok(created(answer))
}

/// Whether a text is an object or a list in JSON: what validator.js takes for JSON.
fn is_json_of_parts(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<&RawValue>(text).is_ok()
}

/// A trial uses the stored credentials, so the change log says who made it.
async fn noted(caller: &Caller<Reader>, state: &AppState, row: &TargetRow) {
    let entity = ChangedEntity::Target.as_str();
    audit::note_trial(state, &caller.changed_by, entity, Some(row.id.0), Some(row.organization)).await;
}

async fn decode(state: &AppState, decoder: DecoderId, device: DeviceId, package: Bytes) -> ApiResult<Bytes> {
    let (script, metadata) = state.admin().decoding_of(decoder, device).await?;
    let missing = || ApiError::bad_request(code::ID_DOES_NOT_EXIST);
    let script = script.ok_or_else(missing)?;
    let code = DecoderSource { source: Arc::clone(&script.source), dialect: script.dialect };
    match decode_once(state, code, package, metadata.ok_or_else(missing)?).await? {
        Decoded::Value { json, .. } => Ok(json),
        Decoded::Nothing => Err(ApiError::bad_request("Got error: the decoder returned nothing")),
    }
}

fn result(attempt: &Attempt) -> Value {
    let mut result = json!({"status": if attempt.class == AttemptClass::Delivered { "OK" } else { "ERROR" }});
    if let Some(status) = attempt.status_code {
        result["statusCode"] = json!(status);
    }
    let text = if attempt.class == AttemptClass::Delivered || attempt.status_code.is_some() {
        "statusText"
    } else {
        "errorMessage"
    };
    result[text] = json!(attempt.message);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_receivers_status_or_our_words() {
        assert_eq!(
            result(&Attempt::delivered(Some(204))),
            json!({"status": "OK", "statusCode": 204, "statusText": "OK"})
        );
        let refused =
            Attempt { status_code: Some(401), ..Attempt::failed(AttemptClass::Misconfigured, "Unauthorized") };
        assert_eq!(result(&refused), json!({"status": "ERROR", "statusCode": 401, "statusText": "Unauthorized"}));
        let away = Attempt::failed(AttemptClass::Transient, "cannot connect to hub:443");
        assert_eq!(result(&away), json!({"status": "ERROR", "errorMessage": "cannot connect to hub:443"}));
    }
}
