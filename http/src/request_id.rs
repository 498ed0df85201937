//! Around every administrative request: an id (the caller's own if it is a decent one), security headers, a count, and a panic
//! that becomes a 500 in the reference's shape without ending anything.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest};
use futures_util::FutureExt;

use crate::body;
use crate::config::ADMIN_BODY_BYTES_MAX;
use crate::error::ApiError;
use crate::metrics;
use crate::security;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const NUM_CHARS_MAX: usize = 64;

#[derive(Clone, Debug)]
struct RequestId(String);

/// The id of this request.
pub fn request_id(request: &HttpRequest) -> Option<String> {
    request.extensions().get::<RequestId>().map(|id| id.0.clone())
}

fn is_decent(id: &str) -> bool {
    !id.is_empty() && id.len() <= NUM_CHARS_MAX && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The middleware.
pub async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started_at = Instant::now();
    let given = request.headers().get(&HEADER).and_then(|v| v.to_str().ok()).filter(|id| is_decent(id));
    let id = given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let (method, path) = (request.method().clone(), request.path().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let too_large = body::check_length(request.headers(), ADMIN_BODY_BYTES_MAX).err();
    let result = match too_large {
        Some(error) => Ok(Err(error.into())),
        None => AssertUnwindSafe(next.call(request)).catch_unwind().await,
    };
    let result = match result {
        Ok(result) => result,
        Err(_) => {
            tracing::error!(%method, path, request_id = id, "a handler panicked, the request was answered with 500");
            metrics::handler_panicked();
            Err(ApiError::internal().into())
        }
    };
    let mut response = match result {
        Ok(response) => response,
        Err(error) => {
            metrics::request_done(error.as_response_error().status_code(), started_at.elapsed());
            return Err(error);
        }
    };
    metrics::request_done(response.status(), started_at.elapsed());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(HEADER, value);
    }
    security::protect(headers);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_break_a_log_line_is_replaced() {
        assert!(is_decent("2f1c-a.b_9"));
        for bad in ["", "a b", "a\"b", &"x".repeat(65), "æ"] {
            assert!(!is_decent(bad), "{bad}");
        }
    }
}
