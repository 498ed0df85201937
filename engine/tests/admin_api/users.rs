//! Users: shapes, what is refused, and every way in which somebody could make more of himself or of others than he may.

use serde_json::{Value, json};

use crate::fixture::{ADMIN_EMAIL, ADMIN_PASSWORD, Answer, Api, Tenant};
use crate::golden::Golden;

const USER_ADMIN: &[&str] = &["OrganizationUserAdmin", "Read"];

impl Tenant {
    async fn call(&self, api: &Api, method: &str, path: &str, body: Value) -> Answer {
        let body = (method != "GET" && method != "DELETE").then_some(body);
        api.call(method, path, Some(&self.token), body).await
    }

    async fn put(&self, api: &Api, path: &str, body: Value) -> Answer {
        self.call(api, "PUT", path, body).await
    }
}

/// A user of the tenant in `groups`, besides the one that it has.
async fn user(api: &Api, name: &str, groups: &[&Value]) -> Value {
    let email = format!("{}@example.org", name.to_lowercase());
    let body = json!({"name": name, "email": email, "password": "Sesame-11", "active": true, "permissionIds": groups});
    api.made("/user", body).await
}

/// What the web client sends of a user when nothing was touched.
fn as_is(user: &Value, groups: &[&Value]) -> Value {
    json!({"id": user["id"], "name": user["name"], "email": user["email"], "password": "", "active": user["active"],
           "expiresOn": null, "permissionIds": groups})
}

#[tokio::test]
async fn the_answers_have_the_references_shapes() {
    let api = Api::start().await;
    let mut golden = Golden::new("users");
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let body = json!({"name": "Rita", "email": "rita@example.org", "password": "Sesame-11", "active": true,
                      "globalAdmin": false, "permissionIds": [tenant.group, null], "expiresOn": null, "unknown": {"x": 1}});
    let rita = golden.note("create", api.post("/user?observe=response", body).await)["id"].clone();
    let path = format!("/user/{rita}");
    golden.note("get", api.get(&path).await);
    golden.note("get extended", api.get(&format!("{path}?extendedInfo=true")).await);
    golden.note("list", api.get("/user?limit=2&offset=0&sort=desc&orderOn=id").await);
    golden.note("list of an organisation's administrator", tenant.call(&api, "GET", "/user", Value::Null).await);
    golden.note("minimal", api.get("/user/minimal").await);
    golden.note("of organisation", api.get(&format!("/user/organizationUsers/{}", tenant.organization)).await);
    golden.note("awaiting", api.get("/user/awaitingUsers").await);
    let change = json!({"name": "Rita R.", "email": "rita@example.org", "active": false,
                        "permissionIds": [tenant.group], "expiresOn": "2030-01-01T00:00:00.000Z"});
    golden.note("update", api.put(&path, change).await);
    golden.note("me", tenant.call(&api, "GET", "/auth/me", Value::Null).await);
    golden.note("profile", tenant.call(&api, "GET", "/auth/profile", Value::Null).await);
    golden.note(
        "duplicate",
        api.post("/user", json!({"name": "R", "email": "RITA@example.org", "password": "Sesame-11"})).await,
    );
    golden.note(
        "invalid",
        api.post("/user", json!({"name": " ", "email": "x", "password": "a", "permissionIds": "1"})).await,
    );
    golden.note(
        "unknown group",
        api.post(
            "/user",
            json!({"name": "R", "email": "r@example.org", "password": "Sesame-11", "permissionIds": [999_999]}),
        )
        .await,
    );
    golden.note("get unknown", api.get("/user/999999").await);
    golden.note("get not a number", api.get("/user/abc").await);
    golden.note("update unknown", api.put("/user/999999", json!({"name": "R"})).await);
    golden.note("short new password", api.put(&path, json!({"name": "Rita R.", "password": "abc"})).await);
    golden.note("e-mail in use", api.put(&path, json!({"name": "Rita R.", "email": ADMIN_EMAIL})).await);
    golden.note("bad limit", api.get("/user?limit=abc").await);
    golden.check();
}

