//! Decodes that failed, with the payload that could not be decoded. Sluse's own addition.
//!
//! `GET /payload-decoder/:id/errors` and `GET /iot-device/:id/decoder-errors`, both `{data, count}`, newest first. Shown are only
//! errors of devices that the caller may read: a decoder is shared between organisations, what goes through it is not.

use actix_web::get;
use actix_web::web;
use serde_json::{Value, json};
use sluse_schema::id::{DecoderId, DeviceId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::inspect::{DecoderErrorFilter, DecoderErrorLine};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::InApplication;
use super::view;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::ApiResult;
use crate::json::{PathId, listed};
use crate::openapi::{Listed, targets::DecoderError};
use crate::page::Query;

type State = web::Data<AppState>;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(of_decoder).service(of_device);
}

fn line(error: &DecoderErrorLine) -> Value {
    json!({
        "id": error.id,
        "createdAt": view::instant(error.failed_at),
        "updatedAt": view::instant(error.failed_at),
        "payloadDecoder": {"id": error.decoder, "name": error.decoder_name},
        "iotDevice": {"id": error.device, "name": error.device_name},
        "kind": error.kind,
        "message": error.message,
        // A sample may have been cut, so it is text and not JSON.
        "sample": String::from_utf8_lossy(&error.sample),
        "numFailures": error.num_failures,
    })
}

async fn answer(state: &AppState, filter: DecoderErrorFilter, visible: &Visible, query: &Query) -> ApiResult {
    let found = state.admin().decoder_errors(filter, visible, &query.page()?).await?;
    Ok(listed(found.rows.iter().map(line).collect(), found.num_all))
}

/// Failed decodes of a decoder, newest first, with a sample of the payload.
#[utoipa::path(
    tag = "payload-decoder",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<DecoderError>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/payload-decoder/{id}/errors")]
async fn of_decoder(caller: Caller<Reader>, state: State, id: PathId, query: Query) -> ApiResult {
    caller.read(Resource::Shared)?;
    let row = state.admin().decoder(DecoderId(id.0)).await?;
    let visible = caller.principal.visible_applications();
    answer(&state, DecoderErrorFilter::OfDecoder(row.id), &visible, &query).await
}

/// Failed decodes of a device, newest first, with a sample of the payload.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = Listed<DecoderError>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/{id}/decoder-errors")]
async fn of_device(caller: Caller<Reader>, state: State, id: PathId, query: Query) -> ApiResult {
    let row = state.admin().device(DeviceId(id.0)).await?;
    caller.read(row.resource())?;
    let visible = caller.principal.visible_applications();
    answer(&state, DecoderErrorFilter::OfDevice(row.id), &visible, &query).await
}
