//! Walks every operation of the OpenAPI document, so that none can be added without being held against what it says: who is let in
//! without credentials, with a key, with too small a role.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fixture::Api;

/// What anybody may call. A route that is to be public has to be named here as well.
const PUBLIC: [&str; 16] = [
    "GET /api/v1",
    "GET /api/v1/healthcheck",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "POST /api/v1/auth/login",
    "GET /api/v1/auth/kombit/login",
    "POST /api/v1/auth/kombit/login/callback",
    "GET /api/v1/auth/kombit/logout/callback",
    "GET /api/v1/auth/kombit/metadata",
    "GET /api/v1/auth/oidc/login",
    "GET /api/v1/auth/oidc/callback",
    "POST /api/v1/receive-data",
    "POST /api/v1/sigfox-callback/data/bidir",
    "GET /api/v1/open-data-dk-sharing/{id}",
    "GET /api/v1/open-data-dk-sharing/{id}/data/{share}",
];

/// One operation of the document.
pub struct Operation {
    pub method: String,
    /// With `{…}`.
    pub path: String,
    /// What may be used to call it, with the role that it needs.
    pub schemes: Vec<(String, Option<String>)>,
}

impl Operation {
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn role_with(&self, scheme: &str) -> Option<&Option<String>> {
        self.schemes.iter().find(|(name, _)| name == scheme).map(|(_, role)| role)
    }
}

/// All of them, from the running server.
pub async fn operations(api: &Api) -> Vec<Operation> {
    let (status, document) = api.call("GET", "/docs-json", None, None).await;
    assert_eq!(status, 200);
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let requirements = operation["security"].as_array().cloned().unwrap_or_default();
            let schemes = requirements.iter().flat_map(|r| r.as_object().unwrap().clone()).map(|(scheme, roles)| {
                let role = roles.get(0).and_then(Value::as_str).map(str::to_owned);
                (scheme, role)
            });
            found.push(Operation { method: method.to_uppercase(), path: path.clone(), schemes: schemes.collect() });
        }
    }
    assert!(found.len() > 90, "the document has only {} operations", found.len());
    found
}

