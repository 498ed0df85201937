//! User groups and organisations: shapes, what is refused, and what a tenant's administrator could once take from others.

use serde_json::{Value, json};

use crate::fixture::{Api, Tenant};
use crate::golden::Golden;

const USER_ADMIN: &[&str] = &["OrganizationUserAdmin", "Read"];

fn group(organization: &Value, level: &str, users: Value, applications: Value) -> Value {
    json!({"levels": [{"type": level}], "name": "group", "organizationId": organization, "userIds": users,
           "applicationIds": applications})
}

async fn as_(api: &Api, tenant: &Tenant, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    api.call(method, path, Some(&tenant.token), body).await
}

#[tokio::test]
async fn the_answers_have_the_references_shapes() {
    let api = Api::start().await;
    let mut golden = Golden::new("groups");
    let organization =
        golden.note("create organisation", api.post("/organization", json!({"name": "Ærø"})).await)["id"].clone();
    let path = format!("/organization/{organization}");
    golden.note("organisation", api.get(&path).await);
    golden.note("organisations", api.get("/organization?limit=1&orderOn=name&sort=desc").await);
    golden.note("rename organisation", api.put(&path, json!({"name": "Ærø 2"})).await);
    golden.note("duplicate organisation", api.post("/organization", json!({"name": "Ærø 2"})).await);
    golden.note("nameless organisation", api.post("/organization", json!({})).await);
    golden.note("unknown organisation", api.get("/organization/999999").await);
    golden.note("rename unknown organisation", api.put("/organization/999999", json!({"name": "x"})).await);
    golden.note("organisation not a number", api.delete("/organization/1.5").await);
    golden.note("minimal", api.get("/organization/minimal").await);
    golden.note("minimal at log-in", api.get("/kombitCreation/minimal").await);
    let application =
        api.made("/application", json!({"name": "app", "organizationId": organization})).await["id"].clone();
    let user = api
        .made("/user", json!({"name": "Rita", "email": "rita@example.org", "password": "Sesame-11", "active": true}))
        .await["id"]
        .clone();
    let body = json!({"levels": [{"type": "Read"}], "name": "Readers", "organizationId": organization, "userIds": [user],
                      "applicationIds": [application, null], "automaticallyAddNewApplications": true, "other": 1});
    let made = golden.note("create", api.post("/permission?observe=response", body).await)["id"].clone();
    let path = format!("/permission/{made}");
    golden.note("one", api.get(&path).await);
    golden.note("applications", api.get(&format!("{path}/applications")).await);
    golden.note("users", api.get(&format!("{path}/users?limit=5&offset=0")).await);
    golden.note("list of organisation", api.get(&format!("/permission?organisationId={organization}&userId={user}&orderOn=undefined&sort=undefined&ignoreGlobalAdmin=undefined")).await);
    golden.note(
        "list without users",
        api.get("/permission/getAllPermissionsWithoutUsers?limit=1&ignoreGlobalAdmin=true").await,
    );
    golden.note(
        "list for application administrators",
        api.get(&format!("/permission/applicationAdmin?limit=1&organisationId={organization}")).await,
    );
    golden.note("update", api.put(&path, json!({"name": "Readers 2", "userIds": [], "applicationIds": []})).await);
    golden.note("same level twice", api.post("/permission", json!({"levels": [{"type": "Read"}, {"type": "Read"}], "name": "x", "organizationId": organization, "userIds": []})).await);
    golden.note(
        "invalid",
        api.post("/permission", json!({"levels": "Read", "name": "", "organizationId": "1", "userIds": 1})).await,
    );
    golden.note("unknown", api.get("/permission/999999").await);
    golden.note("update unknown", api.put("/permission/999999", json!({"name": "x", "userIds": []})).await);
    golden.note("delete unknown", api.delete("/permission/999999").await);
    golden.note("delete", api.delete(&path).await);
    golden.note("delete the global administrators", api.delete("/permission/1").await);
    golden.check();
}

