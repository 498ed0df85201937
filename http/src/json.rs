//! JSON in and out of administrative handlers: a body as a value, within 2 MiB; ids in paths; replies.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use serde_json::{Map, Value};

use crate::body::{self, Content};
use crate::config::ADMIN_BODY_BYTES_MAX;
use crate::error::{ApiError, ApiResult};
use crate::json_words;

/// The body of a request: an object or an array. Nothing sent is an empty object, and so is what is no JSON, as in the reference.
#[derive(Clone, Debug)]
pub struct JsonBody(pub Value);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let mut payload = payload.take();
        let headers = request.headers().clone();
        Box::pin(async move {
            let bytes = body::read(&headers, &mut payload, ADMIN_BODY_BYTES_MAX).await?;
            match body::content(&headers) {
                Content::Json => parse(&bytes).map(Self),
                Content::OtherJson if !bytes.is_empty() => {
                    Err(ApiError::unsupported("the body must be application/json in UTF-8"))
                }
                // Nobody reads what is no JSON: it says nothing, as in the reference.
                Content::OtherJson | Content::Other => Ok(Self(Value::Object(Map::new()))),
            }
        })
    }
}

fn parse(bytes: &[u8]) -> ApiResult<Value> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::malformed("the body is not valid UTF-8"))?;
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with(['{', '[']) {
        return Err(ApiError::malformed(json_words::no_container(text)));
    }
    serde_json::from_str(text)
        .map_err(|e| ApiError::malformed(json_words::problem(text).unwrap_or_else(|| e.to_string())))
}

/// The `{id}` of a path, which must be an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathId(pub i64);

impl FromRequest for PathId {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        std::future::ready(parse_id(request.match_info().get("id").unwrap_or("")).map(Self))
    }
}

impl PathId {
    /// The id, when there may be a row that has it: ids are 32 bits wide in the reference, and its lists know no others.
    ///
    /// # Errors
    /// 404 for one that is wider.
    pub fn of_list(self) -> ApiResult<i64> {
        if i32::try_from(self.0).is_ok() { Ok(self.0) } else { Err(ApiError::unknown_id()) }
    }
}

/// An id in a path.
///
/// # Errors
/// 400 when it is no integer.
pub fn parse_id(text: &str) -> ApiResult<i64> {
    let is_numeric = text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
    if !is_numeric || text.is_empty() || text == "-" {
        return Err(ApiError::bad_request("Validation failed (numeric string is expected)"));
    }
    // A number that is beyond every id is an id that nothing has.
    Ok(text.parse().unwrap_or(i64::MAX))
}

/// 200 with a JSON body.
pub fn ok(value: Value) -> HttpResponse {
    with_status(StatusCode::OK, &value)
}

/// 201 with a JSON body.
pub fn created(value: Value) -> HttpResponse {
    with_status(StatusCode::CREATED, &value)
}

/// Any status with a JSON body.
pub fn with_status(status: StatusCode, value: &Value) -> HttpResponse {
    HttpResponse::build(status).insert_header((CONTENT_TYPE, "application/json; charset=utf-8")).body(value.to_string())
}

/// Text, booleans included, as the reference sends them: `text/html`.
pub fn text(status: StatusCode, text: impl Into<String>) -> HttpResponse {
    HttpResponse::build(status).insert_header((CONTENT_TYPE, "text/html; charset=utf-8")).body(text.into())
}

/// `{"affected": n}`.
pub fn deleted(deleted: sluse_schema::port::admin::NumDeleted) -> HttpResponse {
    ok(serde_json::json!({"affected": deleted.0}))
}

/// `{"data": […], "count": n}`.
pub fn listed(rows: Vec<Value>, num_all: i64) -> HttpResponse {
    ok(serde_json::json!({"data": rows, "count": num_all}))
}

/// Marks an answer as the reference marks some.
pub fn uncached(mut response: HttpResponse) -> HttpResponse {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("none"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_integers_and_nothing_else() {
        assert_eq!(parse_id("12").unwrap(), 12);
        assert_eq!(parse_id("-3").unwrap(), -3);
        assert_eq!(parse_id("99999999999999999999").unwrap(), i64::MAX);
        for bad in ["", "-", "1.5", "1e3", "abc", "1 ", "+1"] {
            assert!(parse_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_body_is_an_object_an_array_or_nothing() {
        assert_eq!(parse(b" ").unwrap(), serde_json::json!({}));
        assert_eq!(parse(b"[1]").unwrap(), serde_json::json!([1]));
        let status = |text: &[u8]| parse(text).map_err(|e| e.status().as_u16());
        for bad in [&b"1"[..], b"\"x\"", b"{nope", b"{\"a\":\"\xff\"}", b"null"] {
            assert_eq!(status(bad), Err(400), "{bad:?}");
        }
        assert_eq!(status("[".repeat(100_000).as_bytes()), Err(400), "depth is bounded");
        let broken = parse(b"{\"a\":").unwrap_err();
        assert_eq!(broken.body()["message"], "Unexpected end of JSON input");
    }
}
