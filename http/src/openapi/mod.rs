//! The API's document, generated from the handlers, and how a route is written.
//!
//! ```ignore
//! /// One line that says what it does.
//! #[utoipa::path(
//!     tag = "organization",
//!     params(("id" = i64, Path)),
//!     request_body = OrganizationDraft,
//!     responses((status = 200, body = Organization)),
//!     security(("token" = ["GlobalAdmin"]), ("apiKey" = ["GlobalAdmin"])),
//! )]
//! #[put("/organization/{id}")]
//! async fn rename(caller: Caller<GlobalAdmin>, id: PathId, …) -> ApiResult { … }
//!
//! pub fn routes(cfg: &mut ServiceConfig<'_>) { cfg.service(rename); }
//! ```
//!
//! `security` repeats what the handler's [`crate::authz::Caller`] says: with a token, an API key or either, and the role it needs
//! somewhere (none: any authenticated caller). No `security` at all means a public route. A route that is not documented does not compile,
//! since [`ServiceConfig::service`](utoipa_actix_web::service_config::ServiceConfig::service) takes nothing else; the tests of
//! unauthorised callers walk this document and hold it against what the server does.
//!
//! What is the same everywhere (error answers) is added here, not repeated at every handler.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi as _, ToSchema};
use utoipa_actix_web::AppExt as _;

use crate::server;

pub mod access;
pub mod applications;
pub mod content;
pub mod devices;
pub mod lorawan;
pub mod targets;
pub mod tenants;

/// An error's body. `message` is a code like `MESSAGE.ID-DOES-NOT-EXIST`, a text, or a list of what is wrong with which property.
#[derive(Debug, ToSchema)]
pub struct Problem {
    /// Not there when one device is refused.
    #[schema(rename = "statusCode")]
    pub status_code: Option<u16>,
    pub message: Value,
    /// The status' name.
    pub error: Option<String>,
}

/// An error's body below `/auth`, which gives no reason.
#[derive(Debug, ToSchema)]
pub struct ReducedProblem {
    #[schema(rename = "statusCode")]
    pub status_code: u16,
    pub timestamp: DateTime<Utc>,
    pub path: String,
}

/// A page of a list.
#[derive(Debug, ToSchema)]
pub struct Listed<T> {
    pub data: Vec<T>,
    /// Rows that there are without paging.
    pub count: i64,
}

/// What to log in with.
#[derive(Debug, ToSchema)]
pub struct Credentials {
    /// The e-mail address.
    pub username: String,
    pub password: String,
}

/// A token to call with.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Token {
    pub access_token: String,
}

/// Who a token belongs to.
#[derive(Debug, ToSchema)]
pub struct Profile {
    /// The user's id.
    pub sub: i64,
    pub username: String,
}

/// The caller, and the organisations he may choose from.
#[derive(Debug, ToSchema)]
pub struct Me {
    pub user: tenants::OwnUser,
    pub organizations: Vec<tenants::Organization>,
}

/// How many rows a deletion took.
#[derive(Debug, ToSchema)]
pub struct Deleted {
    pub affected: u64,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Sluse",
        description = "Takes in what LoRaWAN, Sigfox, HTTP and MQTT devices send, decodes it, and hands it to every connected data target. \
                       The OS2iot API, with additions.",
        license(name = "MPL-2.0", identifier = "MPL-2.0"),
    ),
    components(schemas(Problem, ReducedProblem, Deleted))
)]
struct Base;

/// The whole document.
pub fn document() -> OpenApi {
    let (_, mut document) = actix_web::App::new()
        .into_utoipa_app()
        .openapi(Base::openapi())
        .configure(server::routes(true))
        .service(utoipa_actix_web::scope("/api/v1").configure(server::api_routes))
        .split_for_parts();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build()),
    );
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-KEY"))));
    for (path, item) in &mut document.paths.paths {
        let operations =
            [("get", &mut item.get), ("post", &mut item.post), ("put", &mut item.put), ("delete", &mut item.delete)];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            operation.operation_id = Some(operation_id(method, path));
            add_common_answers(path, operation);
        }
    }
    document
}

