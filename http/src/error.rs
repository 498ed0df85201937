//! Errors as the REST API shows them: the reference's exact bodies, and never a 500 for what a caller did wrong.
//!
//! | situation | body |
//! |---|---|
//! | a code | `{"statusCode":N,"message":"MESSAGE.X","error":"Bad Request"}` |
//! | without text | `{"statusCode":404,"message":"Not Found"}` |
//! | a role is missing | `{"statusCode":403,"message":"Forbidden resource","error":"Forbidden"}` |
//! | validation | `{"statusCode":400,"message":[{property, constraints, children …}],"error":"Bad Request"}` |
//! | below `/auth` | `{"statusCode":N,"timestamp":"…","path":"…"}` ([`reduce`]) |

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};
use sluse_schema::policy::Denied;
use sluse_schema::port::StoreError;
use sluse_schema::port::admin::AdminError;

use crate::security;

/// The reference's error codes, as far as they are used.
pub mod code {
    macro_rules! codes {
        ($($name:ident = $text:literal;)*) => { $(#[doc = $text] pub const $name: &str = concat!("MESSAGE.", $text);)* };
    }
    codes! {
        ABP_INFO_MISSING = "ABP-INFO-MISSING";
        API_KEY_AUTH_FAILED = "API-KEY-AUTH-FAILED";
        API_KEY_EXPIRED = "API-KEY-EXPIRED";
        APPLICATION_DOES_NOT_EXIST = "APPLICATION-DOES-NOT-EXIST";
        BAD_ENCODING = "BAD-ENCODING";
        CANNOT_MODIFY_ON_KOMBIT_USER = "CANNOT-MODIFY-ON-KOMBIT-USER";
        DELETE_NOT_ALLOWED_HAS_SIGFOX_DEVICE = "DELETE-NOT-ALLOWED-HAS-SIGFOX-DEVICE";
        DELETE_NOT_ALLOWED_ITEM_IS_IN_USE = "DELETE-NOT-ALLOWED-ITEM-IS-IN-USE";
        DEVICE_DOES_NOT_EXIST = "DEVICE-DOES-NOT-EXIST";
        DEVICE_DOES_NOT_EXIST_IN_SIGFOX_FOR_GROUP = "DEVICE-DOES-NOT-EXIST-IN-SIGFOX-FOR-GROUP";
        DEVICE_MODEL_DOES_NOT_EXIST = "DEVICE-MODEL-DOES-NOT-EXIST";
        DEVICE_MODEL_ORGANIZATION_DOES_NOT_MATCH = "DEVICE-MODEL-ORGANIZATION-DOES-NOT-MATCH";
        DELETE_NOT_ALLOWED_HAS_LORAWAN_DEVICE = "DELETE-NOT-ALLOWED-HAS-LORAWAN-DEVICE";
        DOWNLINK_LENGTH_WRONG_FOR_SIGFOX = "DOWNLINK-LENGTH-WRONG-FOR-SIGFOX";
        DOWNLINK_NOT_SUPPORTED_FOR_DEVICE_TYPE = "DOWNLINK-NOT-SUPPORTED-FOR-DEVICE-TYPE";
        DUPLICATE_PERMISSION_TYPES = "DUPLICATE-PERMISSION-TYPES";
        EMAIL_ALREADY_IN_USE = "EMAIL-ALREADY-IN-USE";
        FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE = "FAILED-TO-CREATE-OR-UPDATE-IOT-DEVICE";
        GATEWAY_ID_NOT_ALLOWED_IN_UPDATE = "GATEWAY-ID-NOT-ALLOWED-IN-UPDATE";
        GROUP_CAN_ONLY_BE_CREATED_ONCE_PR_ORGANIZATION = "GROUP-CAN-ONLY-BE-CREATED-ONCE-PR-ORGANIZATION";
        ID_DOES_NOT_EXIST = "ID-DOES-NOT-EXIST";
        ID_INVALID_OR_ALREADY_IN_USE = "ID-INVALID-OR-ALREADY-IN-USE";
        ID_MISSING_FROM_REQUEST = "ID-MISSING-FROM-REQUEST";
        INVALID_KEY_IN_KEY_VALUE_PAIR = "INVALID-KEY-IN-KEY-VALUE-PAIR";
        INVALID_VALUE_IN_KEY_VALUE_PAIR = "INVALID-VALUE-IN-KEY-VALUE-PAIR";
        NAME_INVALID_OR_ALREADY_IN_USE = "NAME-INVALID-OR-ALREADY-IN-USE";
        NOT_SAME_APPLICATION = "NOT-SAME-APPLICATION";
        NOT_VALID_FORMAT = "NOT-VALID-FORMAT";
        ONLY_ALLOWED_FOR_LORAWAN_AND_SIGFOX = "ONLY-ALLOWED-FOR-LORAWAN-AND-SIGFOX";
        ORGANIZATION_ALREADY_EXISTS = "ORGANIZATION-ALREADY-EXISTS";
        ORGANIZATION_DOES_NOT_EXISTS = "ORGANIZATION-DOES-NOT-EXISTS";
        ORGANIZATION_GATEWAYS_EXISTS = "ORGANIZATION-GATEWAYS-EXISTS";
        OTAA_INFO_MISSING = "OTAA-INFO-MISSING";
        PASSWORD_DOES_NOT_MEET_REQUIREMENTS = "PASSWORD-DOES-NOT-MEET-REQUIREMENTS";
        POST_FAILED = "POST-FAILED";
        WRONG_LENGTH = "WRONG-LENGTH";
        IS_USED = "IS-USED";
        QUERY_MUST_NOT_BE_EMPTY = "QUERY-MUST-NOT-BE-EMPTY";
        SEND_MAIL_ERROR = "SEND-MAIL-ERROR";
        SIGFOX_BAD_LOGIN = "SIGFOX-BAD-LOGIN";
        SIGFOX_ERROR = "SIGFOX-ERROR";
        USER_ALREADY_EXISTS = "USER-ALREADY-EXISTS";
        USER_ALREADY_HAVE_MAIL = "USER-ALREADY-HAVE-MAIL";
        USER_ALREADY_IN_PERMISSION = "USER-ALREADY-IN-PERMISSION";
        USER_DOES_NOT_EXIST = "USER-DOES-NOT-EXIST";
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Value,
    retry_after_s: Option<u64>,
    is_from_parser: bool,
}

impl ApiError {
    /// `{"statusCode", "message", "error"}` with a code or any other text.
    pub fn new(status: StatusCode, message: impl Into<Value>) -> Self {
        let reason = status.canonical_reason().unwrap_or("Error");
        Self::raw(status, json!({"statusCode": status.as_u16(), "message": message.into(), "error": reason}))
    }

    /// 400 with a code or text.
    pub fn bad_request(message: impl Into<Value>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404 with a code or text.
    pub fn not_found(message: impl Into<Value>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 404 `MESSAGE.ID-DOES-NOT-EXIST`.
    pub fn unknown_id() -> Self {
        Self::not_found(code::ID_DOES_NOT_EXIST)
    }

    /// `{"statusCode", "message"}` with nothing but the status' own name.
    pub fn bare(status: StatusCode) -> Self {
        let message = match status {
            StatusCode::INTERNAL_SERVER_ERROR => "Internal server error",
            StatusCode::PAYLOAD_TOO_LARGE => "request entity too large",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        Self::raw(status, json!({"statusCode": status.as_u16(), "message": message}))
    }

    /// A body of its own making.
    pub fn raw(status: StatusCode, body: Value) -> Self {
        Self { status, body, retry_after_s: None, is_from_parser: false }
    }

    /// 401 without or with wrong credentials.
    pub fn unauthorized() -> Self {
        Self::bare(StatusCode::UNAUTHORIZED)
    }

    /// 403 of a check inside a handler.
    pub fn forbidden() -> Self {
        Self::bare(StatusCode::FORBIDDEN)
    }

    /// 404 around the 403 of a check inside a handler: where the reference wraps one in the other.
    pub fn forbidden_inside() -> Self {
        let inner = Self::forbidden();
        let body = json!({
            "response": inner.body, "status": 403, "options": {}, "message": "Forbidden", "name": "ForbiddenException",
        });
        Self::raw(StatusCode::NOT_FOUND, body)
    }

    /// 403 of a role guard.
    pub fn forbidden_role() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden resource")
    }

    /// 400 of the body parser; keeps its form below `/auth`.
    pub fn malformed(message: impl Into<Value>) -> Self {
        Self { is_from_parser: true, ..Self::bad_request(message) }
    }

    /// 404 for a path or method that there is not.
    pub fn no_route(method: &actix_web::http::Method, path: &str) -> Self {
        Self { is_from_parser: true, ..Self::not_found(format!("Cannot {method} {path}")) }
    }

    /// 404 for what exists, but not here; says what would have to be set, also below `/auth`.
    pub fn not_configured(what: &str) -> Self {
        Self { is_from_parser: true, ..Self::not_found(format!("{what} is not configured")) }
    }

    /// 413.
    pub fn too_large() -> Self {
        Self { is_from_parser: true, ..Self::bare(StatusCode::PAYLOAD_TOO_LARGE) }
    }

    /// 408: a body that was not there in time.
    pub fn too_slow() -> Self {
        Self { is_from_parser: true, ..Self::bare(StatusCode::REQUEST_TIMEOUT) }
    }

    /// 415: what would have been right.
    pub fn unsupported(expected: &str) -> Self {
        Self { is_from_parser: true, ..Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, expected) }
    }

    /// 503 with `Retry-After`.
    pub fn later(retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::bare(StatusCode::SERVICE_UNAVAILABLE) }
    }

    /// 503 with `Retry-After` and a reason.
    pub fn later_because(retry_after_s: u64, reason: impl Into<Value>) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason) }
    }

