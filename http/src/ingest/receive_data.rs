//! `POST /api/v1/receive-data?apiKey=`: one transmission of an HTTP device.
//!
//! 204 only once it is durable. The key is in the query or in `X-API-KEY`; missing, empty or unknown: 403, whatever the body, which
//! is read only of a device that is known and has to be there within [`body::READ_WITHIN`] (408). The body is a JSON
//! object or array of at most 256 KiB in UTF-8, kept byte for byte; `Idempotency-Key` (at most 128 bytes) lets a device send again
//! without making a second transmission. 503 with `Retry-After` when it cannot be made durable now,
//! 429 with `Retry-After` when the key is heard too often.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use actix_web::{FromRequest, HttpRequest, HttpResponse, post, web};
use bytes::Bytes;
use serde::de::IgnoredAny;
use sluse_schema::id::DeviceKey;
use sluse_schema::port::{Arrival, RefusedArrival};
use sluse_schema::uplink::{EVENT_ID_BYTES_MAX, EventType, SourceKind};

use crate::body;
use crate::config::INGEST_BODY_BYTES_MAX;
use crate::context::AppState;
use crate::error::{ApiError, code};
use crate::json_words;
use crate::openapi::Problem;

/// Where it is.
pub const RECEIVE_DATA_PATH: &str = "/api/v1/receive-data";
/// Longest key that is looked at; ours have 36 characters.
const API_KEY_BYTES_MAX: usize = 256;
/// Longest content type that is kept.
const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// The body, not yet read.
pub struct Unread(Payload);

impl FromRequest for Unread {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(_request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        std::future::ready(Ok(Self(payload.take())))
    }
}

/// Takes in what an HTTP or NB-IoT device sends; 204 once it is durable.
#[utoipa::path(
    tag = "device ingress",
    params(
        ("apiKey" = Option<String>, Query, description = "the device's key, unless it is in `X-API-KEY`"),
        ("X-API-KEY" = Option<String>, Header, description = "the device's key, unless it is in the query"),
        ("Idempotency-Key" = Option<String>, Header, description = "lets a device send again without making a second transmission"),
    ),
    request_body(content = Object, description = "any JSON object or array of at most 256 KiB"),
    responses(
        (status = 204, description = "durable"),
        (status = 400, description = "what was sent is not right; `message` says what", body = Problem),
        (status = 403, description = "no such key", body = Problem),
        (status = 408, description = "the body was not there in time", body = Problem),
        (status = 415, description = "neither JSON nor gzip", body = Problem),
        (status = 413, description = "too large", body = Problem),
        (status = 429, description = "too many; `Retry-After` says when to try again", body = Problem),
        (status = 503, description = "cannot be made durable now; `Retry-After` says when to try again", body = Problem),
    ),
)]
#[post("/api/v1/receive-data")]
pub async fn receive(request: HttpRequest, body: Unread, state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let started_at = Instant::now();
    let metrics = &state.ingest_metrics;
    match accept(&request, body, &state).await {
        Ok(()) => {
            metrics.accepted.increment(1);
            metrics.accepted_seconds.record(started_at.elapsed().as_secs_f64());
            Ok(HttpResponse::NoContent().insert_header((CACHE_CONTROL, "none")).finish())
        }
        Err(error) => {
            match error.status() {
                StatusCode::FORBIDDEN => metrics.unknown_sender.increment(1),
                StatusCode::PAYLOAD_TOO_LARGE => metrics.too_large.increment(1),
                StatusCode::SERVICE_UNAVAILABLE => metrics.later.increment(1),
                StatusCode::TOO_MANY_REQUESTS => metrics.too_often.increment(1),
                _ => metrics.bad_request.increment(1),
            }
            Err(error)
        }
    }
}

async fn accept(request: &HttpRequest, body: Unread, state: &AppState) -> Result<(), ApiError> {
    if state.is_intake_stopped() {
        return Err(ApiError::later(5));
    }
    let headers = request.headers();
    let sender = api_key(request.query_string(), headers).ok_or_else(unknown_sender)?;
    check_content_type(headers)?;
    let event_id = idempotency_key(headers)?;
    body::check_head(headers, INGEST_BODY_BYTES_MAX)?;
    let intake = &state.ports.intake;
    intake.recognise(SourceKind::Http, &sender).await.map_err(answer)?;
    let Unread(mut unread) = body;
    let payload = body::read(headers, &mut unread, INGEST_BODY_BYTES_MAX).await?;
    check_json(&payload)?;
    let arrival = Arrival {
        sender,
        source: SourceKind::Http,
        event: EventType::Up,
        event_id,
        content_type: content_type(headers),
        figures: None,
        payload,
    };
    intake.accept(arrival).await.map(|_| ()).map_err(answer)
}

