//! Health: `/healthz` (the process answers), `/readyz` (each dependency by name), the reference's banner and `/healthcheck`, and
//! the metrics page.

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpResponse, get, web};
use serde_json::{Map, Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json;

/// Outside the API's prefix.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(healthz).service(readyz);
}

/// Below the API's prefix.
pub fn api_routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(banner).service(healthcheck);
}

/// The metrics page, on the main listener or on its own.
pub fn metrics_routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(metrics);
}

/// Whether the process answers.
#[utoipa::path(
    tag = "health",
    responses((status = 200, body = Value)),
)]
#[get("/healthz")]
async fn healthz() -> HttpResponse {
    json::ok(json!({"status": "ok"}))
}

/// Whether uplinks are taken in, each dependency by name.
#[utoipa::path(
    tag = "health",
    responses((status = 200, body = Value), (status = 503, description = "something is away", body = Value)),
)]
#[get("/readyz")]
async fn readyz(state: web::Data<AppState>) -> HttpResponse {
    let checks = state.ports.readiness.check().await;
    let is_ready = !state.is_intake_stopped() && checks.iter().all(|(_, result)| result.is_ok());
    let dependencies: Map<String, Value> =
        checks.into_iter().map(|(name, result)| (name, result.map_or_else(Value::String, |()| json!("ok")))).collect();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!({"ready": is_ready, "stopping": state.is_intake_stopped(), "dependencies": dependencies});
    let degraded = state.ports.readiness.degraded();
    if !degraded.is_empty() {
        answer["degraded"] = degraded.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
    }
    json::with_status(status, &answer)
}

/// The API's banner.
#[utoipa::path(
    tag = "default",
    responses((status = 200, body = String, content_type = "text/html")),
)]
#[get("")]
async fn banner() -> HttpResponse {
    json::text(StatusCode::OK, "OS2IoT backend - See /api/v1/docs for Swagger")
}

/// The reference's health check.
#[utoipa::path(
    tag = "default",
    responses((status = 200, body = String, content_type = "text/html")),
)]
#[get("/healthcheck")]
async fn healthcheck(state: web::Data<AppState>) -> ApiResult {
    for (name, result) in state.ports.readiness.check().await {
        if let Err(reason) = result {
            tracing::warn!(dependency = name, reason, "the health check failed");
            // The one 500 that the reference answers on purpose.
            return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{name} failed")));
        }
    }
    Ok(json::text(StatusCode::OK, "OK"))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    tag = "health",
    responses((status = 200, body = String, content_type = "text/plain")),
)]
#[get("/metrics")]
async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .body((state.ports.render_metrics)())
}