#[tokio::test]
async fn lists_are_bounded_and_ordered_by_known_columns_only() {
    let api = Api::start().await;
    api.sql(
        "INSERT INTO app_user (name, email) SELECT 'User ' || n, n || '@example.org' FROM generate_series(1, 1500) n",
    )
    .await;
    for query in ["limit=1000000000", "limit=null", "limit=undefined&offset=NaN&orderOn=null&sort=undefined"] {
        let (status, body) = api.get(&format!("/user?{query}")).await;
        assert_eq!(status, 200, "{query}");
        assert!(body["data"].as_array().unwrap().len() <= 1000, "{query}");
        assert_eq!(body["count"], 1501, "{query}");
    }
    let first = |query: &'static str| {
        let api = &api;
        async move { api.get(&format!("/user?limit=1&{query}")).await.1["data"][0]["name"].clone() }
    };
    assert_eq!(first("orderOn=name&sort=DESC").await, "User 999");
    assert_eq!(first("orderOn=id&sort=desc").await, "User 1500");
    for unknown in
        ["orderOn=password_hash&sort=DESC", "orderOn=id;DROP TABLE app_user&sort=DESC", "orderOn=email&sort=asc"]
    {
        assert_eq!(first(unknown).await, "GlobalAdmin", "{unknown}");
    }
    assert_eq!(api.get("/user?orderOn=name").await.0, 400, "in which direction?");
    assert_eq!(api.get("/user?offset=100000000000").await.1["data"], json!([]));
}

#[tokio::test]
async fn an_organisations_administrator_makes_nobody_more_than_he_is() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let global = api.get("/auth/me").await.1["user"]["permissions"][0]["id"].clone();
    let new = |groups: Value, extra: Value| {
        let mut body = json!({"name": "New", "email": "new@example.org", "password": "Sesame-11", "active": true, "permissionIds": groups});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for (groups, extra) in [
        (json!([own.group]), json!({"globalAdmin": true})),
        (json!([global]), json!({})),
        (json!([own.group, other.group]), json!({})),
        (json!([other.group]), json!({})),
    ] {
        let (status, body) = own.call(&api, "POST", "/user", new(groups.clone(), extra)).await;
        assert_eq!(status, 403, "{groups}: {body}");
    }
    assert_eq!(own.call(&api, "POST", "/user", new(json!([own.group]), json!({}))).await.0, 201);

    // Not himself either.
    let me = format!("/user/{}", own.user);
    let myself = api.get(&me).await.1;
    let mut raised = as_is(&myself, &[&own.group]);
    raised["globalAdmin"] = json!(true);
    assert_eq!(own.put(&api, &me, raised).await.0, 403);
    assert_eq!(own.put(&api, &me, as_is(&myself, &[&own.group, &global])).await.0, 403);
    assert_eq!(own.put(&api, &me, as_is(&myself, &[&own.group, &other.group])).await.0, 403);
    assert_eq!(api.number("SELECT count(*) FROM permission_user m JOIN permission p ON p.id = m.permission_id WHERE p.organization_id IS NULL").await, 1);
}

#[tokio::test]
async fn an_account_is_not_taken_over_through_a_shared_group() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let shared = user(&api, "Shared", &[&own.group, &other.group]).await;
    // The global administrator shares a group with him, as in the recorded attack.
    let admin = api.get("/auth/me").await.1["user"].clone();
    api.put(
        &format!("/permission/{}", own.group),
        json!({"name": "staff", "userIds": [own.user, admin["id"], shared["id"]]}),
    )
    .await;
    let global = &admin["permissions"][0]["id"];
    for (victim, groups) in [(&admin, vec![&own.group, global]), (&shared, vec![&own.group, &other.group])] {
        let path = format!("/user/{}", victim["id"]);
        for (field, value) in [
            ("password", json!("Taken-over-1")),
            ("email", json!("mine@example.org")),
            ("active", json!(false)),
            ("name", json!("Mine")),
            ("expiresOn", json!("2020-01-01T00:00:00.000Z")),
        ] {
            let mut body = as_is(victim, &groups);
            body[field] = value;
            let (status, answer) = own.put(&api, &path, body).await;
            assert_eq!(status, 403, "{field} of {}: {answer}", victim["name"]);
        }
    }
    api.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    api.log_in("shared@example.org", "Sesame-11").await;
}

