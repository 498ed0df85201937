//! API keys: shown once, bound to groups that their maker administers, gone with their system user.

use serde_json::{Value, json};

use crate::fixture::{Api, Tenant};
use crate::golden::Golden;

const USER_ADMIN: &[&str] = &["OrganizationUserAdmin", "Read"];

async fn as_(api: &Api, tenant: &Tenant, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    api.call(method, path, Some(&tenant.token), body).await
}

#[tokio::test]
async fn the_answers_have_the_references_shapes() {
    let api = Api::start().await;
    let mut golden = Golden::new("api_keys");
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let body = json!({"name": "script", "permissionIds": [tenant.group, null], "observe": "response"});
    let made = golden.note("create", api.post("/api-key?observe=response", body).await);
    let path = format!("/api-key/{}", made["id"]);
    golden.note("get", api.get(&path).await);
    golden.note(
        "list",
        api.get(&format!("/api-key?limit=10&offset=0&orderOn=name&sort=asc&organizationId={}", tenant.organization))
            .await,
    );
    let change = json!({"name": "script 2", "permissionIds": [tenant.group], "expiresOn": "2030-01-01T00:00:00.000Z"});
    golden.note("update", api.put(&path, change).await);
    let key = made["key"].as_str().unwrap();
    golden.note("its organisation", api.call_with_key("GET", "/api-key-info/organization", key, None).await);
    golden.note("its organisation with a token", api.get("/api-key-info/organization").await);
    golden.note("no groups", api.post("/api-key", json!({"name": "script", "permissionIds": []})).await);
    golden.note(
        "invalid",
        api.post("/api-key", json!({"name": "x", "permissionIds": [1, 1], "expiresOn": "soon"})).await,
    );
    golden.note("unknown group", api.post("/api-key", json!({"name": "script", "permissionIds": [999_999]})).await);
    golden.note("get unknown", api.get("/api-key/999999").await);
    golden.note(
        "update unknown",
        api.put("/api-key/999999", json!({"name": "script", "permissionIds": [tenant.group]})).await,
    );
    golden.note("delete unknown", api.delete("/api-key/999999").await);
    golden.note("not a number", api.get("/api-key/abc").await);
    golden.note("delete", api.delete(&path).await);
    golden.check();
}

#[tokio::test]
async fn a_key_is_shown_once_and_kept_nowhere() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let (_, made) =
        as_(&api, &tenant, "POST", "/api-key", Some(json!({"name": "script", "permissionIds": [tenant.group]}))).await;
    let key = made["key"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(key).unwrap().get_version_num(), 4);
    assert!(made["systemUser"].get("passwordHash").is_none());
    let path = format!("/api-key/{}", made["id"]);
    let list = format!("/api-key?organizationId={}", tenant.organization);
    let change = json!({"name": "renamed", "permissionIds": [tenant.group]});
    for (method, path, body) in [("GET", &path, None), ("GET", &list, None), ("PUT", &path, Some(change))] {
        let (status, answer) = as_(&api, &tenant, method, path, body).await;
        assert_eq!(status, 200);
        assert!(!answer.to_string().contains(key), "{method} {path}: {answer}");
        assert!(answer.to_string().contains(&format!("{}…", &key[..8])), "{method} {path}: {answer}");
    }
    assert_eq!(
        api.number("SELECT count(*) FROM app_user WHERE is_system_user AND name = 'renamed' AND NOT active").await,
        1
    );
    let text = format!("SELECT count(*) FROM change_log l WHERE l::text LIKE '%{key}%'");
    assert_eq!(api.number(&text).await, 0);
    assert_eq!(api.call_with_key("GET", "/organization/minimal", key, None).await.0, 200);
    assert_eq!(as_(&api, &tenant, "DELETE", &path, None).await, (200, json!({"affected": 1})));
    assert_eq!(api.number("SELECT count(*) FROM app_user WHERE is_system_user").await, 0);
    let (status, answer) = api.call_with_key("GET", "/organization/minimal", key, None).await;
    assert_eq!((status, &answer["message"]), (401, &json!("MESSAGE.API-KEY-AUTH-FAILED")));
}

