//! The live tail: what a device, or the devices of an application, send while it happens, as server-sent events. Sluse's own
//! addition: `GET /iot-device/:id/live`, `GET /application/:id/live`.
//!
//! Each event has the name of what the device sent (`up`, `join` …) and a JSON object; `numMissed` in it says how many lines this
//! watcher was too slow for. A comment every 15 s keeps proxies awake. The caller's right is looked at again every minute; the
//! stream ends when it is gone, when the device left the application, and when the node stops. The token comes in the
//! `Authorization` header only, so that it is in no log.
//!
//! Limits: 200 watchers per process; beyond that 429.

use actix_web::get;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use utoipa_actix_web::service_config::ServiceConfig;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use async_stream::stream;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId};
use sluse_schema::policy::{Action, Resource, decide};
use sluse_schema::port::admin::AdminError;
use sluse_schema::port::{TailEvent, TailFilter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::access::{self, InApplication};
use crate::authn::Authentication;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::PathId;

const NUM_WATCHERS_MAX: usize = 200;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Keep-alives between two looks at the caller's right.
const NUM_TICKS_PER_CHECK: u32 = 4;

/// Places for watchers.
#[derive(Clone, Debug)]
pub struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(NUM_WATCHERS_MAX)))
    }
}

type State = web::Data<AppState>;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(of_device).service(of_application);
}

/// What a watcher may see: events of this application, as long as it belongs to this organisation.
#[derive(Clone, Copy, Debug)]
struct Scope {
    application: ApplicationId,
    organization: OrganizationId,
}

/// What a device sends, while it happens: server-sent events.
#[utoipa::path(
    tag = "iot-device",
    params(("id" = i64, Path)),
    responses((status = 200, body = String, content_type = "text/event-stream")),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/iot-device/{id}/live")]
async fn of_device(caller: Caller<Reader>, state: State, id: PathId, request: HttpRequest) -> ApiResult {
    let row = state.admin().device(DeviceId(id.0)).await?;
    caller.read(row.resource())?;
    let scope = Scope { application: row.fields.application, organization: row.organization };
    watch(state, &request, scope, TailFilter::Device(row.id))
}

/// What the devices of an application send, while it happens: server-sent events.
#[utoipa::path(
    tag = "application",
    params(("id" = i64, Path)),
    responses((status = 200, body = String, content_type = "text/event-stream")),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/application/{id}/live")]
async fn of_application(caller: Caller<Reader>, state: State, id: PathId, request: HttpRequest) -> ApiResult {
    let application = ApplicationId(id.0);
    let resource = access::application(state.admin(), application).await?.ok_or_else(ApiError::unknown_id)?;
    caller.read(resource.clone())?;
    let Resource::Application { organization, .. } = resource else { return Err(ApiError::unknown_id()) };
    watch(state, &request, Scope { application, organization }, TailFilter::Application(application))
}

fn watch(state: State, request: &HttpRequest, scope: Scope, filter: TailFilter) -> ApiResult {
    let place = Arc::clone(&state.watchers.0).try_acquire_owned().map_err(|_| ApiError::too_many(30))?;
    let events = state.ports.tail.watch(filter);
    let lines = lines(events, scope, place, KEEP_ALIVE, still_allowed(state, request.headers().clone(), scope));
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        // Compression and buffering proxies would hold lines back.
        .insert_header((CONTENT_ENCODING, "identity"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(lines.map(Ok::<_, std::convert::Infallible>)))
}

/// Whether the caller of these headers still may see the scope. An unreachable database takes nobody's right away.
fn still_allowed(state: State, headers: HeaderMap, scope: Scope) -> impl AsyncFn() -> bool {
    async move || {
        let principal = match state.authenticator.authenticate(&headers, state.admin()).await {
            Authentication::Known(known) => known.principal,
            Authentication::Failed(error) => return error.status().is_server_error(),
            Authentication::Absent => return false,
        };
        match state.admin().organization_of_application(scope.application).await {
            Ok(organization) => {
                let resource = Resource::Application { application: scope.application, organization };
                organization == scope.organization && decide(&principal, Action::Read, resource).is_ok()
            }
            Err(AdminError::Store(_)) => true,
            Err(_) => false,
        }
    }
}

/// Events and keep-alives as lines, until the events or the right end.
fn lines(
    mut events: Pin<Box<dyn Stream<Item = TailEvent> + Send>>,
    scope: Scope,
    place: OwnedSemaphorePermit,
    keep_alive: Duration,
    is_allowed: impl AsyncFn() -> bool,
) -> impl Stream<Item = Bytes> {
    stream! {
        let _place = place;
        let mut ticks = interval_at(Instant::now() + keep_alive, keep_alive);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut num_ticks = 0u32;
        yield Bytes::from_static(b": watching\n\n");
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { break };
                    if event.application_id != scope.application || event.organization != scope.organization {
                        // It moved away; what it sends now is others'.
                        break;
                    }
                    if let Some(line) = line(&event) {
                        yield line;
                    }
                }
                _ = ticks.tick() => {
                    num_ticks = num_ticks.wrapping_add(1);
                    if num_ticks.is_multiple_of(NUM_TICKS_PER_CHECK) && !is_allowed().await {
                        break;
                    }
                    yield Bytes::from_static(b": keep-alive\n\n");
                }
            }
        }
    }
}

fn line(event: &TailEvent) -> Option<Bytes> {
    let json = serde_json::to_string(event).ok()?;
    // A payload stands as it came in: line breaks in it can only be white space of JSON, and would end the line here.
    let json = json.replace(['\n', '\r'], " ");
    let name: String = event.event.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    Some(Bytes::from(format!("event: {name}\ndata: {json}\n\n")))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    const SCOPE: Scope = Scope { application: ApplicationId(2), organization: OrganizationId(3) };

    fn event(application: i64, payload: &str) -> TailEvent {
        TailEvent {
            device_id: DeviceId(1),
            application_id: ApplicationId(application),
            organization: OrganizationId(3),
            device_name: "Room 1".into(),
            event: "up".into(),
            received_at_ms: 1,
            payload: Some(RawValue::from_string(payload.to_owned()).unwrap()),
            decoded: Vec::new(),
            num_missed: 0,
        }
    }

    async fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap()
    }

    #[test]
    fn a_payload_with_line_breaks_is_one_line() {
        let line = line(&event(2, "{\n  \"t\": 1\r\n}")).unwrap();
        let text = std::str::from_utf8(&line).unwrap();
        assert_eq!(text.matches('\n').count(), 3, "{text}");
        assert!(text.starts_with("event: up\ndata: {"));
        assert!(text.ends_with("\n\n"));
    }

    #[tokio::test]
    async fn a_watcher_is_kept_awake_and_sent_away_when_his_right_is_gone() {
        let silent = Box::pin(futures_util::stream::pending());
        let lines: Vec<Bytes> =
            lines(silent, SCOPE, place().await, Duration::from_millis(5), async || false).collect().await;
        assert_eq!(lines.len(), 1 + NUM_TICKS_PER_CHECK as usize - 1);
        assert_eq!(lines[1], ": keep-alive\n\n");
    }

    #[tokio::test]
    async fn the_stream_ends_with_the_node_and_when_the_device_moves_to_others() {
        let events = Box::pin(futures_util::stream::iter([event(2, "{}"), event(9, "{\"secret\":1}"), event(2, "{}")]));
        let lines: Vec<Bytes> = lines(events, SCOPE, place().await, KEEP_ALIVE, async || true).collect().await;
        assert_eq!(lines.len(), 2);
        assert!(!lines.iter().any(|line| line.windows(6).any(|w| w == b"secret")));
    }
}