#[tokio::test]
async fn groups_elsewhere_are_neither_shown_nor_touched() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let shared = user(&api, "Shared", &[&own.group, &other.group]).await;
    let path = format!("/user/{}", shared["id"]);
    for query in ["", "?extendedInfo=true"] {
        let (status, seen) = own.call(&api, "GET", &format!("{path}{query}"), Value::Null).await;
        assert_eq!((status, seen["permissions"].as_array().unwrap().len()), (200, 1), "{seen}");
        assert!(!seen.to_string().contains("Ballerup"), "{seen}");
    }
    let second = api
        .made(
            "/permission",
            json!({"levels": [{"type": "Read"}], "name": "more", "organizationId": own.organization, "userIds": []}),
        )
        .await;
    // He sends what he saw, with a group of his own more and the first one less.
    let (status, changed) = own.put(&api, &path, as_is(&shared, &[&second["id"]])).await;
    assert_eq!(status, 200, "{changed}");
    let ids =
        |user: &Value| user["permissions"].as_array().unwrap().iter().map(|p| p["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&changed), std::slice::from_ref(&second["id"]));
    assert_eq!(ids(&api.get(&path).await.1), [other.group.clone(), second["id"].clone()]);
    // Whoever is in none of his organisations is none of his business.
    let stranger = format!("/user/{}", other.user);
    assert_eq!(own.call(&api, "GET", &stranger, Value::Null).await.0, 403);
    assert_eq!(own.put(&api, &stranger, json!({"name": "Ballerup", "permissionIds": [own.group]})).await.0, 403);
    assert_eq!(own.put(&api, &path, json!({"name": "Shared", "permissionIds": [own.group, 999_999]})).await.0, 400);
}

#[tokio::test]
async fn an_administrator_who_is_a_reader_elsewhere_changes_his_own_password_and_no_more() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", USER_ADMIN).await;
    let other = api.tenant("Ballerup", USER_ADMIN).await;
    let reader = api.made("/permission", json!({"levels": [{"type": "Read"}], "name": "readers", "organizationId": other.organization, "userIds": [own.user]})).await;
    let path = format!("/user/{}", own.user);
    let me = api.get(&path).await.1;
    let groups = [&own.group, &reader["id"]];
    let mut raised = as_is(&me, &[&own.group, &other.group]);
    assert_eq!(own.put(&api, &path, raised.clone()).await.0, 403);
    raised["permissionIds"] = json!(groups);
    raised["expiresOn"] = json!("2099-01-01");
    assert_eq!(own.put(&api, &path, raised).await.0, 403);
    let mut body = as_is(&me, &groups);
    body["password"] = json!("Sesame-12");
    let (status, answer) = own.put(&api, &path, body).await;
    assert_eq!(status, 200, "{answer}");
    api.log_in("aarhus@example.org", "Sesame-12").await;
    assert_eq!(api.get(&path).await.1["permissions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_global_administrator_is_edited_as_the_web_client_does_it_and_the_last_one_stays() {
    let api = Api::start().await;
    let me = api.get("/auth/me").await.1["user"].clone();
    let (path, global) = (format!("/user/{}", me["id"]), &me["permissions"][0]["id"]);
    let mut body = as_is(&me, &[global]);
    body["globalAdmin"] = json!(true);
    body["name"] = json!("Chief");
    let (status, answer) = api.put(&path, body.clone()).await;
    assert_eq!((status, &answer["name"]), (200, &json!("Chief")), "{answer}");
    assert_eq!(answer["permissions"][0]["id"], *global);
    for (field, value) in [("globalAdmin", json!(false)), ("active", json!(false)), ("expiresOn", json!("2020-01-01"))]
    {
        let mut last = body.clone();
        last[field] = value;
        assert_eq!(api.put(&path, last).await.0, 400, "{field}");
    }
    assert_eq!(api.put(&format!("/permission/{global}"), json!({"name": "GlobalAdmin", "userIds": []})).await.0, 400);
    let second = json!({"name": "Second", "email": "second@example.org", "password": "Sesame-11", "active": true, "globalAdmin": true, "permissionIds": []});
    assert_eq!(api.made("/user", second).await["permissions"][0]["name"], "GlobalAdmin");
    body["globalAdmin"] = json!(false);
    assert_eq!(api.put(&path, body).await.0, 200, "another one is left");
    assert_eq!(api.get("/user").await.0, 403, "and his rights ended with the group");
}

#[tokio::test]
async fn a_password_of_os2iot_lets_in_and_is_hashed_anew() {
    let api = Api::start().await;
    // bcryptjs 2.4.3, cost 10: "hunter2".
    api.sql("INSERT INTO app_user (name, email, password_hash) VALUES ('Old', 'old@example.org', '$2a$10$abcdefghijklmnopqrstuu7gIUFBKrYXdzQy8HrouzMJyZ4cijAb2')").await;
    let hash = |prefix: &'static str| {
        format!("SELECT count(*) FROM app_user WHERE email = 'old@example.org' AND password_hash LIKE '{prefix}%'")
    };
    let (status, _) = api
        .call("POST", "/auth/login", None, Some(json!({"username": "old@example.org", "password": "hunter3"})))
        .await;
    assert_eq!(status, 401);
    assert_eq!(api.number(&hash("$2a$10$")).await, 1);
    api.log_in("Old@example.org", "hunter2").await;
    assert_eq!(api.number(&hash("$argon2id$")).await, 1);
    api.log_in("old@example.org", "hunter2").await;
}
