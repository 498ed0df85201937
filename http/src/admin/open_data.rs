//! Open Data DK (control-plane 2.11 and 2.19): what an organisation shares with everybody, as a DCAT catalogue and as data that
//! is decoded when it is read; and whether Open Data DK was told.
//!
//! Anybody may read, as often as he likes, so an answer is kept for some seconds and worked out once at a time. Limits: 1000 data
//! sets in a catalogue; 1000 devices and 32 MiB of readings in a data set; 2 data sets are decoded at once in this process, 8
//! readings of each; 64 MiB of answers are kept.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, get, post, put, web};
use bytes::Bytes;
use futures_util::StreamExt;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sluse_schema::device::DecoderScript;
use sluse_schema::id::{DecoderId, OrganizationId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::AdminError;
use sluse_schema::port::admin::share::{SharedDataset, SharedReading};
use sluse_schema::port::mail::{Mail, MailBody};
use sluse_schema::port::{DecodeJob, Decoded, Decoder};
use tokio::sync::Semaphore;
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, parse_id, text as text_answer};
use crate::openapi::content::{OpenDataMail, OpenDataRegistration};
use crate::validate::{Form, Rule, as_javascript_text};

type State = web::Data<AppState>;

/// Who harvests.
const OPEN_DATA_DK: &str = "info@opendata.dk";
const NUM_DATASETS_MAX: i64 = 1000;
/// Longest comment of a mail.
const NUM_COMMENT_CHARS_MAX: usize = 4096;
const NUM_DEVICES_MAX: i64 = 1000;
const NUM_READING_BYTES_MAX: usize = 32 << 20;
const NUM_DECODED_AT_ONCE: usize = 8;
const NUM_BUILT_AT_ONCE: usize = 2;
const BUILD_WAIT_MAX: Duration = Duration::from_secs(10);
const CATALOGUE_KEPT_FOR: Duration = Duration::from_secs(2);
const DATA_KEPT_FOR: Duration = Duration::from_secs(5);
const NUM_KEPT_BYTES_MAX: u64 = 64 << 20;
/// A decoder runs for readers under an id of its own, below this: what they ask of it counts against no device's share of time.
const SHARED_DECODER_IDS: i64 = -(1 << 40);
/// What an answer weighs besides its bytes.
const KEPT_OVERHEAD_BYTES: u64 = 256;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(catalogue).service(data).service(registration).service(set_registration).service(send_mail);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Catalogue(i64),
    Data(i64, i64),
}

#[derive(Clone, Debug)]
struct Kept {
    since: Instant,
    body: Bytes,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, _key: &Key, kept: &Kept) -> u64 {
        KEPT_OVERHEAD_BYTES + kept.body.len() as u64
    }
}

/// Answers that are kept for some seconds.
#[derive(Debug)]
pub struct Shares {
    kept: Cache<Key, Kept, ByBytes>,
    builds: Semaphore,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            kept: Cache::with_weighter(1024, NUM_KEPT_BYTES_MAX, ByBytes),
            builds: Semaphore::new(NUM_BUILT_AT_ONCE),
        }
    }
}

impl Shares {
    /// The answer, as old as `kept_for` at most. Whoever asks while it is worked out waits for the same one; errors are not kept.
    async fn get(
        &self,
        key: Key,
        kept_for: Duration,
        build: impl Future<Output = ApiResult<Bytes>>,
    ) -> ApiResult<Bytes> {
        if let Some(kept) = self.kept.get(&key)
            && kept.since.elapsed() >= kept_for
        {
            self.kept.remove(&key);
        }
        let build = async { build.await.map(|body| Kept { since: Instant::now(), body }) };
        Ok(self.kept.get_or_insert_async(&key, build).await?.body)
    }
}

fn answer(body: Bytes, kept_for: Duration) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/json; charset=utf-8"))
        .insert_header((CACHE_CONTROL, format!("public, max-age={}", kept_for.as_secs())))
        .body(body)
}

/// The catalogue of what an organisation shares (DCAT).
#[utoipa::path(tag = "open-data-dk", params(("id" = i64, Path)), responses((status = 200, body = Value)))]
#[get("/open-data-dk-sharing/{id}")]
async fn catalogue(id: PathId, state: State) -> ApiResult {
    let build = async {
        let (organization, datasets) = state
            .admin()
            .shared_datasets(OrganizationId(id.0), NUM_DATASETS_MAX)
            .await
            .map_err(|e| no_organization(e, id.0))?;
        let url = format!("{}/api/v1/open-data-dk-sharing/{}/data", state.config.backend_base_url, id.0);
        let datasets: Vec<Value> = datasets.iter().map(|dataset| dcat(dataset, &organization.name, &url)).collect();
        let catalogue = json!({
            "@context": "https://project-open-data.cio.gov/v1.1/schema/catalog.jsonld",
            "@type": "dcat:Catalog",
            "conformsTo": "https://project-open-data.cio.gov/v1.1/schema",
            "describedBy": "https://project-open-data.cio.gov/v1.1/schema/catalog.json",
            "dataset": datasets,
        });
        Ok(Bytes::from(catalogue.to_string()))
    };
    let body = state.shares.get(Key::Catalogue(id.0), CATALOGUE_KEPT_FOR, build).await?;
    Ok(answer(body, CATALOGUE_KEPT_FOR))
}

