//! What was refused: every change that failed, and every call that somebody was not allowed, becomes a line of the change log,
//! whatever the handler. (What succeeds writes its line itself, in the transaction of the change.) And what was only tried out.
//!
//! Limits, so that nobody fills the database by failing: 100 lines at once and one per second for a known caller, 20 at once and
//! one per five seconds for an address without good credentials; beyond that they are only counted. Bodies are not kept.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, web};
use futures_util::FutureExt;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde_json::Value;
use sluse_schema::id::OrganizationId;
use sluse_schema::port::admin::{AuditAction, AuditEvent, ChangedBy};

use crate::authn::Authentication;
use crate::authz::changed_by;
use crate::context::AppState;
use crate::error::ApiError;
use crate::metrics;
use crate::request_id::request_id;
use crate::throttle::holder;

/// Writing a line takes no longer: an answer is not held up by it.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// Every so many lines the forgotten keys are cleared away.
const SWEEP_EVERY: u32 = 1024;
const REASON_CHARS_MAX: usize = 300;

/// How many lines about failures there may be.
#[derive(Debug)]
pub struct FailureLimits {
    of_callers: DefaultKeyedRateLimiter<i64>,
    of_addresses: DefaultKeyedRateLimiter<Option<IpAddr>>,
    num_lines: AtomicU32,
}

impl Default for FailureLimits {
    fn default() -> Self {
        let quota = |period_s, burst: u32| {
            let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
            Quota::with_period(Duration::from_secs(period_s)).unwrap_or(Quota::per_second(burst)).allow_burst(burst)
        };
        Self {
            of_callers: RateLimiter::keyed(quota(1, 100)),
            of_addresses: RateLimiter::keyed(quota(5, 20)),
            num_lines: AtomicU32::new(0),
        }
    }
}

impl FailureLimits {
    fn allows(&self, by: &ChangedBy, address: Option<IpAddr>) -> bool {
        if self.num_lines.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.of_callers.retain_recent();
            self.of_addresses.retain_recent();
        }
        match by.user_id() {
            Some(user) => self.of_callers.check_key(&user).is_ok(),
            None => self.of_addresses.check_key(&address.map(holder)).is_ok(),
        }
    }
}

/// Writes a line about something that changed nothing, within the limits and without ever failing the request.
pub async fn note(state: &AppState, by: &ChangedBy, address: Option<IpAddr>, event: &AuditEvent) {
    let is_limited = event.failure.is_some() || event.action == AuditAction::Access;
    if is_limited && !state.failure_limits.allows(by, address) {
        metrics::audit_line("dropped");
        return;
    }
    match tokio::time::timeout(WRITE_WITHIN, state.admin().record_event(by, event)).await {
        Ok(Ok(())) => metrics::audit_line("written"),
        Ok(Err(error)) => {
            metrics::audit_line("failed");
            tracing::debug!(%error, "a line of the change log could not be written");
        }
        Err(_) => metrics::audit_line("failed"),
    }
}

/// Middleware, inside of authentication. A handler that panics leaves its line too; the panic goes on outwards.
pub async fn note_failures(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let meant = Meant::of(request.request());
    let response = match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(response) => response?,
        Err(panic) => {
            if let Some(meant) = meant {
                note(&meant.state, &meant.by, meant.address, &meant.event).await;
            }
            std::panic::resume_unwind(panic);
        }
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        note_failure(response.request(), status, response.response().error()).await;
    }
    Ok(response)
}

/// What a request was about to change. Taken before its handler runs: a handler that panicked leaves no request behind.
struct Meant {
    state: web::Data<AppState>,
    by: ChangedBy,
    address: Option<IpAddr>,
    event: AuditEvent,
}

impl Meant {
    fn of(request: &HttpRequest) -> Option<Self> {
        if request.method().is_safe() || !is_of_people(request.path()) {
            return None;
        }
        let state = request.app_data::<web::Data<AppState>>()?.clone();
        let address = state.remote_address(request);
        let (by, organizations) = caller(request, address);
        let (entity, action) = entity_and_action(request.method(), request.path());
        let event = AuditEvent {
            action,
            entity: entity.to_owned(),
            // The route is not known yet: the first part of the path that is a number.
            entity_id: request.path().split('/').find_map(|part| part.parse().ok()),
            name: None,
            organizations,
            failure: Some("500 the handler panicked".to_owned()),
        };
        Some(Self { state, by, address, event })
    }
}

/// Who is calling, and whose administrators may read what becomes of it.
fn caller(request: &HttpRequest, address: Option<IpAddr>) -> (ChangedBy, Vec<OrganizationId>) {
    match request.extensions().get::<Authentication>() {
        Some(Authentication::Known(known)) => (changed_by(request, known), known.principal.organizations()),
        _ => (ChangedBy::nobody(address.map(|a| a.to_string()), request_id(request)), Vec::new()),
    }
}

async fn note_failure(request: &HttpRequest, status: StatusCode, error: Option<&actix_web::Error>) {
    let Some(state) = request.app_data::<web::Data<AppState>>() else { return };
    let authentication = request.extensions().get::<Authentication>().cloned();
    let has_credentials = !matches!(authentication, None | Some(Authentication::Absent));
    let is_denied = status == StatusCode::FORBIDDEN || (status == StatusCode::UNAUTHORIZED && has_credentials);
    if (request.method().is_safe() && !is_denied) || !is_of_people(request.path()) {
        return;
    }
    let address = state.remote_address(request);
    let (by, organizations) = caller(request, address);
    let event = event(request, status, error, organizations);
    note(state, &by, address, &event).await;
}