    /// 429 with `Retry-After`.
    pub fn too_many(retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::bare(StatusCode::TOO_MANY_REQUESTS) }
    }

    /// 500: a fault of ours.
    pub fn internal() -> Self {
        Self::bare(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Whether it came about before a handler was reached; below `/auth` it keeps its form then.
    pub fn is_from_parser(&self) -> bool {
        self.is_from_parser
    }
}

/// The body of errors below `/auth`: the reference drops message and code there.
pub fn reduce(status: StatusCode, path: &str) -> Value {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    json!({"statusCode": status.as_u16(), "timestamp": now, "path": path})
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.body)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status);
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds));
        }
        let mut response =
            response.insert_header((CONTENT_TYPE, "application/json; charset=utf-8")).body(self.body.to_string());
        // Here, since some errors never pass the middleware that does it for the rest.
        security::protect(response.headers_mut());
        response
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Role(_) => Self::forbidden_role(),
            Denied::Scope => Self::forbidden(),
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::NotFound => Self::unknown_id(),
            AdminError::Taken(_) => Self::bad_request(code::NAME_INVALID_OR_ALREADY_IN_USE),
            AdminError::BadReference(_) => Self::bad_request(code::ID_DOES_NOT_EXIST),
            AdminError::InUse(_) => Self::bad_request(code::DELETE_NOT_ALLOWED_ITEM_IS_IN_USE),
            AdminError::NotCovered => Self::forbidden(),
            AdminError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(reason) => {
                tracing::debug!(reason, "the database refused what a caller sent");
                Self::bare(StatusCode::BAD_REQUEST)
            }
            StoreError::Unavailable(_) | StoreError::Fenced { .. } => {
                tracing::warn!(%error, "a request could not be answered");
                Self::later(5)
            }
        }
    }
}

/// What handlers return.
pub type ApiResult<T = HttpResponse> = Result<T, ApiError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_three_keys_and_a_bare_error_two() {
        let coded = ApiError::bad_request(code::NAME_INVALID_OR_ALREADY_IN_USE);
        assert_eq!(
            coded.body,
            json!({"statusCode": 400, "message": "MESSAGE.NAME-INVALID-OR-ALREADY-IN-USE", "error": "Bad Request"})
        );
        assert_eq!(ApiError::bare(StatusCode::NOT_FOUND).body, json!({"statusCode": 404, "message": "Not Found"}));
        assert_eq!(ApiError::too_large().body, json!({"statusCode": 413, "message": "request entity too large"}));
    }

    #[test]
    fn no_admin_error_is_a_500() {
        for error in [
            AdminError::NotFound,
            AdminError::Taken("name"),
            AdminError::BadReference("organization"),
            AdminError::InUse("gateway"),
            AdminError::NotCovered,
            AdminError::Store(StoreError::Refused("nul".into())),
            AdminError::Store(StoreError::Unavailable("away".into())),
        ] {
            assert_ne!(ApiError::from(error).status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}