#[tokio::test]
async fn a_group_of_global_administrators_cannot_be_made() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let body = group(&own.organization, "GlobalAdmin", json!([own.user]), json!([]));
    assert_eq!(as_(&api, &own, "POST", "/permission", Some(body.clone())).await.0, 403);
    assert_eq!(api.post("/permission", body).await.0, 403, "there is one, and it is nobody's");
    let mut mixed = group(&own.organization, "Read", json!([]), json!([]));
    mixed["levels"] = json!([{"type": "Read"}, {"type": "GlobalAdmin"}]);
    assert_eq!(as_(&api, &own, "POST", "/permission", Some(mixed)).await.0, 403);
    // The built-in one is neither read nor changed by others.
    for (method, path, body) in [
        ("GET", "/permission/1", None),
        ("GET", "/permission/1/users", None),
        ("PUT", "/permission/1", Some(json!({"name": "GlobalAdmin", "userIds": [own.user]}))),
    ] {
        assert_eq!(as_(&api, &own, method, path, body).await.0, 403, "{method} {path}");
    }
    assert!(
        api.store
            .pool()
            .get()
            .await
            .unwrap()
            .batch_execute("INSERT INTO permission (name) VALUES ('GlobalAdmin')")
            .await
            .is_err()
    );
}

/// The web client knows global administrators by their group's name: of a member of a tenant's group called so it would send
/// `globalAdmin: true` as soon as a global administrator edits him.
#[tokio::test]
async fn no_tenants_group_is_called_as_the_global_administrators_are() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    for name in ["GlobalAdmin", " globaladmin ", "Global-Admin", "GLOBAL ADMIN"] {
        let mut body = group(&own.organization, "Read", json!([own.user]), json!([]));
        body["name"] = json!(name);
        let (status, answer) = as_(&api, &own, "POST", "/permission", Some(body.clone())).await;
        assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.NAME-INVALID-OR-ALREADY-IN-USE")), "{name}");
        assert_eq!(as_(&api, &own, "PUT", &format!("/permission/{}", own.group), Some(body)).await.0, 400, "{name}");
    }
    // The group itself keeps its name, whatever is sent.
    let (status, kept) = api.put("/permission/1", json!({"name": "GlobalAdmin", "userIds": [1]})).await;
    assert_eq!((status, &kept["name"]), (200, &json!("GlobalAdmin")));
}

#[tokio::test]
async fn another_tenants_applications_and_users_are_not_pulled_into_a_group() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let with = |users: Value, applications: Value| {
        group(&own.organization, "OrganizationApplicationAdmin", users, applications)
    };
    let applications = with(json!([]), json!([own.application, other.application]));
    assert_eq!(as_(&api, &own, "POST", "/permission", Some(applications.clone())).await.0, 400);
    assert_eq!(api.post("/permission", applications).await.0, 400, "not even by a global administrator");
    assert_eq!(as_(&api, &own, "POST", "/permission", Some(with(json!([other.user]), json!([])))).await.0, 403);
    assert_eq!(
        as_(&api, &own, "POST", "/permission", Some(with(json!([1]), json!([])))).await.0,
        403,
        "the global administrator"
    );
    let path = format!("/permission/{}", own.group);
    let change =
        |users: Value, applications: Value| json!({"name": "staff", "userIds": users, "applicationIds": applications});
    assert_eq!(as_(&api, &own, "PUT", &path, Some(change(json!([own.user, other.user]), json!([])))).await.0, 403);
    assert_eq!(as_(&api, &own, "PUT", &path, Some(change(json!([own.user]), json!([other.application])))).await.0, 400);
    assert_eq!(as_(&api, &own, "GET", &format!("/application/{}", other.application), None).await.0, 403);
    assert_eq!(
        as_(&api, &own, "POST", "/permission", Some(group(&other.organization, "Read", json!([]), json!([])))).await.0,
        403
    );
    for (method, body) in [("PUT", Some(change(json!([]), json!([])))), ("DELETE", None), ("GET", None)] {
        assert_eq!(as_(&api, &own, method, &format!("/permission/{}", other.group), body).await.0, 403, "{method}");
    }
    // And the database would not take it.
    let client = api.store.pool().get().await.unwrap();
    let smuggle = format!(
        "INSERT INTO permission_application (permission_id, application_id) VALUES ({}, {})",
        own.group, other.application
    );
    assert!(client.batch_execute(&smuggle).await.is_err());
}