fn event(
    request: &HttpRequest,
    status: StatusCode,
    error: Option<&actix_web::Error>,
    organizations: Vec<OrganizationId>,
) -> AuditEvent {
    let (entity, action) = entity_and_action(request.method(), request.path());
    let reason = error.and_then(|error| error.as_error::<ApiError>()).map(|error| reason(error.body()));
    AuditEvent {
        action,
        entity: entity.to_owned(),
        entity_id: request.match_info().get("id").and_then(|id| id.parse().ok()),
        name: None,
        organizations,
        failure: Some(format!("{} {}", status.as_u16(), reason.unwrap_or_default()).trim_end().to_owned()),
    }
}

/// Log-ins write their own lines, and devices are none of the change log's business.
fn is_of_people(path: &str) -> bool {
    let rest = path.strip_prefix("/api/v1/").unwrap_or(path);
    !["auth/login", "auth/kombit", "auth/oidc", "receive-data", "sigfox-callback", "healthcheck"]
        .iter()
        .any(|other| rest.starts_with(other))
}

/// What a path is about, in the words of the change log, and what was meant to be done with it.
fn entity_and_action<'p>(method: &Method, path: &'p str) -> (&'p str, AuditAction) {
    let mut parts = path.strip_prefix("/api/v1/").unwrap_or(path).split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let last = path.rsplit('/').next().unwrap_or_default();
    let action = match *method {
        Method::POST => AuditAction::Create,
        Method::PUT | Method::PATCH => AuditAction::Update,
        Method::DELETE => AuditAction::Delete,
        _ => AuditAction::Access,
    };
    let action = if is_trial(path) { AuditAction::Access } else { action };
    let entity = match (first, second) {
        ("iot-device", _) if last == "downlink" => "Downlink",
        ("iot-device", _) if last == "flushDownlinkQueue" => return ("FlushDownlinkQueue", AuditAction::Delete),
        ("iot-device", _) => "device",
        ("data-target" | "datatarget-log", _) => "target",
        ("payload-decoder", _) => "decoder",
        ("iot-device-payload-decoder-data-target-connection", _) => "connection",
        ("device-model", _) => "device_model",
        ("api-key" | "api-key-info", _) => "api_key",
        ("kombitCreation", _) => "user",
        ("chirpstack", "gateway") => "ChirpstackGateway",
        ("chirpstack", "device-profiles") => "ChirpstackDeviceProfile",
        ("sigfox-group", _) => "sigfox_group",
        ("sigfox-device-type", _) => "sigfox_device_type",
        ("multicast", _) => "Multicast",
        (first, _) => first,
    };
    (entity, action)
}

/// What is posted to try something out, and changes no row.
fn is_trial(path: &str) -> bool {
    ["test-payload-decoder", "data-target/testDataTarget", "sigfox-group/test-connection"]
        .iter()
        .any(|trial| path.strip_prefix("/api/v1/").unwrap_or(path) == *trial)
}

/// Writes the line of something that was tried out, whatever came of it: it used stored credentials, or this machine.
pub async fn note_trial(state: &AppState, by: &ChangedBy, entity: &str, id: Option<i64>, of: Option<OrganizationId>) {
    let event = AuditEvent {
        action: AuditAction::Access,
        entity: entity.to_owned(),
        entity_id: id,
        name: None,
        organizations: of.into_iter().collect(),
        failure: None,
    };
    note(state, by, None, &event).await;
}

/// An error's message: its code, or the names of what was wrong; never what was sent.
fn reason(body: &Value) -> String {
    let text = match &body["message"] {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let names: Vec<_> = items.iter().filter_map(|item| item["property"].as_str()).collect();
            format!("invalid: {}", names.join(", "))
        }
        _ => String::new(),
    };
    text.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_told_in_the_words_of_the_change_log() {
        for (method, path, expected) in [
            (Method::POST, "/api/v1/user", ("user", AuditAction::Create)),
            (Method::PUT, "/api/v1/permission/acceptUser", ("permission", AuditAction::Update)),
            (Method::DELETE, "/api/v1/iot-device/7", ("device", AuditAction::Delete)),
            (Method::POST, "/api/v1/iot-device/7/downlink", ("Downlink", AuditAction::Create)),
            (Method::POST, "/api/v1/iot-device/7/flushDownlinkQueue", ("FlushDownlinkQueue", AuditAction::Delete)),
            (Method::PUT, "/api/v1/chirpstack/gateway/0011", ("ChirpstackGateway", AuditAction::Update)),
            (Method::GET, "/api/v1/change-log", ("change-log", AuditAction::Access)),
            (Method::POST, "/api/v1/data-target/testDataTarget", ("target", AuditAction::Access)),
        ] {
            assert_eq!(entity_and_action(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_reason_names_what_was_wrong_and_not_what_was_sent() {
        let body = json!({"message": [{"property": "password", "value": "hunter2"}, {"property": "name"}]});
        assert_eq!(reason(&body), "invalid: password, name");
        assert_eq!(reason(&json!({"message": "MESSAGE.IS-USED"})), "MESSAGE.IS-USED");
    }

    #[test]
    fn failing_over_and_over_does_not_fill_the_database() {
        let limits = FailureLimits::default();
        let by = ChangedBy::nobody(None, None);
        assert_eq!((0..500).filter(|_| limits.allows(&by, None)).count(), 20);
        assert!(limits.allows(&by, Some("192.0.2.1".parse().unwrap())), "another address");
    }
}
