//! What somebody is told of a tenant that is not his, and what his lists hold: status, body and rows as the reference has them where
//! it keeps tenants apart, and nothing where it does not.

use serde_json::{Value, json};

use crate::fixture::{Api, Tenant};
use crate::registry::{CONNECTIONS, Registry};

const EVERYTHING: &[&str] =
    &["OrganizationUserAdmin", "OrganizationGatewayAdmin", "OrganizationApplicationAdmin", "Read"];

fn forbidden() -> Value {
    json!({"statusCode": 403, "message": "Forbidden"})
}

fn unknown() -> Value {
    json!({"statusCode": 404, "message": "MESSAGE.ID-DOES-NOT-EXIST", "error": "Not Found"})
}

async fn as_(api: &Api, tenant: &Tenant, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    api.call(method, path, Some(&tenant.token), body).await
}

/// A user of the organisation in one group of this role over these applications.
async fn member(api: &Api, organization: &Value, role: &str, applications: &[&Value]) -> Tenant {
    let group = json!({"levels": [{"type": role}], "name": role, "organizationId": organization, "userIds": [],
                       "applicationIds": applications});
    let group = api.made("/permission", group).await["id"].clone();
    let email = format!("{role}.{organization}.{}@example.org", applications.len());
    let user = json!({"name": role, "email": email, "password": "Sesame-11", "active": true, "permissionIds": [group]});
    let user = api.made("/user", user).await["id"].clone();
    let token = api.log_in(&email, "Sesame-11").await;
    Tenant { organization: organization.clone(), application: Value::Null, group, user, token }
}

#[tokio::test]
async fn another_tenants_rows_are_refused_in_the_references_words() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", EVERYTHING).await;
    let other = api.tenant("Ballerup", EVERYTHING).await;
    let theirs = Registry::of(&api, &other.organization, &other.application).await;
    let (o, a) = (&other.organization, &other.application);
    let group = json!({"name": "mc", "applicationID": a, "mcAddr": "01020304", "mcNwkSKey": "00".repeat(16),
                       "mcAppSKey": "00".repeat(16), "fCnt": 0, "dr": 0, "frequency": 0, "groupType": "CLASS_C"});
    let multicast = api.made("/multicast", group).await["id"].clone();
    let inside = json!({"response": forbidden(), "status": 403, "options": {}, "message": "Forbidden",
                        "name": "ForbiddenException"});
    let unauthorized = json!({"statusCode": 401, "message": "Unauthorized"});
    let no_gateways = json!({"resultList": [], "totalCount": 0});
    for (method, path, status, expected) in [
        ("GET", format!("/application/{a}"), 403, forbidden()),
        ("GET", format!("/application?organizationId={o}"), 403, forbidden()),
        ("GET", format!("/application/{o}/application-dashboard-data"), 404, unknown()),
        ("GET", format!("/application/{o}/filter-information"), 404, unknown()),
        ("GET", format!("/organization/{o}"), 404, unknown()),
        ("GET", format!("/user/organizationUsers/{o}"), 404, unknown()),
        ("GET", format!("/user/awaitingUsers/{o}"), 403, forbidden()),
        ("GET", format!("/permission/{}", other.group), 403, forbidden()),
        ("GET", format!("/iot-device/{}", theirs.device["id"]), 403, forbidden()),
        ("GET", format!("/data-target/{}", theirs.target["id"]), 404, unknown()),
        ("GET", format!("/data-target?applicationId={a}"), 403, forbidden()),
        ("GET", format!("/multicast?applicationId={a}"), 401, unauthorized.clone()),
        ("GET", format!("/multicast/{multicast}"), 404, unknown()),
        ("GET", format!("/chirpstack/gateway?organizationId={o}"), 200, no_gateways.clone()),
        ("GET", format!("/chirpstack/gateway/getAllForMaps?organizationId={o}"), 200, no_gateways),
        ("GET", format!("/lorawan/gateway/status?organizationId={o}"), 200, json!({"data": [], "count": 0})),
        ("GET", format!("/kombitCreation/{}", other.user), 403, forbidden()),
        ("GET", "/kombitCreation/999999".to_owned(), 404, unknown()),
        ("DELETE", format!("/payload-decoder/{}", theirs.decoder["id"]), 404, inside),
        // What is not there is told from what may not be seen where the reference does so too, and nowhere else.
        ("GET", "/application/999999".to_owned(), 403, forbidden()),
        ("GET", "/data-target?applicationId=999999".to_owned(), 403, forbidden()),
        ("GET", "/multicast?applicationId=999999".to_owned(), 401, unauthorized),
        ("GET", "/iot-device/999999".to_owned(), 404, unknown()),
        ("GET", "/sigfox-group/999999".to_owned(), 200, json!("")),
    ] {
        let answer = as_(&api, &own, method, &path, None).await;
        assert_eq!(answer, (status, expected), "{method} {path}");
    }
    assert_eq!(api.get("/multicast?applicationId=999999").await, (200, json!({"data": [], "count": 0})));
}

