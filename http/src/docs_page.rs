//! The API's document and its page, at the reference's paths: `/docs-json`, `/docs`. Both are public, as there; the page is served from
//! this binary and loads nothing from elsewhere.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::{Config, Url};

use crate::error::{ApiError, ApiResult};
use crate::openapi;

/// Swagger UI sets styles in its markup and draws its icons from data URLs; scripts come from here only.
const PAGE_POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// Not in the document, which does not describe itself.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.app_data(web::Data::new(Page::new()))
        .route("/docs-json", web::get().to(document))
        .route("/docs", web::get().to(to_page))
        .route("/docs/{file:.*}", web::get().to(file));
}

struct Page {
    document: Arc<str>,
    config: Arc<Config<'static>>,
}

impl Page {
    fn new() -> Self {
        let document = openapi::document_text();
        let config = Config::new([Url::new("Sluse", "/api/v1/docs-json")])
            .validator_url("none")
            .doc_expansion("none")
            .display_request_duration(true);
        Self { document: document.into(), config: Arc::new(config) }
    }
}

async fn document(page: web::Data<Page>) -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json; charset=utf-8")).body(page.document.to_string())
}

/// The page's files are relative to it.
async fn to_page() -> HttpResponse {
    HttpResponse::Found().insert_header((LOCATION, "/api/v1/docs/index.html")).finish()
}

async fn file(path: web::Path<String>, page: web::Data<Page>) -> ApiResult {
    let found = utoipa_swagger_ui::serve(&path, Arc::clone(&page.config)).map_err(|error| {
        tracing::error!(%error, file = %path, "a file of the document's page cannot be made");
        ApiError::internal()
    })?;
    let Some(found) = found else { return Err(ApiError::bare(StatusCode::NOT_FOUND)) };
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, found.content_type))
        .insert_header((CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .insert_header((CACHE_CONTROL, "no-cache"));
    if found.gzpipped {
        response.insert_header((CONTENT_ENCODING, "gzip"));
    }
    Ok(response.body(found.bytes.into_owned()))
}
