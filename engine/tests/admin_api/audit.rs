//! The change log and the system log: who did what, and what was refused, without secrets and for whom it concerns.

use serde_json::{Value, json};
use sluse_schema::port::admin::SystemLogEntry;

use crate::fixture::{ADMIN_EMAIL, Api};
use crate::golden::Golden;

const USER_ADMIN: &[&str] = &["OrganizationUserAdmin", "Read"];

/// Lines of the log, newest first.
async fn lines(api: &Api, query: &str) -> Vec<Value> {
    let (status, body) = api.get(&format!("/change-log?{query}")).await;
    assert_eq!(status, 200, "{body}");
    body["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn changes_attempts_and_log_ins_are_lines_of_the_change_log() {
    let api = Api::start().await;
    let mut golden = Golden::new("audit");
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    api.put(&format!("/organization/{}", tenant.organization), json!({"name": "Aarhus 2"})).await;
    golden.note("a change", api.get("/change-log?limit=1&entity=Organization&action=update").await);

    let body = json!({"name": "x", "email": "not an address", "password": "hunter2-hunter2", "permissionIds": []});
    api.post("/user", body).await;
    golden.note("a change that was not valid", api.get("/change-log?limit=1").await);
    api.call("POST", "/organization", Some(&tenant.token), Some(json!({"name": "mine"}))).await;
    golden.note("a change without permission", api.get("/change-log?limit=1").await);
    api.call("GET", "/permission/1", Some(&tenant.token), None).await;
    golden.note("a look without permission", api.get("/change-log?limit=1").await);
    api.call("DELETE", "/permission/1", None, None).await;
    golden.note("nobody tries", api.get("/change-log?limit=1").await);
    api.call("GET", "/user", Some("not.a.token"), None).await;
    golden.note("a bad token", api.get("/change-log?limit=1").await);
    for (username, password) in [(ADMIN_EMAIL, "wrong"), ("hunter2@example.org", "wrong")] {
        api.call("POST", "/auth/login", None, Some(json!({"username": username, "password": password}))).await;
    }
    golden.note("log-ins that failed", api.get("/change-log?limit=2&action=LOGIN").await);
    api.log_in(ADMIN_EMAIL, crate::fixture::ADMIN_PASSWORD).await;
    golden.note("a log-in", api.get("/change-log?limit=1&action=LOGIN").await);
    let key = api.made("/api-key", json!({"name": "script", "permissionIds": [1]})).await["key"].clone();
    api.call_with_key("POST", "/organization", key.as_str().unwrap(), Some(json!({"name": "By a key"}))).await;
    golden.note("a change with a key", api.get("/change-log?limit=1&entity=organization").await);
    golden.check();

    let all = lines(&api, "limit=1000").await;
    let text = Value::Array(all.clone()).to_string();
    for secret in
        ["hunter2", "argon2", "Sesame-11", "password_hash", "key_hash", "token_version", key.as_str().unwrap()]
    {
        assert!(!text.contains(secret), "{secret} is in the log: {text}");
    }
    for line in &all {
        let has_who = line["userId"].is_i64() && line["credential"].is_string();
        assert!(has_who || ["system", "nobody"].contains(&line["principal"].as_str().unwrap()), "{line}");
        assert!(line["principal"] == "system" || line["requestId"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn the_change_log_is_filtered_paged_and_never_changed() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let user = tenant.user.to_string();
    assert_eq!(lines(&api, &format!("entity=user&entityId={user}&action=CREATE")).await.len(), 1);
    assert_eq!(lines(&api, &format!("entity=User&entityId={user}&userId=1")).await.len(), 1);
    assert_eq!(lines(&api, &format!("userId={user}")).await.len(), 1, "his log-in");
    assert_eq!(lines(&api, "to=2020-01-01").await.len(), 0);
    assert_eq!(lines(&api, "from=2020-01-01&to=undefined&entity=null&limit=3").await.len(), 3);
    let (newest, oldest) = (lines(&api, "limit=1").await, lines(&api, "limit=1&orderOn=id&sort=asc").await);
    assert!(newest[0]["id"].as_i64() > oldest[0]["id"].as_i64());
    assert_eq!(api.get("/change-log?from=yesterday").await.0, 400);
    assert_eq!(api.get("/change-log?entityId=abc").await.0, 400);
    assert_eq!(api.get("/change-log?limit=1000000000").await.0, 200);
    let client = api.store.pool().get().await.unwrap();
    assert!(client.batch_execute("UPDATE change_log SET user_id = 2").await.is_err());

    client.batch_execute("INSERT INTO change_log (happened_at, principal, action, entity) VALUES (now() - interval '800 days', 'system', 'UPDATE', 'user')").await.unwrap();
    assert_eq!(api.store.expire_logs(None, None).await.unwrap(), 0);
    assert_eq!(api.store.expire_logs(Some(730), Some(30)).await.unwrap(), 1);
}

#[tokio::test]
async fn an_organisations_administrator_reads_what_concerns_it_and_nobody_else_anything() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let reader = api.tenant("Ishoj", &["Read", "OrganizationApplicationAdmin", "OrganizationGatewayAdmin"]).await;
    let shared = json!({"name": "Shared", "email": "shared@example.org", "password": "Sesame-11", "active": true, "permissionIds": [own.group, other.group]});
    let shared = api.made("/user", shared).await["id"].clone();
    let (status, body) = api.call("GET", "/change-log?limit=1000", Some(&own.token), None).await;
    assert_eq!(status, 200);
    let rows = body["data"].as_array().unwrap();
    for row in rows {
        assert_eq!(row["organizationIds"], json!([own.organization]), "{row}");
        assert!(!row.to_string().contains("Ballerup"), "{row}");
    }
    let seen: Vec<_> = rows.iter().map(|r| (r["type"].as_str().unwrap(), r["actionType"].as_str().unwrap())).collect();
    for expected in [
        ("Organization", "CREATE"),
        ("Permission", "CREATE"),
        ("Application", "CREATE"),
        ("User", "CREATE"),
        ("User", "LOGIN"),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    let line = rows.iter().find(|r| r["entityId"] == shared).unwrap();
    assert_eq!(line["after"]["permissions"], json!([{"id": own.group, "organization": own.organization}]));
    let foreign = format!("/change-log?organizationId={}", other.organization);
    assert_eq!(api.call("GET", &foreign, Some(&own.token), None).await.0, 403);
    assert_eq!(api.call("GET", "/system-log", Some(&own.token), None).await.0, 403);
    for path in ["/change-log", "/system-log"] {
        assert_eq!(api.call("GET", path, Some(&reader.token), None).await.0, 403, "{path}");
        assert_eq!(api.call("GET", path, None, None).await.0, 401, "{path}");
    }
}

#[tokio::test]
async fn the_system_log_is_read_by_global_administrators() {
    let api = Api::start().await;
    let entry = |level, message: &str| SystemLogEntry {
        happened_at: chrono::Utc::now(),
        node_id: "node-1".into(),
        level,
        target: "sluse_engine::store".into(),
        message: message.into(),
        fields: json!({"error": "away"}),
        num_times: 3,
    };
    api.store.record_system_log(&[entry("WARN", "first"), entry("ERROR", "second")]).await.unwrap();
    let mut golden = Golden::new("system_log");
    golden.note("all", api.get("/system-log?from=2020-01-01").await);
    golden.note("errors", api.get("/system-log?level=error&target=sluse_engine&nodeId=node-1").await);
    golden.note("none", api.get("/system-log?to=2020-01-01").await);
    golden.check();
    api.sql("UPDATE system_log SET happened_at = now() - interval '31 days' WHERE message = 'first'").await;
    assert_eq!(api.store.expire_logs(None, Some(30)).await.unwrap(), 1);
}

#[tokio::test]
async fn failing_over_and_over_does_not_fill_the_change_log() {
    let api = Api::start().await;
    for _ in 0..60 {
        assert_eq!(api.call("DELETE", "/permission/1", None, None).await.0, 401);
    }
    let num = api.number("SELECT count(*) FROM change_log WHERE principal = 'nobody'").await;
    assert!((20..30).contains(&num), "{num}");
}
