//! Gateways' connection over time: `/lorawan/gateway/status`. Limits: a page of gateways, each with its newest 2 000 states.

use actix_web::get;
use actix_web::{HttpRequest, web};
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use sluse_schema::port::admin::gateway::GatewayHistory;
use sluse_schema::port::admin::{AdminError, Page};
use utoipa_actix_web::service_config::ServiceConfig;

use super::gateways::{among, gateway_to_change, resource};
use super::view;
use crate::authz::{Caller, Reader};
use crate::config::PAGE_LIMIT_MAX;
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::{listed, ok};
use crate::openapi::{
    Listed,
    lorawan::{GatewayFilter, StatusInterval},
};
use crate::page::{PageQuery, Query};
use crate::validate::FieldError;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list).service(one);
}

/// Where the interval of a query begins.
fn begin(query: &Query, now: DateTime<Utc>) -> ApiResult<DateTime<Utc>> {
    let num_days = match query.text("timeInterval") {
        None | Some("DAY") => 1,
        Some("WEEK") => 7,
        Some("MONTH") => 30,
        Some(other) => {
            return Err(FieldError::new("timeInterval", Some(json!(other)))
                .failing("isEnum", "timeInterval must be one of the following values: DAY, WEEK, MONTH")
                .into_api_error());
        }
    };
    Ok(now - Duration::days(num_days))
}

fn history(history: &GatewayHistory) -> Value {
    let states: Vec<Value> = history
        .states
        .iter()
        .map(|(at, was_online)| json!({"timestamp": view::instant(*at), "wasOnline": was_online}))
        .collect();
    json!({"id": history.gateway.to_string(), "name": history.name, "statusTimestamps": states})
}

/// Whether gateways were connected, over time.
#[utoipa::path(
    tag = "lorawan-gateway",
    params(PageQuery, GatewayFilter, StatusInterval),
    responses((status = 200, body = Listed<Value>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/lorawan/gateway/status")]
async fn list(caller: Caller<Reader>, state: web::Data<AppState>, query: Query) -> ApiResult {
    // Paging is looked at and ignored: the web client asks for less than it shows.
    for name in ["limit", "offset"] {
        query.number(name)?;
    }
    let from = begin(&query, Utc::now())?;
    let of = among(&caller, &query)?;
    let found = state.admin().gateway_histories(&of, None, from, &Page::first(PAGE_LIMIT_MAX)).await?;
    Ok(listed(found.rows.iter().map(history).collect(), found.num_all))
}

/// Whether one gateway was connected, over time.
#[utoipa::path(
    tag = "lorawan-gateway",
    params(("gateway" = String, Path), StatusInterval),
    responses((status = 200, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/lorawan/gateway/status/{gateway}")]
async fn one(caller: Caller<Reader>, state: web::Data<AppState>, request: HttpRequest, query: Query) -> ApiResult {
    let id = gateway_to_change(&request)?;
    query.page()?;
    let from = begin(&query, Utc::now())?;
    let row = match state.admin().gateway(id).await {
        Err(AdminError::NotFound) => return Err(ApiError::unknown_id()),
        other => other?,
    };
    caller.read(resource(&row))?;
    let found = state.admin().gateway_histories(&None, Some(id), from, &Page::first(1)).await?;
    Ok(ok(found
        .rows
        .first()
        .map_or_else(|| json!({"id": id.to_string(), "name": row.fields.name, "statusTimestamps": []}), history)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_days() {
        let now = Utc::now();
        let days = |text: &str| (now - begin(&Query::parse(text), now).unwrap()).num_days();
        assert_eq!((days(""), days("timeInterval=WEEK"), days("timeInterval=MONTH")), (1, 7, 30));
        assert!(begin(&Query::parse("timeInterval=YEAR"), now).is_err());
    }
}