#[tokio::test]
async fn whoever_may_not_write_somewhere_learns_nothing_of_what_is_there() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", EVERYTHING).await;
    let other = api.tenant("Ballerup", EVERYTHING).await;
    let mine = Registry::of(&api, &own.organization, &own.application).await;
    let (device, target) = (&mine.device["id"], &mine.target["id"]);
    for application in [other.application.clone(), json!(999_999)] {
        let new = json!({"name": "x", "type": "GENERIC_HTTP", "applicationId": application, "deviceModelId": 999_999});
        let mut moved = new.clone();
        moved["id"] = device.clone();
        let hub =
            json!({"name": "x", "type": "HTTP_PUSH", "applicationId": application, "url": "http://x", "timeout": 1});
        let group = json!({"name": "mc", "applicationID": application, "mcAddr": "01020304", "mcNwkSKey": "00".repeat(16),
                           "mcAppSKey": "00".repeat(16), "fCnt": 0, "dr": 0, "frequency": 0, "groupType": "CLASS_C"});
        for (method, path, body) in [
            ("POST", "/iot-device".to_owned(), new.clone()),
            ("PUT", format!("/iot-device/{device}"), moved.clone()),
            ("PUT", format!("/iot-device/changeApplication/{device}"), new.clone()),
            ("POST", "/iot-device/createMany".to_owned(), json!({"data": [new]})),
            ("POST", "/iot-device/updateMany".to_owned(), json!({"data": [moved]})),
            ("POST", "/data-target".to_owned(), hub.clone()),
            ("PUT", format!("/data-target/{target}"), hub),
            ("POST", "/multicast".to_owned(), group),
        ] {
            let answer = as_(&api, &own, method, &path, Some(body)).await;
            assert_eq!(answer, (403, forbidden()), "{method} {path} to {application}");
        }
    }
    // A global administrator is told what is wrong.
    let nowhere = json!({"name": "x", "type": "GENERIC_HTTP", "applicationId": 999_999});
    assert_eq!(api.post("/iot-device", nowhere).await, (400, json!({"message": "MESSAGE.APPLICATION-DOES-NOT-EXIST"})));
}

#[tokio::test]
async fn a_batch_that_names_one_foreign_application_is_refused_before_anything_of_it_is_done() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", EVERYTHING).await;
    let other = api.tenant("Ballerup", EVERYTHING).await;
    let device = |application: &Value| json!({"name": "Room", "type": "GENERIC_HTTP", "applicationId": application});
    let first = api.made("/iot-device", device(&own.application)).await["id"].clone();
    let theirs = api.made("/iot-device", device(&other.application)).await["id"].clone();
    let batch = json!({"data": [device(&own.application), device(&other.application)]});
    assert_eq!(as_(&api, &own, "POST", "/iot-device/createMany", Some(batch)).await, (403, forbidden()));
    let with = |id: &Value, application: &Value| {
        let mut body = device(application);
        (body["id"], body["name"]) = (id.clone(), json!("Renamed"));
        body
    };
    for second in [with(&theirs, &other.application), with(&theirs, &own.application), with(&first, &other.application)]
    {
        let batch = json!({"data": [with(&first, &own.application), second]});
        assert_eq!(as_(&api, &own, "POST", "/iot-device/updateMany", Some(batch)).await, (403, forbidden()));
    }
    assert_eq!(api.number("SELECT count(*) FROM iot_device").await, 2);
    assert_eq!(api.number("SELECT count(*) FROM iot_device WHERE name = 'Renamed'").await, 0);
}

/// Ids of a list, ascending, and its count.
async fn listed(api: &Api, who: &Tenant, path: &str) -> (Vec<i64>, i64) {
    let (status, body) = as_(api, who, "GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    let mut ids: Vec<i64> = body["data"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    (ids, body["count"].as_i64().unwrap())
}

#[tokio::test]
async fn lists_hold_what_a_role_shows_and_count_no_more() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", EVERYTHING).await;
    let (o, first) = (&tenant.organization, &tenant.application);
    let second = api.made("/application", json!({"name": "second", "organizationId": o})).await["id"].clone();
    let mut rows = Vec::new();
    for application in [first, &second] {
        rows.push(Registry::of(&api, o, application).await);
    }
    // Another tenant has the same.
    Registry::new(&api, "Ballerup").await;
    let ids = |of: fn(&Registry) -> &Value, num: usize| -> (Vec<i64>, i64) {
        (rows.iter().take(num).map(|r| of(r).as_i64().unwrap()).collect(), num as i64)
    };
    for (role, mapped, num_seen) in [
        ("OrganizationUserAdmin", vec![], 2),
        ("OrganizationApplicationAdmin", vec![first], 1),
        ("OrganizationApplicationAdmin", vec![], 0),
        ("Read", vec![first], 1),
        ("Read", vec![first, &second], 2),
        ("OrganizationGatewayAdmin", vec![first], 0),
    ] {
        let who = member(&api, o, role, &mapped).await;
        let seen = [
            listed(&api, &who, "/application").await,
            listed(&api, &who, "/data-target").await,
            listed(&api, &who, CONNECTIONS).await,
        ];
        let expected = [
            ids(|r| &r.application, num_seen),
            ids(|r| &r.target["id"], num_seen),
            ids(|r| &r.connection["id"], num_seen),
        ];
        assert_eq!(seen, expected, "{role} of {mapped:?}");
        let (_, found) = as_(&api, &who, "GET", "/search?q=o&limit=100&offset=0", None).await;
        let num_devices = found["data"].as_array().unwrap().iter().filter(|row| row["type"] == "IoTDevice").count();
        assert_eq!(num_devices, num_seen, "{role} of {mapped:?}: {found}");
    }
}

