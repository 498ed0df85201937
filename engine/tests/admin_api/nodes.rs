//! Several nodes over one database: a log-in that begins on one ends on another and nowhere twice, who is put out on one is out on
//! all, and guessing is counted over all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::{Api, Behind};
use crate::kombit_rig::Rig;
use crate::redis_server::RedisServer;

const USER_ADMIN: &[&str] = &["OrganizationUserAdmin", "Read"];
/// A change has to be heard of within a second; so long a test waits before it says that it was not.
const PATIENCE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_log_in_begun_on_one_node_ends_on_another_and_is_good_once_over_all() {
    let rig = Rig::start().await;
    let other = rig.api.another_node().await;
    let left = rig.leave(None).await;
    let xml = rig.good(&left, |_| ());
    let back = rig.come_back_at(&other, &left, &xml).await;
    assert!(back.location.contains("?jwt="), "{back:?}");
    for node in [&other, &rig.api.base] {
        assert_eq!(rig.come_back_at(node, &left, &xml).await.status, 401, "a second time");
    }
    assert_eq!(rig.api.number("SELECT count(*) FROM answered_log_in").await, 1);
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 1);
}

#[tokio::test]
async fn two_nodes_that_take_the_same_answer_at_once_let_in_one() {
    let rig = Rig::start().await;
    let other = rig.api.another_node().await;
    for _ in 0..5 {
        let left = rig.leave(None).await;
        let xml = rig.good(&left, |_| ());
        let (here, there) =
            tokio::join!(rig.come_back_at(&rig.api.base, &left, &xml), rig.come_back_at(&other, &left, &xml));
        let mut statuses = [here.status, there.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [302, 401]);
    }
}

/// Until `status` is what another node answers.
async fn until(api: &Api, request: impl Fn() -> reqwest::RequestBuilder, expected: u16) {
    let begun = Instant::now();
    loop {
        let status = request().send().await.unwrap().status().as_u16();
        if status == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "still {status} after {:?} on {}", begun.elapsed(), api.base);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Without being told, a node would go on for five seconds.
#[tokio::test]
async fn who_is_put_out_on_one_node_is_out_on_the_other() {
    let api = Api::start().await;
    let node = api.another_node().await;
    let tenant = api.tenant("Aarhus", USER_ADMIN).await;
    let with_token = |token: String, path: &'static str| {
        let (api, node) = (&api, &node);
        move || api.client.get(format!("{node}{path}")).bearer_auth(&token)
    };
    let path = format!("/user/{}", tenant.user);
    // His group is gone: he is somebody without rights.
    let as_him = with_token(tenant.token.clone(), "/user");
    until(&api, &as_him, 200).await;
    let body = json!({"name": "Aarhus", "email": "aarhus@example.org", "permissionIds": []});
    assert_eq!(api.put(&path, body).await.0, 200);
    until(&api, &as_him, 403).await;
    // His password is another: his token is none.
    let me = with_token(tenant.token.clone(), "/auth/me");
    until(&api, &me, 200).await;
    let body = json!({"name": "Aarhus", "email": "aarhus@example.org", "password": "Sesame-12"});
    assert_eq!(api.put(&path, body).await.0, 200);
    until(&api, &me, 401).await;
    // He is not active any more.
    let me = with_token(api.log_in("aarhus@example.org", "Sesame-12").await, "/auth/me");
    until(&api, &me, 200).await;
    let body = json!({"name": "Aarhus", "email": "aarhus@example.org", "active": false});
    assert_eq!(api.put(&path, body).await.0, 200);
    until(&api, &me, 401).await;
    // A key goes, and one goes with its group.
    for with_group in [false, true] {
        let group =
            json!({"levels": [{"type": "Read"}], "name": "g", "organizationId": tenant.organization, "userIds": []});
        let group = api.made("/permission", group).await["id"].clone();
        let made = api.made("/api-key", json!({"name": "script", "permissionIds": [group]})).await;
        let key = made["key"].as_str().unwrap();
        let by_key = || api.client.get(format!("{node}/organization/minimal")).header("x-api-key", key);
        until(&api, by_key, 200).await;
        let gone = if with_group { format!("/permission/{group}") } else { format!("/api-key/{}", made["id"]) };
        assert_eq!(api.delete(&gone).await, (200, json!({"affected": 1})));
        until(&api, by_key, 401).await;
    }
}

#[tokio::test]
async fn guessing_is_counted_over_all_nodes() {
    let redis = RedisServer::start();
    let api = Api::start_with(Behind { limits: Some(redis.node()), ..Behind::default() }).await;
    let node = api.another_node().await;
    let mut statuses: Vec<u16> = Vec::new();
    for i in 0..14 {
        let base = if i % 2 == 0 { &api.base } else { &node };
        let body = json!({"username": "rita@example.org", "password": "wrong"});
        let answer = api.client.post(format!("{base}/auth/login")).json(&body).send().await.unwrap();
        statuses.push(answer.status().as_u16());
        if answer.status() == 429 {
            assert!(answer.headers().contains_key("retry-after"));
        }
    }
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 10, "{statuses:?}");
    assert_eq!(statuses[12..], [429, 429]);
}

