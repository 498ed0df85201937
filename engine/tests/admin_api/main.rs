//! The API as a black box over PostgreSQL: logging in, tenants kept apart, every write with its line and its event, what devices
//! send, and what a server bears. `serve` runs it for the recorded exchanges: `SLUSE_TEST_SERVE=127.0.0.1:3999,60`.

mod access;
mod api_keys;
mod audit;
mod audit_walk;
mod bodies;
mod counting_proxy;
mod document;
mod every_route;
mod fixture;
mod fuzz;
mod gateway_alarms;
mod golden;
mod groups;
mod identity_provider;
mod ingest;
mod inspection;
mod isolation;
mod kombit_rig;
mod login_kombit;
mod login_oidc;
mod lorawan;
mod lorawan_consistency;
mod lorawan_jobs;
mod network_server;
mod nodes;
mod openid_provider;
mod program;
#[allow(dead_code, reason = "the tests of Redis use more of it")]
#[path = "../redis/fixture.rs"]
mod redis_server;
mod registry;
mod roles;
mod rows;
#[allow(dead_code, reason = "the other tests of content use more of it")]
#[path = "../content/server.rs"]
mod server;
#[allow(dead_code, reason = "the other tests of content use more of it")]
#[path = "../content/sigfox_server.rs"]
mod sigfox_server;
mod silence;
mod smtp;
mod statements;
mod tenants;
mod told;
mod users;
mod walk;

use fixture::{ADMIN_EMAIL, Api};
use serde_json::json;

#[tokio::test]
#[ignore = "serves on the address and for the seconds of SLUSE_TEST_SERVE, for a replay of recorded exchanges"]
async fn serve() {
    let told = std::env::var("SLUSE_TEST_SERVE").unwrap_or_else(|_| "127.0.0.1:3999,60".to_owned());
    let (listen, seconds) = told.split_once(',').unwrap();
    let api = Api::start_on(listen.parse().unwrap()).await;
    tokio::time::sleep(std::time::Duration::from_secs(seconds.parse().unwrap())).await;
    drop(api);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_answer_without_a_reason() {
    let api = Api::start().await;
    for body in [
        json!({"username": ADMIN_EMAIL, "password": "wrong"}),
        json!({"username": "nobody@example.org", "password": "wrong"}),
        json!({"username": ADMIN_EMAIL}),
        json!({"username": ADMIN_EMAIL, "password": 7}),
    ] {
        let (status, answer) = api.call("POST", "/auth/login", None, Some(body)).await;
        assert_eq!(status, 401);
        let keys: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["statusCode", "timestamp", "path"]);
        assert_eq!(answer["path"], "/api/v1/auth/login");
    }
}

#[tokio::test]
async fn guessing_passwords_is_throttled() {
    let api = Api::start().await;
    let mut statuses = Vec::new();
    for _ in 0..14 {
        let body = json!({"username": "rita@example.org", "password": "wrong"});
        statuses.push(api.call("POST", "/auth/login", None, Some(body)).await.0);
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses.last(), Some(&429));
}

#[tokio::test]
async fn a_token_ends_with_its_users_right_to_be_here() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &["Read"]).await;
    let me = || api.call("GET", "/auth/me", Some(&tenant.token), None);
    assert_eq!(me().await.0, 200);
    let user = |extra: serde_json::Value| {
        let mut body = json!({"name": "Aarhus", "email": "aarhus@example.org"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let path = format!("/user/{}", tenant.user);
    let (status, body) = api.put(&path, user(json!({"active": false}))).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(me().await.0, 401, "deactivated");
    api.put(&path, user(json!({"active": true}))).await;
    assert_eq!(me().await.0, 401, "a token from before he was deactivated stays invalid");
    let token = api.log_in("aarhus@example.org", "Sesame-11").await;
    let me = || api.call("GET", "/auth/me", Some(&token), None);
    assert_eq!(me().await.0, 200);
    api.put(&path, user(json!({"expiresOn": "2020-01-01T00:00:00.000Z"}))).await;
    assert_eq!(me().await.0, 401, "expired");
    api.put(&path, user(json!({"expiresOn": null}))).await;
    assert_eq!(me().await.0, 200);
    let groups = api.get(&path).await.1["permissions"].as_array().unwrap().len();
    assert_eq!(groups, 1, "a change that says nothing of groups leaves them");
    api.put(&path, user(json!({"password": "Sesame-12"}))).await;
    assert_eq!(me().await.0, 401, "another password makes tokens invalid");
    api.log_in("aarhus@example.org", "Sesame-12").await;
}

#[tokio::test]
async fn every_write_has_a_line_in_the_change_log_and_a_change_event() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &["OrganizationApplicationAdmin"]).await;
    let counts = || async {
        (
            api.number("SELECT count(*) FROM change_log WHERE succeeded").await,
            api.number("SELECT count(*) FROM change_event").await,
        )
    };
    let body = json!({"name": "Parking", "organizationId": tenant.organization});
    let before = counts().await;
    let application = api.made("/application", body.clone()).await;
    let after = counts().await;
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));

    assert_eq!(api.post("/application", body).await.0, 400, "the name is taken");
    assert_eq!(counts().await, after, "what is refused changes nothing");

    let path = format!("/application/{}", application["id"]);
    let renamed = json!({"name": "Parking 2", "organizationId": tenant.organization});
    assert_eq!(api.put(&path, renamed).await.0, 200);
    assert_eq!(api.call("DELETE", &path, Some(&api.admin), None).await, (200, json!({"affected": 1})));
    let line = api
        .store
        .pool()
        .get()
        .await
        .unwrap()
        .query_one(
            "SELECT user_id, principal, remote_address, request_id, before->>'name', after->>'name' FROM change_log \
             WHERE entity = 'application' AND action = 'UPDATE'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(line.get::<_, i64>(0), 1);
    assert_eq!(line.get::<_, &str>(1), "jwt");
    assert_eq!(line.get::<_, &str>(2), "127.0.0.1");
    assert!(line.get::<_, Option<&str>>(3).is_some());
    assert_eq!((line.get::<_, &str>(4), line.get::<_, &str>(5)), ("Parking", "Parking 2"));
    let leaks =
        "SELECT count(*) FROM change_log WHERE COALESCE(before::text, '') || COALESCE(after::text, '') LIKE '%argon2%'";
    assert_eq!(api.number(leaks).await, 0, "no hash of a password is in the log");
}

