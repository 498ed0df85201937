//! Tenants are kept apart, and nobody makes himself more than he is.

use serde_json::json;

use crate::fixture::Api;

#[tokio::test]
async fn without_credentials_nothing_is_shown_or_done() {
    let api = Api::start().await;
    for (method, path) in [
        ("GET", "/auth/me"),
        ("GET", "/auth/profile"),
        ("GET", "/organization"),
        ("POST", "/organization"),
        ("GET", "/organization/minimal"),
        ("GET", "/organization/applicationAdmin"),
        ("GET", "/organization/gatewayAdmin"),
        ("GET", "/organization/1"),
        ("PUT", "/organization/1"),
        ("DELETE", "/organization/1"),
        ("GET", "/permission"),
        ("POST", "/permission"),
        ("GET", "/permission/applicationAdmin"),
        ("GET", "/permission/getAllPermissionsWithoutUsers"),
        ("GET", "/permission/1"),
        ("PUT", "/permission/1"),
        ("DELETE", "/permission/1"),
        ("GET", "/permission/1/applications"),
        ("GET", "/permission/1/users"),
        ("GET", "/user"),
        ("POST", "/user"),
        ("GET", "/user/minimal"),
        ("GET", "/user/organizationUsers/1"),
        ("GET", "/user/awaitingUsers"),
        ("GET", "/user/awaitingUsers/1"),
        ("GET", "/user/1"),
        ("PUT", "/user/1"),
        ("PUT", "/user/1/hide-welcome"),
        ("GET", "/kombitCreation/minimal"),
        ("GET", "/kombitCreation/minimalUsers"),
        ("GET", "/application"),
        ("POST", "/application"),
        ("GET", "/application/1"),
        ("PUT", "/application/1"),
        ("PUT", "/application/updateApplicationOrganization/1"),
        ("DELETE", "/application/1"),
        ("GET", "/application/1/filter-information"),
        ("GET", "/application/1/application-dashboard-data"),
        ("GET", "/application/1/iot-devices"),
        ("GET", "/application/1/iot-devices-org"),
        ("GET", "/application/1/iot-devices-map"),
        ("GET", "/device-model"),
        ("POST", "/device-model"),
        ("GET", "/device-model/1"),
        ("PUT", "/device-model/1"),
        ("DELETE", "/device-model/1"),
    ] {
        assert_eq!(api.call(method, path, None, None).await.0, 401, "{method} {path}");
        let (status, _) = api.call(method, path, Some("eyJhbGciOiJub25lIn0.eyJzdWIiOjF9."), None).await;
        assert_eq!(status, 401, "{method} {path} with a token that nobody signed");
    }
}

#[tokio::test]
async fn an_api_key_is_looked_up_and_a_wrong_one_is_told_apart() {
    let api = Api::start().await;
    let with_key = |path: &'static str| {
        let request = api.client.get(format!("{}{path}", api.base)).header("X-API-KEY", "a-key");
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap())
        }
    };
    let (status, body) = with_key("/application").await;
    assert_eq!((status, &body["message"]), (401, &json!("MESSAGE.API-KEY-AUTH-FAILED")));
    let tenant = api.tenant("Aarhus", &["Read"]).await;
    let client = api.store.pool().get().await.unwrap();
    let insert = format!(
        "WITH u AS (INSERT INTO app_user (name, is_system_user, active) VALUES ('script', true, false) RETURNING id), \
         k AS (INSERT INTO api_key (name, key_hash, key_prefix, system_user_id) \
               SELECT 'script', sha256('a-key'::bytea), 'a-k', id FROM u RETURNING id) \
         INSERT INTO api_key_permission (api_key_id, permission_id) SELECT id, {} FROM k",
        tenant.group
    );
    client.batch_execute(&insert).await.unwrap();
    let (status, body) = with_key("/application").await;
    assert_eq!((status, &body["count"]), (200, &json!(1)));
    assert_eq!(with_key("/permission").await.0, 401, "only with a token");
}

#[tokio::test]
async fn a_user_admin_rules_his_own_organisation_and_no_other() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", &["OrganizationUserAdmin"]).await;
    let other = api.tenant("Ballerup", &["OrganizationUserAdmin"]).await;
    let call = |method: &'static str, path: String, body: Option<serde_json::Value>| {
        let (api, token) = (&api, own.token.clone());
        async move { api.call(method, &path, Some(&token), body).await }
    };
    let group = |organization: &serde_json::Value, level: &str, users: serde_json::Value, apps: serde_json::Value| {
        Some(json!({"levels": [{"type": level}], "name": "g", "organizationId": organization, "userIds": users,
                    "applicationIds": apps}))
    };
    let none = json!([]);
    let post = |body| call("POST", "/permission".into(), body);
    assert_eq!(post(group(&own.organization, "Read", none.clone(), json!([own.application]))).await.0, 201);
    assert_eq!(post(group(&other.organization, "Read", none.clone(), none.clone())).await.0, 403);
    assert_eq!(post(group(&own.organization, "GlobalAdmin", json!([own.user]), none.clone())).await.0, 403);
    let (status, body) = post(group(&own.organization, "Read", none.clone(), json!([other.application]))).await;
    assert_eq!(status, 400, "another tenant's application: {body}");
    assert_eq!(post(group(&own.organization, "Read", json!([other.user]), none.clone())).await.0, 403);

    assert_eq!(call("GET", format!("/organization/{}", other.organization), None).await.0, 404);
    assert_eq!(call("GET", format!("/permission/{}", other.group), None).await.0, 403);
    assert_eq!(call("GET", "/permission/1".into(), None).await.0, 403, "the group of global administrators");
    assert_eq!(call("GET", format!("/user/{}", other.user), None).await.0, 403);
    let takeover = json!({"name": "GlobalAdmin", "email": "evil@example.org", "password": "Sesame-66"});
    assert_eq!(call("PUT", "/user/1".into(), Some(takeover.clone())).await.0, 403);
    assert_eq!(call("PUT", format!("/user/{}", other.user), Some(takeover)).await.0, 403);
    let raise = json!({"name": "Aarhus", "globalAdmin": true});
    assert_eq!(call("PUT", format!("/user/{}", own.user), Some(raise)).await.0, 403);
    let sneak = json!({"name": "Aarhus", "permissionIds": [own.group, other.group]});
    assert_eq!(call("PUT", format!("/user/{}", own.user), Some(sneak)).await.0, 403);

    for filter in
        [format!("?organisationId={}", other.organization), "?organisationId=undefined".to_owned(), String::new()]
    {
        let (_, body) = call("GET", format!("/permission{filter}"), None).await;
        for row in body["data"].as_array().unwrap() {
            assert_eq!(row["organization"]["id"], own.organization, "{filter}");
        }
    }
    let (_, users) = call("GET", "/user".into(), None).await;
    let ids: Vec<_> = users["data"].as_array().unwrap().iter().map(|u| u["id"].clone()).collect();
    assert_eq!(ids, std::slice::from_ref(&own.user));
}