#[tokio::test]
async fn lists_of_groups_show_a_tenant_nothing_of_others_and_a_member_only_himself() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", &["OrganizationApplicationAdmin"]).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    for filter in [
        format!("organisationId={}", other.organization),
        "organisationId=undefined".into(),
        "organisationId=null".into(),
        String::new(),
    ] {
        for list in ["/permission", "/permission/applicationAdmin", "/permission/getAllPermissionsWithoutUsers"] {
            let (status, body) = as_(&api, &own, "GET", &format!("{list}?{filter}"), None).await;
            assert_eq!(status, 200, "{list}?{filter}");
            assert!(
                !body.to_string().contains("Ballerup") && !body.to_string().contains("ballerup"),
                "{list}?{filter}: {body}"
            );
        }
    }
    // The dialog "new application" of an application's administrator.
    let (_, body) = as_(
        &api,
        &own,
        "GET",
        &format!("/permission?limit=1000&userId={}&organisationId={}", own.user, own.organization),
        None,
    )
    .await;
    assert_eq!((&body["count"], &body["data"][0]["id"]), (&json!(1), &own.group));
    assert_eq!(body["data"][0]["users"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn groups_and_organisations_with_members_can_be_deleted() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    assert_eq!(api.delete(&format!("/permission/{}", tenant.group)).await, (200, json!({"affected": 1})));
    assert_eq!(as_(&api, &tenant, "GET", "/user", None).await.0, 403, "his rights went with the group");
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    api.sql(&format!("INSERT INTO user_requested_organization VALUES ({}, {})", tenant.user, other.organization)).await;
    let key = api.made("/api-key", json!({"name": "script", "permissionIds": [other.group]})).await["key"].clone();
    assert_eq!(api.delete(&format!("/organization/{}", other.organization)).await, (200, json!({"affected": 1})));
    assert_eq!(api.get(&format!("/organization/{}", other.organization)).await.0, 404);
    assert_eq!(api.call_with_key("GET", "/organization/minimal", key.as_str().unwrap(), None).await.0, 401);
    assert_eq!(
        api.number("SELECT count(*) FROM app_user WHERE is_system_user").await,
        0,
        "the key went with its last group"
    );
    assert_eq!(api.get(&format!("/user/{}", other.user)).await.0, 200, "users stay");
    let (status, body) = api.delete("/organization/999999").await;
    assert_eq!((status, &body["message"]), (400, &json!("MESSAGE.ORGANIZATION-GATEWAYS-EXISTS")));
}

#[tokio::test]
async fn organisation_routes_take_api_keys_and_the_others_do_not() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let made = api.made("/api-key", json!({"name": "script", "permissionIds": [tenant.group]})).await;
    let key = made["key"].as_str().unwrap();
    let with_key = |path: String| {
        let api = &api;
        async move { api.call_with_key("GET", &path, key, None).await }
    };
    assert_eq!(with_key("/organization".into()).await.1["count"], 1);
    assert_eq!(with_key(format!("/organization/{}", tenant.organization)).await.0, 200);
    assert_eq!(with_key("/organization/minimal".into()).await.0, 200);
    for path in ["/user", "/permission", "/api-key", "/auth/me", "/kombitCreation/minimal"] {
        assert_eq!(with_key(path.into()).await.0, 401, "{path}");
    }
    assert_eq!(api.call_with_key("POST", "/organization", key, Some(json!({"name": "x"}))).await.0, 403);
}
