//! The decoder test bench: `POST /test-payload-decoder`. Runs code of the caller in the sandbox, on a payload of his.
//!
//! Limits: two runs at a time in this process, the others wait for up to 10 s; the sandbox's own limits for each.

use actix_web::post;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use utoipa_actix_web::service_config::ServiceConfig;

use actix_web::http::StatusCode;
use actix_web::web;
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use sluse_schema::device::{DecoderScript, Dialect};
use sluse_schema::id::DecoderId;
use sluse_schema::port::{DecodeError, DecodeJob, Decoded};
use tokio::sync::Semaphore;

use super::decoders::read_dialect;
use crate::audit;
use crate::authz::{Anyone, Caller};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::{JsonBody, text};
use crate::json_words;
use crate::openapi::targets::DecoderTrial;
use crate::validate::Form;

const NUM_RUNS_MAX: usize = 2;
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What keeps people who try decoders out from holding up the decoders of devices.
#[derive(Debug)]
pub struct TestBench {
    runs: Semaphore,
    /// Ids that no stored decoder has; each run takes the next one down.
    next_id: AtomicI64,
}

impl Default for TestBench {
    fn default() -> Self {
        Self { runs: Semaphore::new(NUM_RUNS_MAX), next_id: AtomicI64::new(-1) }
    }
}

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(run);
}

/// Runs a decoder on a payload without storing anything.
#[utoipa::path(
    tag = "test-payload-decoder",
    request_body = DecoderTrial,
    responses((status = 201, description = "what the decoder returned, as JSON text", body = String, content_type = "text/html")),
    security(("token" = []), ("apiKey" = [])),
)]
#[post("/test-payload-decoder")]
async fn run(caller: Caller<Anyone>, state: web::Data<AppState>, body: JsonBody) -> ApiResult {
    let mut form = Form::of(&body.0);
    let code = form.text("code", &[]);
    let device = form.text("iotDeviceJsonString", &[]);
    let payload = form.text("rawPayloadJsonString", &[]);
    let dialect = read_dialect(&mut form);
    form.finish()?;
    let no_json = |text: &str, error: serde_json::Error| {
        failed(&format!("SyntaxError: {}", json_words::problem(text).unwrap_or_else(|| error.to_string())))
    };
    let source: String = serde_json::from_str(&code).map_err(|e| no_json(&code, e))?;
    for json in [&device, &payload] {
        serde_json::from_str::<&RawValue>(json).map_err(|e| no_json(json, e))?;
    }
    let source = DecoderSource { source: source.into(), dialect };
    let decoded = decode_once(&state, source, Bytes::from(payload), Arc::from(device)).await?;
    audit::note_trial(&state, &caller.changed_by, "test-payload-decoder", None, None).await;
    match decoded {
        Decoded::Value { json, .. } => Ok(text(StatusCode::CREATED, String::from_utf8_lossy(&json).into_owned())),
        Decoded::Nothing => Ok(text(StatusCode::CREATED, "")),
    }
}

/// Code that is tried out.
#[derive(Debug)]
pub struct DecoderSource {
    pub source: Arc<str>,
    pub dialect: Option<Dialect>,
}

/// Runs code once, apart from every decoder that devices use: what it does wrong counts against none of them.
///
/// # Errors
/// 400 with what the code did wrong; 429 when too many others try theirs.
pub async fn decode_once(
    state: &AppState,
    code: DecoderSource,
    payload: Bytes,
    metadata: Arc<str>,
) -> ApiResult<Decoded> {
    let bench = &state.test_bench;
    let Ok(Ok(_turn)) = tokio::time::timeout(WAIT_MAX, bench.runs.acquire()).await else {
        return Err(ApiError::too_many(WAIT_MAX.as_secs()));
    };
    let id = DecoderId(bench.next_id.fetch_sub(1, Ordering::Relaxed));
    // Dropped on every way out, also when the caller goes away while his code runs.
    let _forget = Forget { decoder: Arc::clone(&state.ports.decoder), id };
    let job = DecodeJob {
        script: Arc::new(DecoderScript::new(id, code.source, code.dialect)),
        payload,
        metadata: metadata.into(),
        received_at_ms: chrono::Utc::now().timestamp_millis(),
    };
    let decoded = state.ports.decoder.decode(job).await;
    // What is thrown and is no error is shown as it is.
    decoded.map_err(|DecodeError { message, .. }| failed(message.strip_prefix("the script threw ").unwrap_or(&message)))
}

fn failed(message: &str) -> ApiError {
    ApiError::bad_request(Value::String(format!("Got error: {message}")))
}

struct Forget {
    decoder: Arc<dyn sluse_schema::port::Decoder>,
    id: DecoderId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.decoder.forget(self.id);
    }
}