/// Whatever two nodes do at once, somebody is left who administers everything, and nobody is told that it is the server's fault.
#[tokio::test]
async fn the_last_two_global_administrators_cannot_take_each_other_away() {
    let api = Arc::new(Api::start().await);
    let node = api.another_node().await;
    let admin = api.get("/auth/me").await.1["user"]["id"].clone();
    let mut made = Vec::new();
    for email in ["one@example.org", "two@example.org"] {
        let body = json!({"name": email, "email": email, "password": "Sesame-11", "active": true, "globalAdmin": true, "permissionIds": []});
        let id = api.made("/user", body).await["id"].clone();
        made.push((id, api.log_in(email, "Sesame-11").await));
    }
    let group = api.number("SELECT id FROM permission WHERE organization_id IS NULL").await;
    let away = json!({"name": "GlobalAdmin", "globalAdmin": false});
    assert_eq!(api.put(&format!("/user/{admin}"), away).await.0, 200);
    let [(one, token_of_one), (two, token_of_two)] = made.as_slice() else { panic!("two were made") };
    for round in 0..12 {
        let put = |base: &str, path: String, token: &str, body: Value| {
            api.client.put(format!("{base}{path}")).bearer_auth(token).json(&body).send()
        };
        let taken = json!({"name": "two@example.org", "globalAdmin": false});
        let by_one = put(&api.base, format!("/user/{two}"), token_of_one, taken);
        let by_two = match round % 3 {
            0 => put(
                &node,
                format!("/user/{one}"),
                token_of_two,
                json!({"name": "one@example.org", "globalAdmin": false}),
            ),
            1 => put(&node, format!("/user/{one}"), token_of_two, json!({"name": "one@example.org", "active": false})),
            _ => put(
                &node,
                format!("/permission/{group}"),
                token_of_two,
                json!({"name": "GlobalAdmin", "userIds": [two]}),
            ),
        };
        let (by_one, by_two) = tokio::join!(by_one, by_two);
        for answer in [by_one.unwrap(), by_two.unwrap()] {
            assert!(answer.status().as_u16() < 500, "round {round}: {}", answer.status());
        }
        let left = format!(
            "SELECT count(*) FROM permission_user m JOIN app_user u ON u.id = m.user_id WHERE m.permission_id = {group} AND u.active"
        );
        assert!(api.number(&left).await >= 1, "round {round}: nobody is left");
        api.sql(&format!(
            "UPDATE app_user SET active = true, token_version = 0 WHERE id IN ({one}, {two}); \
             INSERT INTO permission_user (permission_id, user_id) VALUES ({group}, {one}), ({group}, {two}) ON CONFLICT DO NOTHING; \
             INSERT INTO change_event (entity, entity_id) VALUES ('user', {one})"
        ))
        .await;
        for (base, token) in [(&api.base, token_of_one), (&node, token_of_two)] {
            until(&api, || api.client.get(format!("{base}/system-log")).bearer_auth(token), 200).await;
        }
    }
}

/// A key is made while its group goes: it has the group and goes with it, or is not made.
#[tokio::test]
async fn no_key_is_left_without_a_group_and_no_address_is_had_twice() {
    let api = Api::start().await;
    let node = api.another_node().await;
    let organization = api.made("/organization", json!({"name": "Aarhus"})).await["id"].clone();
    for round in 0..10 {
        let group = json!({"levels": [{"type": "Read"}], "name": "g", "organizationId": organization, "userIds": []});
        let group = api.made("/permission", group).await["id"].clone();
        let post = |base: &str, path: &str, body: Value| {
            api.client.post(format!("{base}{path}")).bearer_auth(&api.admin).json(&body).send()
        };
        let key = post(&node, "/api-key", json!({"name": "script", "permissionIds": [group]}));
        let gone = api.client.delete(format!("{}/permission/{group}", api.base)).bearer_auth(&api.admin).send();
        let (key, gone) = tokio::join!(key, gone);
        assert!([201, 400].contains(&key.unwrap().status().as_u16()), "round {round}");
        assert_eq!(gone.unwrap().status(), 200, "round {round}");
        let user = |email: String| json!({"name": "R", "email": email, "password": "Sesame-11", "active": true});
        let (first, second) = tokio::join!(
            post(&api.base, "/user", user(format!("rita{round}@example.org"))),
            post(&node, "/user", user(format!("RITA{round}@Example.org"))),
        );
        let mut statuses = [first.unwrap().status().as_u16(), second.unwrap().status().as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 400], "round {round}");
    }
    let groupless = "SELECT count(*) FROM api_key k WHERE NOT EXISTS (SELECT 1 FROM api_key_permission m WHERE m.api_key_id = k.id)";
    assert_eq!(api.number(groupless).await, 0);
}
