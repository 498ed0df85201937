//! How a target stands, and starting it again from an earlier point. Sluse's own addition.
//!
//! | route | answer |
//! |---|---|
//! | `GET /data-target/:id/state` | feed (`live` or `lagging`), lag in records and seconds, breaker, conservation counters |
//! | `POST /data-target/:id/rewind` `{time: ISO 8601}` or `{offset: n}` | 201 `{requestId}`: the target's owner takes it up |
//!
//! The state is what the target's owner wrote last, about once a second; `asOf` says when. Conservation: `accepted + offeredAgain =
//! delivered + dead + expired + discarded + pending`.

use actix_web::web;
use actix_web::{get, post};
use serde_json::{Value, json};
use sluse_schema::id::TargetId;
use sluse_schema::port::admin::inspect::{RewindTo, TargetState};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::InApplication;
use super::dead_letters::busy;
use super::targets::readable;
use super::view;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::ApiResult;
use crate::json::{JsonBody, PathId, created, ok};
use crate::openapi as shape;
use crate::openapi::targets::{RequestAccepted, Rewind};
use crate::validate::Form;

type State = web::Data<AppState>;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(read).service(rewind);
}

fn shown(id: TargetId, state: &TargetState) -> Value {
    let status = state.status.as_ref();
    let at = |ms: Option<i64>| ms.and_then(chrono::DateTime::from_timestamp_millis).map(view::instant);
    // Counters come with the cursor, which is written together with the status.
    let counters = &state.counters;
    json!({
        "id": id,
        "feed": status.map(|s| s.feed),
        "lagRecords": status.map_or(0, |s| s.lag_records),
        "lagSeconds": status.map_or(0.0, |s| s.lag_seconds),
        "breaker": status.map(|s| s.breaker),
        "breakerReason": status.and_then(|s| s.breaker_reason.clone()),
        "nextProbeAt": at(status.and_then(|s| s.next_probe_at_ms)),
        "numInFlight": status.map_or(0, |s| s.num_in_flight),
        "inFlightLimit": status.map(|s| s.in_flight_limit),
        "lastError": status.and_then(|s| s.last_error.clone()),
        "lastDeliveredAt": at(status.and_then(|s| s.last_delivered_at_ms)),
        "counters": {
            "accepted": counters.accepted,
            "offeredAgain": counters.offered_again,
            "delivered": counters.delivered,
            "dead": counters.dead,
            "expired": counters.expired,
            "discarded": counters.discarded,
            "pending": status.map_or(0, |s| s.pending),
        },
        "partition": state.partition,
        "offset": state.offset,
        "numHoles": state.num_holes,
        "numDeadLetters": state.num_dead_letters,
        "numRequestsWaiting": state.num_requests_waiting,
        "asOf": at(status.map(|s| s.as_of_ms)),
        "storedAt": view::instant_opt(state.updated_at),
    })
}

/// Live or lagging, lag, circuit breaker and the conservation counters of a data target.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    responses((status = 200, body = shape::targets::TargetState)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/data-target/{id}/state")]
async fn read(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let found = state.admin().target_state(target.id).await?;
    Ok(ok(shown(target.id, &found)))
}

/// Exactly one of `time` and `offset`.
fn read_rewind(body: &Value) -> ApiResult<RewindTo> {
    let mut form = Form::of(body);
    let time = form.date_opt("time");
    let offset = form.int_opt("offset", Some(0), None);
    if form.get("time").is_some() == form.get("offset").is_some() {
        form.fail("time", "isDefined", "exactly one of time and offset is needed");
    } else if form.get("time").is_some() && time.is_none() {
        form.fail("time", "isDate", "time must be a Date instance");
    }
    form.finish()?;
    Ok(match (time, offset) {
        (Some(at), _) => RewindTo::Time(at.timestamp_millis()),
        (None, offset) => RewindTo::Offset(offset.unwrap_or(0)),
    })
}

/// Sends everything from a time or an offset on again.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    request_body = Rewind,
    responses((status = 201, body = RequestAccepted), (status = 429, description = "a moment ago somebody asked the same", body = shape::Problem)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/data-target/{id}/rewind")]
async fn rewind(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let permit = caller.write(target.resource())?;
    let to = read_rewind(&body.0)?;
    let request = state.admin().request_rewind(&permit, &caller.changed_by, target.id, to).await.map_err(busy)?;
    Ok(created(json!({"requestId": request})))
}

#[cfg(test)]
mod tests {
    use sluse_schema::target::TargetCounters;

    use super::*;

    #[test]
    fn a_rewind_names_a_time_or_an_offset_and_not_both() {
        assert_eq!(read_rewind(&json!({"time": "2026-01-01T03:12:00Z"})).unwrap(), RewindTo::Time(1_767_237_120_000));
        assert_eq!(read_rewind(&json!({"offset": 12})).unwrap(), RewindTo::Offset(12));
        for bad in [
            json!({}),
            json!({"time": "2026-01-01T03:12:00Z", "offset": 1}),
            json!({"time": "yesterday"}),
            json!({"time": ""}),
            json!({"offset": -1}),
            json!({"offset": "1"}),
        ] {
            assert!(read_rewind(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_target_whose_owner_has_not_written_yet_says_so() {
        let state = TargetState {
            status: None,
            counters: TargetCounters::default(),
            partition: Some(3),
            offset: None,
            num_holes: 0,
            num_dead_letters: 0,
            num_requests_waiting: 0,
            updated_at: None,
        };
        let shown = shown(TargetId(4), &state);
        assert_eq!((&shown["feed"], &shown["asOf"], &shown["partition"]), (&json!(null), &json!(null), &json!(3)));
    }
}
