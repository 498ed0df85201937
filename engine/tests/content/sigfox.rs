//! Sigfox: groups, device types and devices, through a server that behaves like Sigfox's.

use serde_json::{Value, json};

use crate::engine::{Engine, Tenant, engine, id};
use crate::golden::Golden;
use crate::sigfox_server::{BUSY_USERNAME, DEVICE_TYPE, GROUP, PASSWORD, USERNAME};

fn login(organization: i64, username: &str, password: &str) -> Value {
    json!({"organizationId": organization, "username": username, "password": password})
}

async fn group(engine: &Engine, tenant: &Tenant) -> i64 {
    id(&engine.made(&tenant.token, "/sigfox-group", login(tenant.organization, USERNAME, PASSWORD)).await)
}

#[tokio::test]
async fn a_group_is_made_only_with_a_login_that_sigfox_accepts_and_its_password_is_never_shown() {
    let engine = engine().await;
    let tenant = engine.tenant("Sigfox A", &["OrganizationApplicationAdmin"]).await;
    let (token, organization) = (tenant.token.clone(), tenant.organization);
    let mut golden = Golden::default();
    let post = |path: &'static str, username: &str, password: &str| {
        let (engine, token, body) = (engine.clone(), token.clone(), login(organization, username, password));
        async move { engine.post(&token, path, body).await }
    };
    golden.add("test connection", post("/sigfox-group/test-connection", USERNAME, PASSWORD).await);
    golden.add("test connection, wrong", post("/sigfox-group/test-connection", USERNAME, "wrong").await);
    golden.add("bad login", post("/sigfox-group", USERNAME, "wrong").await);
    golden.add("too many", post("/sigfox-group", BUSY_USERNAME, PASSWORD).await);
    let group = id(&golden.add("create", post("/sigfox-group", USERNAME, PASSWORD).await));
    golden.add("create again", post("/sigfox-group", USERNAME, PASSWORD).await);
    golden.add(
        "unknown organisation",
        engine.post(&engine.admin, "/sigfox-group", login(999_999, USERNAME, PASSWORD)).await,
    );
    let path = format!("/sigfox-group/{group}");
    golden.add("get", engine.get(&token, &path).await);
    golden.add("list", engine.get(&token, &format!("/sigfox-group?organizationId={organization}")).await);
    golden.add("update", engine.put(&token, &path, json!({"username": USERNAME, "password": "********"})).await);
    golden.add("update, wrong", engine.put(&token, &path, json!({"username": USERNAME, "password": "wrong"})).await);
    let all = format!("{:?}", golden);
    assert!(!all.contains(PASSWORD));
    golden.check("sigfox_groups");
}

#[tokio::test]
async fn contracts_and_device_types_are_sigfoxs_own_and_changes_to_them_go_there() {
    let engine = engine().await;
    let tenant = engine.tenant("Sigfox B", &["OrganizationApplicationAdmin"]).await;
    let group = group(&engine, &tenant).await;
    let token = &tenant.token;
    let contracts = engine.got(token, &format!("/sigfox-contract?groupId={group}")).await;
    assert_eq!(contracts, json!([{"id": "contract-1", "name": "City contract"}]));
    let draft = |name: &str| json!({"name": name, "contractId": "contract-1", "description": "d", "alertEmail": "a@example.org"});
    let path = format!("/sigfox-device-type?groupId={group}");
    let made = engine.made(token, &path, draft("Lamps")).await;
    let kind = made["id"].as_str().unwrap().to_owned();
    let one = format!("/sigfox-device-type/{kind}?groupId={group}");
    let shown = engine.got(token, &one).await;
    assert_eq!(
        (&shown["name"], &shown["groupId"], &shown["automaticRenewal"]),
        (&json!("Lamps"), &json!(GROUP), &json!(true))
    );
    assert_eq!(engine.put(token, &one, draft("Lamps 2")).await, (204, Value::Null));
    let list = engine.got(token, &path).await;
    assert!(list["data"].as_array().unwrap().iter().any(|kind| kind["name"] == "Lamps 2"), "{list}");
    // What Sigfox says is wrong is handed on; what it does not know is not there.
    let (status, answer) = engine.post(token, &path, draft("refused")).await;
    assert_eq!((status, &answer["message"][0]["field"]), (400, &json!("name")), "{answer}");
    assert_eq!(engine.get(token, &format!("/sigfox-device-type/{}?groupId={group}", "f".repeat(24))).await.0, 404);
    assert_eq!(engine.get(token, &format!("/sigfox-device-type/..%2Fgroups?groupId={group}")).await.0, 404);
    let other = engine.tenant("Sigfox C", &["OrganizationApplicationAdmin"]).await;
    for path in [format!("/sigfox-contract?groupId={group}"), path, one, format!("/sigfox-api-device?groupId={group}")]
    {
        assert_eq!(engine.get(&other.token, &path).await.0, 403, "{path}");
    }
}

fn device(application: i64, settings: Value) -> Value {
    json!({"name": "Bin", "type": "SIGFOX", "applicationId": application, "longitude": 10.2, "latitude": 56.1, "sigfoxSettings": settings})
}