fn no_organization(error: AdminError, id: i64) -> ApiError {
    match error {
        AdminError::NotFound => ApiError::not_found(format!("Could not find an organization with the id: {id}")),
        other => other.into(),
    }
}

fn dcat(shared: &SharedDataset, organization: &str, base_url: &str) -> Value {
    let dataset = &shared.dataset;
    let url = format!("{base_url}/{}", shared.id);
    json!({
        "@type": "dcat:Dataset",
        "accessLevel": "public",
        "identifier": url,
        "title": dataset.name,
        "description": dataset.description,
        "keyword": dataset.keywords.as_deref().unwrap_or_default(),
        "issued": view::instant(shared.stamps.created_at),
        "modified": view::instant(shared.stamps.updated_at),
        "publisher": {"name": organization},
        "contactPoint": {
            "@type": "vcard:Contact",
            "fn": dataset.author_name,
            "hasEmail": format!("mailto:{}", dataset.author_email),
        },
        "distribution": [{
            "@type": "dcat:Distribution",
            "mediaType": "application/json",
            "format": "JSON",
            "license": dataset.license,
            "accessURL": url,
            "title": dataset.resource_title,
        }],
    })
}

/// The newest reading of every device that a data set shares, decoded.
#[utoipa::path(
    tag = "open-data-dk",
    params(("id" = i64, Path), ("share" = i64, Path)),
    responses((status = 200, body = Value)),
)]
#[get("/open-data-dk-sharing/{id}/data/{share}")]
async fn data(id: PathId, request: HttpRequest, state: State) -> ApiResult {
    let share = parse_id(request.match_info().get("share").unwrap_or_default())?;
    let build = async {
        let Ok(Ok(_turn)) = tokio::time::timeout(BUILD_WAIT_MAX, state.shares.builds.acquire()).await else {
            return Err(ApiError::too_many(BUILD_WAIT_MAX.as_secs()));
        };
        let found = state.admin().shared_readings(OrganizationId(id.0), share, NUM_DEVICES_MAX).await;
        let readings = found.map_err(|error| match error {
            AdminError::NotFound => {
                ApiError::not_found(format!("Could not find dataset with id: {share} on organization: {}", id.0))
            }
            other => other.into(),
        })?;
        Ok(decoded(&*state.ports.decoder, readings).await)
    };
    let body = state.shares.get(Key::Data(id.0, share), DATA_KEPT_FOR, build).await?;
    Ok(answer(body, DATA_KEPT_FOR))
}

/// The readings as one JSON array.
async fn decoded(decoder: &dyn Decoder, readings: Vec<SharedReading>) -> Bytes {
    if readings.is_empty() {
        return Bytes::from_static(b"{\"error\":\"NoData\"}");
    }
    let mut items =
        futures_util::stream::iter(readings).map(|reading| decode(decoder, reading)).buffered(NUM_DECODED_AT_ONCE);
    let mut array = b"[".to_vec();
    while let Some(item) = items.next().await {
        if array.len() + item.len() > NUM_READING_BYTES_MAX {
            tracing::warn!("an Open Data DK data set is cut off at {NUM_READING_BYTES_MAX} bytes");
            break;
        }
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend_from_slice(&item);
    }
    array.push(b']');
    array.into()
}

async fn decode(decoder: &dyn Decoder, reading: SharedReading) -> Bytes {
    let Some(script) = reading.script else { return as_json(reading.payload) };
    let id = DecoderId(SHARED_DECODER_IDS - script.id.0);
    let script = Arc::new(DecoderScript::new(id, Arc::clone(&script.source), script.dialect));
    let job = DecodeJob {
        script,
        payload: reading.payload,
        metadata: reading.metadata.into(),
        received_at_ms: reading.received_at_ms,
    };
    match decoder.decode(job).await {
        Ok(Decoded::Value { json, .. }) => json,
        Ok(Decoded::Nothing) | Err(_) => {
            let error = format!("Could not decode data for device({})", reading.device);
            Bytes::from(json!({"error": error}).to_string())
        }
    }
}

/// A payload as it is, or as a JSON text where it is none.
fn as_json(payload: Bytes) -> Bytes {
    if serde_json::from_slice::<&RawValue>(&payload).is_ok() {
        return payload;
    }
    Bytes::from(Value::String(String::from_utf8_lossy(&payload).into_owned()).to_string())
}