fn answer(refused: RefusedArrival) -> ApiError {
    match refused {
        RefusedArrival::UnknownSender => unknown_sender(),
        RefusedArrival::TooOften { retry_after_ms } => ApiError::too_many(retry_after_ms.div_ceil(1000).max(1)),
        RefusedArrival::Later { retry_after_ms, .. } => ApiError::later(retry_after_ms.div_ceil(1000).max(1)),
    }
}

fn unknown_sender() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, code::DEVICE_DOES_NOT_EXIST)
}

/// The first `apiKey` of the query, otherwise the header; nothing when it is empty or absurdly long.
fn api_key(query: &str, headers: &HeaderMap) -> Option<DeviceKey> {
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("apiKey="));
    let key: Cow<'_, str> = match in_query {
        Some(raw) if raw.len() > API_KEY_BYTES_MAX => return None,
        Some(raw) if raw.bytes().any(|b| b == b'%' || b == b'+') => {
            let pair = url::form_urlencoded::parse(raw.as_bytes()).next()?;
            pair.0.into_owned().into()
        }
        Some(raw) => raw.into(),
        None => headers.get("x-api-key")?.to_str().ok()?.into(),
    };
    let is_sensible = !key.trim().is_empty() && key.len() <= API_KEY_BYTES_MAX;
    is_sensible.then(|| DeviceKey::of_api_key(&key))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if body::is_json(headers) {
        return Ok(());
    }
    Err(ApiError::unsupported("the content type must be application/json in UTF-8"))
}

fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    sluse_schema::text::cut(given.unwrap_or("application/json"), CONTENT_TYPE_BYTES_MAX).to_owned()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().map_err(|_| ApiError::bad_request("Idempotency-Key must be printable ASCII"))?.trim();
    if key.len() > EVENT_ID_BYTES_MAX {
        return Err(ApiError::bad_request(format!("Idempotency-Key must have at most {EVENT_ID_BYTES_MAX} bytes")));
    }
    Ok((!key.is_empty()).then(|| key.to_owned()))
}

/// Whether the body is one JSON object or array in UTF-8; builds nothing.
fn check_json(payload: &Bytes) -> Result<(), ApiError> {
    let text = std::str::from_utf8(payload).map_err(|_| ApiError::malformed("the body is not valid UTF-8"))?;
    if !matches!(text.trim_start_matches([' ', '\t', '\r', '\n']).as_bytes().first(), Some(b'{' | b'[')) {
        return Err(ApiError::malformed(json_words::no_container(text)));
    }
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|e| {
        // Nobody who sends for real is answered with the words: they are found when something is wrong.
        ApiError::malformed(json_words::problem(text).unwrap_or_else(|| e.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn header(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn the_key_is_found_in_query_or_header_and_never_assumed() {
        let none = HeaderMap::new();
        let key = Some(DeviceKey::of_api_key("31dab038-a1"));
        assert_eq!(api_key("apiKey=31dab038-a1", &none), key);
        assert_eq!(api_key("x=1&apiKey=31DAB038%2Da1&apiKey=other", &none), key);
        assert_eq!(api_key("", &header("x-api-key", " 31dab038-a1 ")), key);
        for missing in ["", "apiKey=", "apiKey=%20", "APIKEY=1", "apiKey", "xapiKey=1"] {
            assert_eq!(api_key(missing, &none), None, "{missing}");
        }
        assert_eq!(api_key("apiKey=", &header("x-api-key", "31dab038-a1")), None, "an empty key is not replaced");
        assert_eq!(api_key(&format!("apiKey={}", "a".repeat(300)), &none), None);
    }

    #[test]
    fn only_objects_and_arrays_pass_and_their_bytes_stay() {
        for good in ["{}", " [1e400, \"\\ud83d\\ude00\"] ", "{\"a\":{\"b\":[null,true,-0.0]}}"] {
            assert!(check_json(&Bytes::from_static(good.as_bytes())).is_ok(), "{good}");
        }
        for bad in ["", " ", "1", "\"x\"", "null", "{", "{}{}", "{'a':1}", "[1,]", "{\"a\":\"\u{1}\"}"] {
            let status = check_json(&Bytes::from_static(bad.as_bytes())).map_err(|e| e.status().as_u16());
            assert_eq!(status, Err(400), "{bad}");
        }
        assert!(check_json(&Bytes::from_static(b"{\"a\":\"\xc3\x28\"}")).is_err());
    }

    #[test]
    fn an_event_id_has_a_bound() {
        assert_eq!(idempotency_key(&header("idempotency-key", "a-1")).unwrap().as_deref(), Some("a-1"));
        assert_eq!(idempotency_key(&header("idempotency-key", "")).unwrap(), None);
        let mut long = HeaderMap::new();
        long.insert(HeaderName::from_static("idempotency-key"), "x".repeat(129).parse::<HeaderValue>().unwrap());
        assert_eq!(idempotency_key(&long).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