/// The document as JSON text, the same at every call.
pub fn document_text() -> String {
    // A document is a tree of strings and numbers: it can always be written.
    document().to_pretty_json().unwrap_or_else(|error| json!({"error": error.to_string()}).to_string())
}

/// `get /api/v1/iot-device/{id}/live` becomes `getIotDeviceIdLive`: names of handlers are not unique, paths are.
fn operation_id(method: &str, path: &str) -> String {
    let words =
        path.trim_start_matches("/api/v1").split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.fold(method.to_owned(), |id, word| id + &word[..1].to_ascii_uppercase() + &word[1..])
}

fn add_common_answers(path: &str, operation: &mut Operation) {
    let has_security = operation.security.as_ref().is_some_and(|s| !s.is_empty());
    let has_body = operation.request_body.is_some();
    let is_of_row = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(p) if p.name.ends_with("Id"));
    let names_a_row = has_body || operation.parameters.iter().flatten().any(is_of_row);
    let is_reduced = path.starts_with("/api/v1/auth/");
    let is_of_provider = is_reduced && ["kombit", "oidc"].iter().any(|provider| path.contains(provider));
    let mut add = |status: &str, description: &str| {
        // What is wrong with a body, or not configured, is told below `/auth` too.
        let schema = if is_reduced && !["400", "404"].contains(&status) { "ReducedProblem" } else { "Problem" };
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let response = ResponseBuilder::new().description(description).content("application/json", problem).build();
        operation.responses.responses.entry(status.to_owned()).or_insert(response.into());
    };
    if has_security {
        add("401", "no credentials, or wrong ones");
        add("403", "the caller may not do this");
        add("503", "not now; `Retry-After` says when to try again");
    }
    if has_body {
        add("413", "the body is too large");
        add("415", "the body is packed or written in a way that is not read here");
    }
    if is_of_provider {
        add("404", "this way to log in is not configured");
    }
    if path.contains('{') || has_security && names_a_row {
        add("404", "there is no such thing, or the caller may not know of it");
    }
    if path.contains('{') || has_security || has_body {
        add("400", "what was sent is not right; `message` says what");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn operations() -> Vec<(String, String, Value)> {
        let document: Value = serde_json::from_str(&document_text()).unwrap();
        let paths = document["paths"].as_object().unwrap().clone();
        let methods = |item: Value| item.as_object().unwrap().clone().into_iter();
        paths
            .into_iter()
            .flat_map(|(path, item)| methods(item).map(move |(method, operation)| (method, path.clone(), operation)))
            .collect()
    }

    /// What clients are generated from does not change by accident. `UPDATE_GOLDEN=1` writes the file anew; read the difference.
    #[test]
    fn the_document_is_the_golden_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let now = document_text() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, now).unwrap();
            return;
        }
        let golden = std::fs::read_to_string(path).unwrap();
        let first = golden.lines().zip(now.lines()).enumerate().find(|(_, (was, is))| was != is);
        assert!(golden == now, "the document differs from {path}, first at {first:?}; UPDATE_GOLDEN=1 writes it anew");
    }

    #[test]
    fn every_operation_says_what_it_does_and_has_its_own_id() {
        let operations = operations();
        assert!(operations.len() > 90, "{}", operations.len());
        let mut ids = HashSet::new();
        for (method, path, operation) in operations {
            assert!(operation["summary"].as_str().is_some_and(|s| s.len() > 10), "{method} {path} has no summary");
            assert!(operation["tags"][0].is_string(), "{method} {path} has no tag");
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            assert!(ids.insert(id.clone()), "{method} {path}: the operation id {id} is taken");
        }
    }

    #[test]
    fn roles_are_the_policys() {
        for (method, path, operation) in operations() {
            for requirement in operation["security"].as_array().into_iter().flatten() {
                for (scheme, roles) in requirement.as_object().unwrap() {
                    assert!(["token", "apiKey"].contains(&scheme.as_str()), "{method} {path}: {scheme}");
                    for role in roles.as_array().unwrap() {
                        let text = role.as_str().unwrap();
                        assert!(
                            sluse_schema::permission::Role::ALL.iter().any(|r| r.as_str() == text),
                            "{method} {path}: {text} is no role"
                        );
                    }
                }
            }
        }
    }
}