/// Whether an organisation told Open Data DK what it shares.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    responses((status = 200, body = bool, content_type = "text/html")),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/data-target/getOpenDataDkRegistered/{id}")]
async fn registration(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    let id = OrganizationId(id.0);
    caller.read(Resource::Organization(id)).map_err(|_| ApiError::unknown_id())?;
    let found = state.admin().organizations_by_id(&[id]).await?;
    let organization = found.first().ok_or_else(ApiError::unknown_id)?;
    Ok(text_answer(StatusCode::OK, organization.is_open_data_dk_registered.to_string()))
}

/// Notes that an organisation told Open Data DK what it shares; `{"registered": false}` takes it back.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    request_body = OpenDataRegistration,
    responses((status = 200, body = bool, content_type = "text/html")),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[put("/data-target/updateOpenDataDkRegistered/{id}")]
async fn set_registration(caller: Caller<Reader>, state: State, id: PathId, JsonBody(body): JsonBody) -> ApiResult {
    let id = OrganizationId(id.0);
    let permit = caller.write(Resource::Organization(id))?;
    let mut form = Form::of(&body);
    let is_registered = form.boolean_opt("registered").unwrap_or(true);
    form.finish()?;
    state.admin().set_open_data_dk_registered(&permit, &caller.changed_by, id, is_registered).await?;
    Ok(text_answer(StatusCode::OK, "true"))
}

/// Tells Open Data DK by mail where an organisation's catalogue is, and notes that it was told.
#[utoipa::path(
    tag = "data-target",
    request_body = OpenDataMail,
    responses((status = 201, body = bool, content_type = "text/html")),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/data-target/sendOpenDataDkMail")]
async fn send_mail(caller: Caller<Reader>, state: State, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let organization = OrganizationId(form.id("organizationId", None));
    let alias = form.text("organizationOddkAlias", &[Rule::Min(1), Rule::Max(256)]);
    // Anything is a comment.
    let comment = form.get("comment").map(as_javascript_text).filter(|comment| !comment.trim().is_empty());
    form.beyond(|form| {
        if comment.as_ref().is_some_and(|comment| comment.chars().count() > NUM_COMMENT_CHARS_MAX) {
            let text = format!("comment must be shorter than or equal to {NUM_COMMENT_CHARS_MAX} characters");
            form.fail("comment", "maxLength", text);
        }
    });
    const TEXT: &str = "sharingUrl must be a URL address";
    let url = form.text("sharingUrl", &[Rule::Max(1024), Rule::Custom("isUrl", TEXT, is_web_address)]);
    form.finish()?;
    let permit = caller.write(Resource::Organization(organization))?;
    if state.admin().organizations_by_id(&[organization]).await?.is_empty() {
        return Err(ApiError::unknown_id());
    }
    let mut text = MailBody::new()
        .paragraph("Hej Open Data DK")
        .paragraph("Vores organisation deler nu data fra OS2iot, som I gerne må høste.")
        .link("Her er vores katalog", url)
        .row("Organisation på opendata.dk", alias);
    if let Some(comment) = comment {
        text = text.row("Kommentar", comment);
    }
    let text = text.paragraph(format!("Med venlig hilsen\n{}", caller.principal.name));
    let mail = Mail::new(vec![OPEN_DATA_DK.to_owned()], "Ny integration til OS2iot", text);
    state.ports.mailer.send(&mail).await.map_err(|error| {
        tracing::warn!(%error, "Open Data DK was not told");
        ApiError::bad_request(code::SEND_MAIL_ERROR)
    })?;
    state.admin().set_open_data_dk_registered(&permit, &caller.changed_by, organization, true).await?;
    Ok(text_answer(StatusCode::CREATED, "true"))
}

fn is_web_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_payload_that_is_no_json_becomes_a_text() {
        assert_eq!(as_json(Bytes::from_static(b" {\"a\":1e400}")), " {\"a\":1e400}");
        assert_eq!(as_json(Bytes::from_static(b"21.5;x")), "\"21.5;x\"");
    }

    #[actix_web::test]
    async fn an_answer_is_worked_out_once_for_all_who_ask_and_again_when_it_is_old() {
        let shares = Arc::new(Shares::default());
        let num_built = Arc::new(AtomicU32::new(0));
        let ask = |kept_for: Duration| {
            let (shares, num_built) = (Arc::clone(&shares), Arc::clone(&num_built));
            async move {
                let build = async {
                    tokio::task::yield_now().await;
                    Ok(Bytes::from(num_built.fetch_add(1, Ordering::Relaxed).to_string()))
                };
                shares.get(Key::Catalogue(1), kept_for, build).await.unwrap()
            }
        };
        let long = Duration::from_secs(3600);
        let answers = futures_util::future::join_all((0..8).map(|_| ask(long))).await;
        assert!(answers.iter().all(|answer| *answer == "0"), "{answers:?}");
        assert_eq!(ask(Duration::ZERO).await, "1");
        let failed = shares.get(Key::Catalogue(2), long, async { Err(ApiError::unknown_id()) }).await;
        assert!(failed.is_err());
        assert_eq!(shares.get(Key::Catalogue(2), long, async { Ok(Bytes::from("x")) }).await.unwrap(), "x");
    }
}