#[tokio::test]
async fn deleting_an_organisation_tells_of_everything_that_went_with_it() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &["Read"]).await;
    let device = json!({"name": "Room 1", "type": "GENERIC_HTTP", "applicationId": tenant.application});
    let device = api.made("/iot-device", device).await["id"].clone();
    let (status, body) =
        api.call("DELETE", &format!("/organization/{}", tenant.organization), Some(&api.admin), None).await;
    assert_eq!((status, body), (200, json!({"affected": 1})));
    assert_eq!(api.number("SELECT count(*) FROM iot_device").await, 0);
    let events = format!("SELECT count(*) FROM change_event WHERE entity = 'device' AND entity_id = {device}");
    assert_eq!(api.number(&events).await, 2, "made, and gone");
}

#[tokio::test]
async fn wrong_requests_get_their_4xx_and_never_a_500() {
    let api = Api::start().await;
    let organization = api.made("/organization", json!({"name": "Aarhus"})).await["id"].clone();
    for (method, path, body, expected) in [
        ("GET", "/organization/abc", None, 400),
        ("GET", "/organization/99999999999999999999", None, 404),
        ("PUT", "/organization/999999", Some(json!({"name": "x"})), 404),
        ("POST", "/organization", Some(json!({"name": "nul \u{0} byte"})), 400),
        ("GET", "/organization?limit=abc", None, 400),
        ("GET", "/application?orderOn=id;drop table app_user&sort=desc&limit=1", None, 200),
        ("POST", "/application", Some(json!({"name": "x", "organizationId": 999_999})), 400),
        (
            "POST",
            "/application",
            Some(json!({"name": "x", "organizationId": organization, "permissionIds": [9999]})),
            400,
        ),
        ("POST", "/application", Some(json!({"name": "x", "organizationId": organization, "startDate": "soon"})), 400),
        (
            "POST",
            "/permission",
            Some(json!({"levels": [], "name": "x", "organizationId": 999_999, "userIds": []})),
            400,
        ),
        (
            "POST",
            "/permission",
            Some(json!({"levels": [], "name": "x", "organizationId": organization, "userIds": [4_000_000_000_i64]})),
            400,
        ),
        ("POST", "/device-model", Some(json!({"belongsToId": organization, "body": []})), 400),
        ("POST", "/user", Some(json!([])), 400),
        ("GET", "/auth/nothing", None, 404),
        ("PATCH", "/application/1", None, 404),
    ] {
        let (status, answer) = api.call(method, path, Some(&api.admin), body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        if expected == 404 && path == "/auth/nothing" {
            assert_eq!(answer["message"], "Cannot GET /api/v1/auth/nothing");
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_a_500_and_the_server_goes_on() {
    let api = Api::start().await;
    let body = json!({"code": "\"function decode() {}\"", "iotDeviceJsonString": "{}", "rawPayloadJsonString": "{}"});
    let (status, answer) = api.post("/test-payload-decoder", body).await;
    assert_eq!((status, answer), (500, json!({"statusCode": 500, "message": "Internal server error"})));
    let line = "SELECT count(*) FROM change_log WHERE NOT succeeded AND entity = 'test-payload-decoder' AND user_id = 1 \
                AND reason = '500 the handler panicked' AND request_id IS NOT NULL";
    assert_eq!(api.number(line).await, 1);
    assert_eq!(api.get("/auth/me").await.0, 200);
}

#[tokio::test]
async fn only_the_web_clients_origin_may_read_answers() {
    let api = Api::start().await;
    let allowed = |origin: &'static str| {
        let request = api.client.get(format!("{}/healthcheck", api.base)).header("origin", origin);
        async move {
            let response = request.send().await.unwrap();
            response.headers().get("access-control-allow-origin").map(|v| v.to_str().unwrap().to_owned())
        }
    };
    assert_eq!(allowed("http://localhost:8081").await.as_deref(), Some("http://localhost:8081"));
    assert_eq!(allowed("https://evil.example.org").await, None);
}

#[tokio::test]
async fn health_names_what_is_missing() {
    let api = Api::start().await;
    let root = format!("http://{}", api.addr);
    let status = |path: &'static str| {
        let request = api.client.get(format!("{root}{path}"));
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        }
    };
    assert_eq!(status("/healthz").await.0, 200);
    assert_eq!(status("/readyz").await.0, 200);
    assert_eq!(status("/metrics").await.1, "# HELP x y\n");
    assert_eq!(status("/api/v1/healthcheck/").await, (200, "OK".to_owned()));
    assert_eq!(status("/api/v1").await.1, "OS2IoT backend - See /api/v1/docs for Swagger");
    api.readiness.is_log_away.store(true, std::sync::atomic::Ordering::Relaxed);
    let (code, body) = status("/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("disk full"), "{body}");
    assert_eq!(status("/healthz").await.0, 200);
    assert_eq!(status("/api/v1/healthcheck").await.0, 500);
}