/// With an id that nothing has, and a body that says nothing: who may call is decided before both are looked at.
async fn status(api: &Api, operation: &Operation, header: Option<(&str, &str)>) -> u16 {
    let root = api.base.trim_end_matches("/api/v1");
    let path = operation.path.split('/').map(|part| if part.starts_with('{') { "999999" } else { part });
    let url = format!("{root}{}", path.collect::<Vec<_>>().join("/"));
    let method = reqwest::Method::from_bytes(operation.method.as_bytes()).unwrap();
    let mut request = api.client.request(method.clone(), url).timeout(std::time::Duration::from_secs(20));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    if method != reqwest::Method::GET {
        request = request.json(&json!({}));
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn without_credentials_or_with_wrong_ones_only_public_routes_answer() {
    let api = Api::start().await;
    let mut public = BTreeSet::new();
    for operation in operations(&api).await {
        let name = operation.name();
        let with_nothing = status(&api, &operation, None).await;
        if operation.schemes.is_empty() {
            // A log-in that fails is 401 by itself.
            assert!(with_nothing != 401 || name.contains("/auth/login"), "{name} is public and answers 401");
            public.insert(name);
            continue;
        }
        assert_eq!(with_nothing, 401, "{name} without credentials");
        let forged = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOjEsInVzZXJuYW1lIjoieCIsImlzS29tYml0IjpmYWxzZSwiZXhwIjo5OTk5OTk5OTk5fQ.";
        assert_eq!(status(&api, &operation, Some(("authorization", forged))).await, 401, "{name} with a forged token");
        let unknown = Some(("x-api-key", "9644525c-a22d-4fb9-b247-75fab5d42bf7"));
        assert_eq!(status(&api, &operation, unknown).await, 401, "{name} with an unknown key");
    }
    assert_eq!(public, PUBLIC.iter().map(ToString::to_string).collect());
}

/// A user in a group of these roles, or in none.
async fn token_with(api: &Api, name: &str, roles: &[&str]) -> String {
    if !roles.is_empty() {
        return api.tenant(name, roles).await.token;
    }
    let email = format!("{}@example.org", name.to_lowercase());
    api.made("/user", json!({"name": name, "email": email, "password": "Sesame-11", "active": true})).await;
    api.log_in(&email, "Sesame-11").await
}

#[tokio::test]
async fn too_small_a_role_is_refused_before_anything_else_is_looked_at() {
    let api = Api::start().await;
    let nobody = token_with(&api, "Nobody", &[]).await;
    let reader = token_with(&api, "Reader", &["Read"]).await;
    let everything_but_global = token_with(
        &api,
        "Tenant",
        &["OrganizationUserAdmin", "OrganizationGatewayAdmin", "OrganizationApplicationAdmin", "Read"],
    )
    .await;
    for operation in operations(&api).await {
        let Some(Some(role)) = operation.role_with("token").cloned() else { continue };
        let name = operation.name();
        let with = |token: &str| format!("Bearer {token}");
        let mut refused = vec![("nobody", with(&nobody))];
        if role != "Read" {
            refused.push(("a reader", with(&reader)));
        }
        if role == "GlobalAdmin" {
            refused.push(("a tenant's administrator", with(&everything_but_global)));
        }
        for (who, token) in refused {
            let got = status(&api, &operation, Some(("authorization", &token))).await;
            assert_eq!(got, 403, "{name}, which needs {role}, called by {who}");
        }
        let allowed = with(if role == "GlobalAdmin" { &api.admin } else { &everything_but_global });
        // Streams do not end by themselves: being let in is told by the other tests.
        if !operation.path.ends_with("/live") {
            let got = status(&api, &operation, Some(("authorization", &allowed))).await;
            assert!(got < 500 && got != 401, "{name}: {got}");
        }
    }
}

/// A key of a group of the application's tenant, made as the API stores it.
async fn key_of(api: &Api, group: &Value) -> String {
    let key = "0b1f6f1e-6d0c-4f0e-8f5e-2f6f0a2f9d11";
    let hash = hex::encode(Sha256::digest(key.as_bytes()));
    let sql = format!(
        "WITH u AS (INSERT INTO app_user (name, active, is_system_user) VALUES ('key', false, true) RETURNING id), \
         k AS (INSERT INTO api_key (name, key_hash, key_prefix, system_user_id) \
               SELECT 'key', '\\x{hash}', '0b1f', id FROM u RETURNING id) \
         INSERT INTO api_key_permission (api_key_id, permission_id) SELECT id, {group} FROM k"
    );
    api.store.pool().get().await.unwrap().batch_execute(&sql).await.unwrap();
    key.to_owned()
}

#[tokio::test]
async fn a_key_opens_what_the_document_says_and_nothing_else() {
    let api = Api::start().await;
    let roles = ["OrganizationUserAdmin", "OrganizationGatewayAdmin", "OrganizationApplicationAdmin", "Read"];
    let tenant = api.tenant("Aarhus", &roles).await;
    let key = key_of(&api, &tenant.group).await;
    for operation in operations(&api).await {
        if operation.schemes.is_empty() || operation.path.ends_with("/live") {
            continue;
        }
        let got = status(&api, &operation, Some(("x-api-key", &key))).await;
        match operation.role_with("apiKey") {
            None => assert_eq!(got, 401, "{} takes no keys", operation.name()),
            Some(role) if role.as_deref() == Some("GlobalAdmin") => assert_eq!(got, 403, "{}", operation.name()),
            Some(_) => assert!(got < 500 && got != 401, "{}: {got}", operation.name()),
        }
    }
}

#[tokio::test]
async fn the_documents_page_is_served_without_anything_from_elsewhere() {
    let api = Api::start().await;
    let page = api.client.get(format!("{}/docs", api.base)).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'self'"), "{policy}");
    let html = page.text().await.unwrap();
    assert!(html.contains("swagger-ui"), "{html}");
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    let script = api.client.get(format!("{}/docs/swagger-initializer.js", api.base)).send().await.unwrap();
    assert!(script.text().await.unwrap().contains("/api/v1/docs-json"));
}