#[tokio::test]
async fn who_only_administers_gateways_sees_no_content_and_who_administers_no_users_no_groups() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", EVERYTHING).await;
    let (o, a) = (&tenant.organization, &tenant.application);
    let body = json!({"id": "m1", "type": "DeviceModel", "category": ["sensor"], "controlledProperty": ["airPollution"],
                      "manufacturerName": "Acme", "brandName": "Acme", "modelName": "A1", "name": "Acme A1"});
    api.made("/device-model", json!({"belongsToId": o, "body": body})).await;
    for (role, num_models, num_groups) in [
        ("OrganizationGatewayAdmin", 0, 0),
        ("Read", 1, 0),
        ("OrganizationApplicationAdmin", 1, 0),
        // The default ones, the tenant's, and one per role that has had its turn.
        ("OrganizationUserAdmin", 1, 3 + 1 + 4),
    ] {
        let who = member(&api, o, role, &[a]).await;
        assert_eq!(listed(&api, &who, "/device-model").await.1, num_models, "{role}");
        for list in ["/permission", "/permission?organisationId=undefined", "/permission/getAllPermissionsWithoutUsers"]
        {
            assert_eq!(listed(&api, &who, list).await.1, num_groups, "{role} {list}");
        }
        // The web client asks so before an application is made: his own there, and nobody else in them.
        let own = format!("/permission?limit=1000&organisationId={o}&userId={}", who.user);
        let (_, body) = as_(&api, &who, "GET", &own, None).await;
        assert_eq!((&body["count"], &body["data"][0]["id"]), (&json!(1), &who.group), "{role}: {body}");
        assert_eq!(body["data"][0]["users"].as_array().unwrap().len(), 1, "{role}: {body}");
    }
}

#[tokio::test]
async fn a_reader_here_who_administers_there_lists_where_he_could_put_something() {
    let api = Api::start().await;
    let here = api.tenant("Aarhus", &["Read"]).await;
    let there = api.tenant("Ballerup", &["OrganizationApplicationAdmin"]).await;
    let body = json!({"name": "Both", "email": "both@example.org", "password": "Sesame-11", "active": true,
                      "permissionIds": [here.group, there.group]});
    api.made("/user", body).await;
    let both = Tenant { token: api.log_in("both@example.org", "Sesame-11").await, ..here };
    let id = |value: &Value| vec![value.as_i64().unwrap()];
    assert_eq!(listed(&api, &both, "/application").await, (id(&there.application), 1));
    let of_here = format!("/application?organizationId={}", both.organization);
    assert_eq!(listed(&api, &both, &of_here).await, (id(&both.application), 1));
}

/// 11: an id that was no number let everybody pass. 13: a token in the address stands in every log.
#[tokio::test]
async fn what_is_no_id_fails_closed_and_a_token_in_an_address_is_none() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", EVERYTHING).await;
    let other = api.tenant("Ballerup", EVERYTHING).await;
    let mine = Registry::of(&api, &own.organization, &own.application).await;
    let theirs = other.application.to_string();
    for odd in [json!(theirs), json!([other.application]), json!({"id": other.application}), json!(true), Value::Null] {
        let path = format!("/iot-device/changeApplication/{}", mine.device["id"]);
        let (status, answer) = as_(&api, &own, "PUT", &path, Some(json!({"applicationId": odd}))).await;
        assert!([400, 403].contains(&status), "{odd}: {status} {answer}");
        for (path, name) in
            [("/application", "organizationId"), ("/permission", "organizationId"), ("/device-model", "belongsToId")]
        {
            let mut body = json!({"name": "x", "levels": [{"type": "Read"}], "userIds": [], "body": {}});
            body[name] = if odd == json!(theirs) { json!(other.organization.to_string()) } else { odd.clone() };
            let (status, answer) = as_(&api, &own, "POST", path, Some(body)).await;
            assert!([400, 403].contains(&status), "{path} {odd}: {status} {answer}");
        }
    }
    let moved = format!("SELECT count(*) FROM iot_device WHERE application_id = {theirs}");
    assert_eq!(api.number(&moved).await, 0);
    for path in ["/auth/me", "/application", "/user"] {
        let (status, _) = api.call("GET", &format!("{path}?secret_token={}", own.token), None, None).await;
        assert_eq!(status, 401, "{path}");
    }
}
