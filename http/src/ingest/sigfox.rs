//! The Sigfox callback. Sigfox devices cannot be registered yet, so that no callback names a known one: what is wrong with it is
//! told first (400), and the rest is 404, as the reference answers for a device that it does not have.

use actix_web::http::StatusCode;
use actix_web::post;
use serde_json::Value;

use crate::error::ApiError;
use crate::json::JsonBody;
use crate::openapi::Problem;
use crate::page::Query;
use crate::validate::Form;

/// Takes in what Sigfox' back end sends.
#[utoipa::path(
    tag = "device ingress",
    params(("apiKey" = Option<String>, Query)),
    request_body = Object,
    responses(
        (status = 204, description = "taken in"),
        (status = 200, description = "taken in, with a downlink", body = Value),
        (status = 400, description = "the key is not the device type's", body = Problem),
        (status = 404, description = "no such device", body = Problem),
        (status = 429, description = "too many; `Retry-After` says when to try again", body = Problem),
        (status = 503, description = "cannot be made durable now; `Retry-After` says when to try again", body = Problem),
    ),
)]
#[post("/sigfox-callback/data/bidir")]
pub async fn callback(query: Query, JsonBody(body): JsonBody) -> Result<actix_web::HttpResponse, ApiError> {
    let mut form = Form::of(&body);
    form.number("time", None, None);
    let device_type = form.text("deviceTypeId", &[]);
    form.text("deviceId", &[]);
    form.text("data", &[]);
    form.number("seqNumber", None, None);
    form.finish()?;
    if query.raw("apiKey") != Some(device_type.as_str()) || body.get("deviceId").is_none_or(Value::is_null) {
        return Err(ApiError::bare(StatusCode::BAD_REQUEST));
    }
    Err(ApiError::bare(StatusCode::NOT_FOUND))
}