#[tokio::test]
async fn applications_are_seen_by_whom_they_are_mapped_to_and_stay_where_they_belong() {
    let api = Api::start().await;
    let reader = api.tenant("Aarhus", &["Read"]).await;
    let admin = api.tenant("Ballerup", &["OrganizationApplicationAdmin"]).await;
    let hidden =
        api.made("/application", json!({"name": "Hidden", "organizationId": admin.organization})).await["id"].clone();
    let as_reader = |method: &'static str, path: String, body| {
        let (api, token) = (&api, reader.token.clone());
        async move { api.call(method, &path, Some(&token), body).await }
    };
    let as_admin = |method: &'static str, path: String, body| {
        let (api, token) = (&api, admin.token.clone());
        async move { api.call(method, &path, Some(&token), body).await }
    };
    assert_eq!(as_reader("GET", format!("/application/{}", reader.application), None).await.0, 200);
    assert_eq!(as_reader("GET", format!("/application/{}", admin.application), None).await.0, 403);
    assert_eq!(as_reader("GET", "/application".into(), None).await.1["count"], 1);
    assert_eq!(as_reader("GET", format!("/application?organizationId={}", admin.organization), None).await.0, 403);
    assert_eq!(
        as_reader("GET", format!("/application/{}/iot-devices-org", admin.organization), None).await.0,
        403,
        "devices of another organisation"
    );
    let body = json!({"name": "mine", "organizationId": reader.organization});
    assert_eq!(as_reader("POST", "/application".into(), Some(body)).await.0, 403);

    assert_eq!(as_admin("GET", format!("/application/{hidden}"), None).await.0, 403, "not mapped to him");
    let steal = json!({"name": "Ballerup app", "organizationId": reader.organization});
    assert_eq!(as_admin("PUT", format!("/application/{}", admin.application), Some(steal)).await.0, 403);
    let give = json!({"organizationId": reader.organization, "permissionIds": []});
    let path = format!("/application/updateApplicationOrganization/{}", admin.application);
    assert_eq!(as_admin("PUT", path.clone(), Some(give.clone())).await.0, 403);
    let (status, moved) = api.put(&path, give).await;
    assert_eq!((status, &moved["belongsTo"]["id"]), (200, &reader.organization));
    let names: Vec<_> = moved["permissions"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert_eq!(
        names,
        ["Aarhus - Læserettigheder", "Aarhus - Applikationsadministrator"],
        "groups that take new applications"
    );
    assert_eq!(as_admin("GET", format!("/application/{}", admin.application), None).await.0, 403, "it left him");
}

#[tokio::test]
async fn device_models_belong_to_their_organisation() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", &["OrganizationApplicationAdmin"]).await;
    let other = api.tenant("Ballerup", &["OrganizationApplicationAdmin"]).await;
    let body = json!({"id": "m1", "type": "DeviceModel", "category": ["sensor"], "controlledProperty": ["airPollution"],
                      "manufacturerName": "Acme", "brandName": "Acme", "modelName": "A1", "name": "Acme A1"});
    let create = |organization: &serde_json::Value| json!({"belongsToId": organization, "body": body});
    let (status, model) = api.call("POST", "/device-model", Some(&own.token), Some(create(&own.organization))).await;
    assert_eq!(status, 201, "{model}");
    assert_eq!(api.call("POST", "/device-model", Some(&other.token), Some(create(&own.organization))).await.0, 403);
    let path = format!("/device-model/{}", model["id"]);
    for method in ["GET", "DELETE"] {
        assert_eq!(api.call(method, &path, Some(&other.token), None).await.0, 403, "{method}");
    }
    assert_eq!(api.call("PUT", &path, Some(&other.token), Some(json!({"body": body}))).await.0, 403);
    assert_eq!(api.call("GET", "/device-model", Some(&other.token), None).await.1["count"], 0);
    assert_eq!(api.call("DELETE", &path, Some(&own.token), None).await.1, json!({"affected": 1}));
    assert_eq!(api.call("DELETE", &path, Some(&own.token), None).await.0, 404);
}