#[tokio::test]
async fn a_key_is_good_until_it_expires_and_for_ever_without_a_date() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let body = |expires: Value| json!({"name": "script", "permissionIds": [tenant.group], "expiresOn": expires});
    let made = api.made("/api-key", body(Value::Null)).await;
    let (path, key) = (format!("/api-key/{}", made["id"]), made["key"].as_str().unwrap());
    let status = || async { api.call_with_key("GET", "/organization/minimal", key, None).await };
    assert_eq!(status().await.0, 200);
    assert_eq!(api.put(&path, body(json!("2020-01-01T00:00:00.000Z"))).await.0, 200);
    let (code, answer) = status().await;
    assert_eq!((code, &answer["message"]), (401, &json!("MESSAGE.API-KEY-EXPIRED")));
    let unsaid = json!({"name": "script", "permissionIds": [tenant.group]});
    assert_eq!(api.put(&path, unsaid).await.1["expiresOn"], "2020-01-01T00:00:00.000Z", "what is not said stays");
    assert_eq!(api.put(&path, body(Value::Null)).await.0, 200);
    assert_eq!(status().await.0, 200);
}

#[tokio::test]
async fn a_key_gets_no_group_that_its_maker_does_not_administer() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let global = json!(1);
    let body = |groups: Value| Some(json!({"name": "script", "permissionIds": groups}));
    for groups in [json!([global]), json!([own.group, global]), json!([other.group]), json!([own.group, other.group])] {
        let (status, answer) = as_(&api, &own, "POST", "/api-key", body(groups.clone())).await;
        assert_eq!(status, 403, "{groups}: {answer}");
    }
    assert_eq!(api.number("SELECT count(*) FROM api_key").await, 0);
    let mine = as_(&api, &own, "POST", "/api-key", body(json!([own.group]))).await.1;
    let theirs = as_(&api, &other, "POST", "/api-key", body(json!([other.group]))).await.1;
    let shared = api.made("/api-key", json!({"name": "shared", "permissionIds": [own.group, other.group]})).await;
    for groups in [json!([global]), json!([other.group]), json!([own.group, other.group])] {
        assert_eq!(
            as_(&api, &own, "PUT", &format!("/api-key/{}", mine["id"]), body(groups.clone())).await.0,
            403,
            "{groups}"
        );
    }
    for foreign in [&theirs["id"], &shared["id"]] {
        let path = format!("/api-key/{foreign}");
        // He may not take a key over by giving it his own groups.
        assert_eq!(as_(&api, &own, "PUT", &path, body(json!([own.group]))).await.0, 403);
        assert_eq!(as_(&api, &own, "DELETE", &path, None).await.0, 403);
        assert_eq!(as_(&api, &own, "GET", &path, None).await.0, 403);
    }
    assert_eq!(as_(&api, &own, "GET", &format!("/api-key?organizationId={}", other.organization), None).await.0, 403);
    // All keys of all organisations, once to be had by leaving a parameter out.
    for query in ["", "?organizationId=undefined", "?organizationId=null", "?organizationId="] {
        let (status, answer) = as_(&api, &own, "GET", &format!("/api-key{query}"), None).await;
        assert_eq!(status, 400, "{query}: {answer}");
    }
    assert_eq!(as_(&api, &own, "GET", "/api-key?organizationId=abc", None).await.0, 400);
    let (_, list) = as_(&api, &own, "GET", &format!("/api-key?organizationId={}", own.organization), None).await;
    assert_eq!(list["count"], 2);
    assert!(!list.to_string().contains("Ballerup"), "{list}");
    assert_eq!(api.get("/api-key").await.1["count"], 3, "a global administrator sees them all");
}

#[tokio::test]
async fn keys_of_os2iot_are_taken_over() {
    use sluse_engine::store::admin::{ImportError, NewImport, import_api_key};
    use sluse_schema::secret::Secret;
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let group = tenant.group.as_i64().unwrap();
    let key = "6f1c2a4e-0b7d-4a53-9a55-0a8a3a1f7c11";
    let new = |key: &str, permissions: Vec<i64>| NewImport {
        name: "old script".into(),
        key: Secret::new(key),
        permissions,
        expires_at: None,
    };
    let id = import_api_key(&api.store, new(key, vec![group, group])).await.unwrap();
    assert_eq!(api.call_with_key("GET", "/api-key-info/organization", key, None).await.1["name"], "Aarhus");
    assert_eq!(api.get(&format!("/api-key/{id}")).await.1["key"], "6f1c2a4e…");
    assert!(matches!(import_api_key(&api.store, new(key, vec![group])).await, Err(ImportError::Taken)));
    assert!(matches!(import_api_key(&api.store, new("short", vec![group])).await, Err(ImportError::TooShort)));
    assert!(matches!(
        import_api_key(&api.store, new("another key of length", vec![99])).await,
        Err(ImportError::NoSuchGroup(99))
    ));
}