#[tokio::test]
async fn devices_are_taken_over_from_sigfox_or_registered_there() {
    let engine = engine().await;
    let tenant = engine.tenant("Sigfox D", &["OrganizationApplicationAdmin"]).await;
    let group = group(&engine, &tenant).await;
    let (token, application) = (tenant.token.clone(), tenant.application);
    let unknown_here = || async {
        let devices = engine.got(&token, &format!("/sigfox-api-device?groupId={group}")).await;
        let ids = devices["data"].as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert!(unknown_here().await.contains(&"1D1D1D".to_owned()));
    let connect = |id: &str| {
        device(application, json!({"deviceId": id, "groupId": group, "connectToExistingDeviceInBackend": true}))
    };
    let made = engine.made(&token, "/iot-device", connect("1D1D1D")).await;
    assert_eq!(
        (&made["deviceId"], &made["deviceTypeId"], &made["groupId"]),
        (&json!("1D1D1D"), &json!(DEVICE_TYPE), &json!(GROUP))
    );
    assert!(!unknown_here().await.contains(&"1D1D1D".to_owned()));
    let path = format!("/iot-device/{}", id(&made));
    let shown = engine.got(&token, &path).await;
    assert_eq!(
        shown["sigfoxSettings"],
        json!({
        "deviceId": "1D1D1D", "deviceTypeId": DEVICE_TYPE, "deviceTypeName": "Bins", "groupId": group, "groupName": "City",
        "connectToExistingDeviceInBackend": true, "pac": "04FB9B9DD7F45D4E", "endProductCertificate": "P_0006_321A_01",
        "prototype": false})
    );
    // Sigfox calls us back for this type from now on.
    let callbacks = engine.sigfox.bodies(&format!("/v2/device-types/{DEVICE_TYPE}/callbacks"));
    let url = "https://iot.example.org/api/v1/sigfox-callback/data/bidir?apiKey={deviceTypeId}";
    assert!(callbacks.iter().any(|callback| callback["url"] == url), "{callbacks:?}");

    let (status, answer) = engine.post(&token, "/iot-device", connect("1d1d1d")).await;
    assert_eq!(status, 400, "a device is one row: {answer}");
    let (status, answer) = engine.post(&token, "/iot-device", connect("BADBAD")).await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.DEVICE-DOES-NOT-EXIST-IN-SIGFOX-FOR-GROUP")));
    let new = json!({"deviceId": "5B5B5B", "groupId": group, "deviceTypeId": DEVICE_TYPE, "pac": "AA00", "endProductCertificate": "P_1"});
    let new = engine.made(&token, "/iot-device", device(application, new)).await;
    assert_eq!(new["deviceId"], "5B5B5B");
    assert!(
        engine.sigfox.bodies("/v2/devices").iter().any(|device| device["id"] == "5B5B5B" && device["pac"] == "AA00")
    );

    let mut change = connect("1D1D1D");
    change["id"] = made["id"].clone();
    change["name"] = json!("Bin 2");
    let (status, answer) = engine.put(&token, &path, change).await;
    assert_eq!(status, 200, "{answer}");
    assert!(engine.sigfox.bodies("/v2/devices/1D1D1D").iter().any(|device| device["name"] == "Bin 2"));

    // A downlink waits until the device asks: exactly eight bytes.
    let downlink = format!("{path}/downlink");
    assert_eq!(engine.got(&token, &downlink).await, json!({"totalCount": 0, "deviceQueueItems": []}));
    let (status, answer) = engine.post(&token, &downlink, json!({"data": "0102", "port": 2})).await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.DOWNLINK-LENGTH-WRONG-FOR-SIGFOX")));
    assert_eq!(engine.post(&token, &downlink, json!({"data": "0102030405060708"})).await.0, 201);
    assert_eq!(engine.got(&token, &downlink).await["deviceQueueItems"], json!([{"data": "0102030405060708"}]));
    assert_eq!(engine.got(&token, &format!("/iot-device/stats/{}", id(&made))).await, json!([]));

    // Neither moved away by itself, nor deleted with its application.
    let (status, answer) = engine.put(&token, &format!("/iot-device/changeApplication/{}", id(&made)), json!({})).await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.NOT-VALID-FORMAT")));
    let (status, answer) = engine.delete(&token, &format!("/application/{application}")).await;
    assert_eq!((status, &answer["message"]), (409, &json!("MESSAGE.DELETE-NOT-ALLOWED-HAS-SIGFOX-DEVICE")));
}

#[tokio::test]
async fn another_tenants_login_at_sigfox_is_of_no_use() {
    let engine = engine().await;
    let own = engine.tenant("Sigfox E", &["OrganizationApplicationAdmin"]).await;
    let other = engine.tenant("Sigfox F", &["OrganizationApplicationAdmin"]).await;
    let theirs = group(&engine, &other).await;
    let body = device(
        own.application,
        json!({"deviceId": "2E2E2E", "groupId": theirs, "connectToExistingDeviceInBackend": true}),
    );
    let (status, answer) = engine.post(&own.token, "/iot-device", body).await;
    assert_eq!((status, answer), (400, json!({"message": "MESSAGE.ID-DOES-NOT-EXIST"})));
    assert_eq!(engine.get(&own.token, &format!("/sigfox-group/{theirs}")).await.0, 403);
}
