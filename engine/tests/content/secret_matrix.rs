//! Every secret that a row holds against everything that can be done with it: who sees what on the row's own page and in lists, which
//! reveals are noted, what each kind of PUT leaves, and that the change log has none of it.

use serde_json::{Value, json};

use crate::engine::{Engine, Tenant, engine, id};

const MASK: &str = "********";

/// What `""` does in a change.
#[derive(Clone, Copy, PartialEq)]
enum Empty {
    Clears,
    Keeps,
    /// It has to be there: the form says so.
    Refused,
}

/// One secret of one kind of row.
struct Case {
    what: &'static str,
    /// As the change log calls the row.
    entity: &'static str,
    /// Where the row is made; its own page is beneath.
    route: &'static str,
    /// A list that has it.
    list: String,
    /// What makes the row, the secret included.
    body: Value,
    /// Where the secret stands in `body`.
    sent: &'static str,
    /// Where it stands on the row's own page.
    shown: Vec<&'static str>,
    /// Another that would do as well.
    other: String,
    empty: Empty,
    /// Not even a writer's GET shows it, as in the reference: only the answer to a PUT does.
    is_in_puts_only: bool,
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer} of {value}"))
}

fn with(body: &Value, pointer: &str, value: Value) -> Value {
    let mut body = body.clone();
    *body.pointer_mut(pointer).unwrap() = value;
    body
}

fn without(body: &Value, pointer: &str) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    body
}

fn target(application: i64, kind: &str, more: Value) -> Value {
    let mut body = json!({"name": "Hub", "type": kind, "applicationId": application, "url": "https://hub.example.org", "timeout": 5000});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn device(application: i64, kind: &str, settings: &str, more: Value) -> Value {
    json!({"name": "Thing", "type": kind, "applicationId": application, settings: more})
}

fn cases(tenant: &Tenant) -> Vec<Case> {
    let application = tenant.application;
    let of_target = |what, kind: &str, more, sent, empty| Case {
        what,
        entity: "target",
        route: "/data-target",
        list: format!("/data-target?limit=100&applicationId={application}"),
        body: target(application, kind, more),
        sent,
        shown: vec![sent],
        other: "another-s3cret".to_owned(),
        empty,
        is_in_puts_only: sent == "/clientSecret",
    };
    let of_device = |what, kind: &str, settings: &str, more, sent, shown, other: &str| Case {
        what,
        entity: "device",
        route: "/iot-device",
        list: format!("/application/{application}/iot-devices?limit=100"),
        body: device(application, kind, settings, more),
        sent,
        shown,
        other: other.to_owned(),
        empty: Empty::Refused,
        is_in_puts_only: false,
    };
    let (key, other_key) = ("00112233445566778899AABBCCDDEEFF", "FFEEDDCCBBAA99887766554433221100");
    let pem = |of: &str| format!("-----BEGIN PRIVATE KEY-----\n{of}\n-----END PRIVATE KEY-----\n");
    let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let external = |more: Value| {
        let mut settings = json!({"mqttURL": "mqtts://broker.example.org", "mqttPort": 8883, "mqtttopicname": "a/#"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    let lorawan = |eui: &str, more: Value| {
        let mut settings = json!({"devEUI": eui});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    let abp = |eui| {
        lorawan(
            eui,
            json!({"activationType": "ABP", "devAddr": "01020304", "fCntUp": 0, "nFCntDown": 0,
                "networkSessionKey": key, "applicationSessionKey": key}),
        )
    };
    let fiware = json!({"authorizationHeader": "Bearer first-s3cret", "clientId": "c", "clientSecret": "first-s3cret",
        "tokenEndpoint": "https://login.example.org"});
    let multicast = json!({"name": "Group", "applicationID": application, "mcAddr": "01020304", "mcNwkSKey": key, "mcAppSKey": key,
        "fCnt": 0, "dr": 0, "frequency": 868_100_000, "groupType": "CLASS_C", "iotDevices": []});
    let of_multicast = |what, sent, shown| Case {
        what,
        entity: "multicast",
        route: "/multicast",
        list: format!("/multicast?limit=100&applicationId={application}"),
        body: multicast.clone(),
        sent,
        shown: vec![shown],
        other: other_key.to_owned(),
        empty: Empty::Refused,
        is_in_puts_only: false,
    };
    vec![
        of_target(
            "an HTTP target's header",
            "HTTP_PUSH",
            json!({"authorizationHeader": "Bearer first-s3cret"}),
            "/authorizationHeader",
            Empty::Clears,
        ),
        of_target("a FIWARE target's header", "FIWARE", fiware.clone(), "/authorizationHeader", Empty::Clears),
        of_target("a FIWARE target's client secret", "FIWARE", fiware, "/clientSecret", Empty::Keeps),
        of_target(
            "an MQTT target's password",
            "MQTT",
            json!({"mqttPort": 8883, "mqttTopic": "a", "mqttQos": 1, "mqttUsername": "u", "mqttPassword": "first-s3cret"}),
            "/mqttPassword",
            Empty::Refused,
        ),
        of_device(
            "the password of a device of our broker",
            "MQTT_INTERNAL_BROKER",
            "mqttInternalBrokerSettings",
            json!({"authenticationType": "PASSWORD", "mqttusername": "u-matrix", "mqttpassword": "first-s3cret"}),
            "/mqttInternalBrokerSettings/mqttpassword",
            vec!["/mqttInternalBrokerSettings/mqttpassword", "/mqttpassword"],
            "another-s3cret",
        ),
        of_device(
            "the password of a device at another broker",
            "MQTT_EXTERNAL_BROKER",
            "mqttExternalBrokerSettings",
            external(json!({"authenticationType": "PASSWORD", "mqttusername": "u", "mqttpassword": "first-s3cret"})),
            "/mqttExternalBrokerSettings/mqttpassword",
            vec!["/mqttExternalBrokerSettings/mqttpassword", "/mqttpassword"],
            "another-s3cret",
        ),
        of_device(
            "the key of a device at another broker",
            "MQTT_EXTERNAL_BROKER",
            "mqttExternalBrokerSettings",
            external(json!({"authenticationType": "CERTIFICATE", "caCertificate": certificate,
                "deviceCertificate": certificate, "deviceCertificateKey": pem("first-s3cret")})),
            "/mqttExternalBrokerSettings/deviceCertificateKey",
            vec!["/mqttExternalBrokerSettings/deviceCertificateKey"],
            &pem("another-s3cret"),
        ),
        of_device(
            "an OTAA device's key",
            "LORAWAN",
            "lorawanSettings",
            lorawan("A81758FFFE00AA01", json!({"activationType": "OTAA", "OTAAapplicationKey": key})),
            "/lorawanSettings/OTAAapplicationKey",
            vec!["/lorawanSettings/OTAAapplicationKey", "/OTAAapplicationKey"],
            other_key,
        ),
        of_device(
            "an ABP device's network key",
            "LORAWAN",
            "lorawanSettings",
            abp("A81758FFFE00AA02"),
            "/lorawanSettings/networkSessionKey",
            vec!["/lorawanSettings/networkSessionKey"],
            other_key,
        ),
        of_device(
            "an ABP device's application key",
            "LORAWAN",
            "lorawanSettings",
            abp("A81758FFFE00AA03"),
            "/lorawanSettings/applicationSessionKey",
            vec!["/lorawanSettings/applicationSessionKey"],
            other_key,
        ),
        of_multicast("a multicast group's network key", "/mcNwkSKey", "/lorawanMulticastDefinition/networkSessionKey"),
        of_multicast(
            "a multicast group's application key",
            "/mcAppSKey",
            "/lorawanMulticastDefinition/applicationSessionKey",
        ),
    ]
}

/// Lines about a row in the change log, as one text, and how many of them are reveals.
async fn lines(engine: &Engine, entity: &str, row: i64) -> (String, usize) {
    let path = format!("/change-log?limit=500&offset=0&entity={entity}&entityId={row}");
    let log = engine.got(&engine.admin, &path).await;
    let num_reveals = log["data"].as_array().unwrap().iter().filter(|line| line["actionType"] == "REVEAL").count();
    assert!(!log["data"].as_array().unwrap().is_empty(), "nothing is logged of {entity} {row}");
    (log.to_string(), num_reveals)
}

#[tokio::test]
async fn every_secret_is_shown_kept_cleared_and_left_out_of_the_log_as_it_should_be() {
    let engine = engine().await;
    let tenant = engine.tenant("Matrix A", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(tenant.organization, tenant.application, "Matrix A reader", &["Read"]).await;
    let writer = tenant.token.as_str();
    for case in cases(&tenant) {
        let what = case.what;
        let secret = case.body.pointer(case.sent).unwrap().as_str().unwrap();
        let row = id(&engine.made(writer, case.route, case.body.clone()).await);
        let path = format!("{}/{row}", case.route);
        let is_now = async |expected: Value, why: &str| {
            let shown = engine.got(writer, &path).await;
            for pointer in &case.shown {
                let on_page = if case.is_in_puts_only { json!(MASK) } else { expected.clone() };
                assert_eq!(at(&shown, pointer), &on_page, "{what}, to a writer at {pointer}, {why}");
                if case.is_in_puts_only {
                    let (_, answer) = engine.put(writer, &path, with(&case.body, case.sent, json!(MASK))).await;
                    assert_eq!(at(&answer, pointer), &expected, "{what}, in the answer to a change, {why}");
                }
            }
        };

        let before = lines(&engine, case.entity, row).await.1;
        let shown = engine.got(&reader, &path).await;
        for pointer in &case.shown {
            assert_eq!(at(&shown, pointer), MASK, "{what}, to a reader at {pointer}");
        }
        assert!(!shown.to_string().contains(&json!(secret).to_string()), "{what}: somewhere on a reader's page");
        for token in [writer, reader.as_str(), engine.admin.as_str()] {
            let list = engine.got(token, &case.list).await;
            let rows = list["data"].as_array().unwrap();
            assert!(rows.iter().any(|listed| listed["id"] == row), "{what} is in {}: {list}", case.list);
            let rows = list.to_string();
            assert!(!rows.contains(&json!(secret).to_string()), "{what} in a list: {rows}");
        }
        assert_eq!(lines(&engine, case.entity, row).await.1, before, "{what}: nothing was revealed yet");
        is_now(json!(secret), "as it was made").await;
        assert_eq!(lines(&engine, case.entity, row).await.1, before + 1, "{what}: a reveal is noted");

        // A change of a device names it again.
        let put = async |mut body: Value| {
            body["id"] = json!(row);
            engine.put(writer, &path, body).await.0
        };
        assert_eq!(put(with(&case.body, case.sent, json!(MASK))).await, 200, "{what}");
        is_now(json!(secret), "after the mask").await;
        assert_eq!(put(without(&case.body, case.sent)).await, 200, "{what}");
        is_now(json!(secret), "after nothing").await;
        assert_eq!(put(with(&case.body, case.sent, json!(null))).await, 200, "{what}");
        is_now(json!(secret), "after null").await;
        assert_eq!(put(with(&case.body, case.sent, json!(format!("{secret}\u{0}")))).await, 400, "{what} with NUL");
        is_now(json!(secret), "after NUL was refused").await;
        let (status, left) = match case.empty {
            Empty::Clears => (200, json!(null)),
            Empty::Keeps => (200, json!(secret)),
            Empty::Refused => (400, json!(secret)),
        };
        assert_eq!(put(with(&case.body, case.sent, json!(""))).await, status, "{what}, empty");
        is_now(left, "after an empty one").await;
        assert_eq!(put(with(&case.body, case.sent, json!(case.other))).await, 200, "{what}");
        is_now(json!(case.other), "after another").await;

        assert_eq!(engine.delete(writer, &path).await.0, 200, "{what}");
        let log = lines(&engine, case.entity, row).await.0;
        for secret in [secret, &case.other] {
            let text = json!(secret).to_string();
            assert!(!log.contains(text.trim_matches('"')), "{what} is in the change log: {log}");
        }
    }
}

/// An HTTP device's key is ours to make: no body changes it.
#[tokio::test]
async fn a_devices_key_is_shown_like_a_secret_and_changed_by_nobody() {
    let engine = engine().await;
    let tenant = engine.tenant("Matrix B", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(tenant.organization, tenant.application, "Matrix B reader", &["Read"]).await;
    let writer = tenant.token.as_str();
    let body = json!({"name": "Room", "type": "GENERIC_HTTP", "applicationId": tenant.application});
    let made = engine.made(writer, "/iot-device", body.clone()).await;
    let (path, key) = (format!("/iot-device/{}", id(&made)), made["apiKey"].clone());
    assert_eq!(engine.got(&reader, &path).await["apiKey"], MASK);
    let before = lines(&engine, "device", id(&made)).await.1;
    assert_eq!(engine.got(writer, &path).await["apiKey"], key);
    assert_eq!(lines(&engine, "device", id(&made)).await.1, before + 1);
    for sent in [json!(MASK), json!(null), json!(""), json!("9644525c-a22d-4fb9-b247-75fab5d42bf7"), json!("\u{0}")] {
        let mut body = body.clone();
        body["id"] = made["id"].clone();
        body["apiKey"] = sent.clone();
        let (status, answer) = engine.put(writer, &path, body).await;
        assert!(status == 200 || (status == 400 && sent == "\u{0}"), "{sent}: {status} {answer}");
        assert_eq!(engine.got(writer, &path).await["apiKey"], key, "after {sent}");
    }
    let log = lines(&engine, "device", id(&made)).await.0;
    assert!(!log.contains(key.as_str().unwrap()), "{log}");
}

/// What is never shown again: passwords of users and of Sigfox, API keys.
#[tokio::test]
async fn passwords_and_keys_are_in_no_answer_and_not_in_the_log() {
    use crate::sigfox_server::{PASSWORD, USERNAME};
    let engine = engine().await;
    let tenant = engine.tenant("Matrix C", &["OrganizationApplicationAdmin"]).await;
    let admin = engine.admin.as_str();
    let login = json!({"organizationId": tenant.organization, "username": USERNAME, "password": PASSWORD});
    let group = id(&engine.made(&tenant.token, "/sigfox-group", login.clone()).await);
    let path = format!("/sigfox-group/{group}");
    for (sent, status) in [(json!(MASK), 200), (json!(null), 200), (json!(""), 400), (json!("a\u{0}"), 400)] {
        let answer = engine.put(&tenant.token, &path, with(&login, "/password", sent.clone())).await;
        assert_eq!(answer.0, status, "{sent}: {}", answer.1);
    }
    assert_eq!(engine.put(&tenant.token, &path, without(&login, "/password")).await.0, 200);
    let user = json!({"name": "Rita", "email": "matrix@example.org", "password": "Matrix-s3cret-1", "active": true, "permissionIds": []});
    let user_id = id(&engine.made(admin, "/user", user.clone()).await);
    let user_path = format!("/user/{user_id}");
    let changed = engine.put(admin, &user_path, with(&user, "/password", json!("Matrix-s3cret-2"))).await;
    assert_eq!(changed.0, 200, "{}", changed.1);
    engine.log_in("matrix@example.org", "Matrix-s3cret-2").await;
    assert_eq!(engine.put(admin, &user_path, without(&user, "/password")).await.0, 200);
    engine.log_in("matrix@example.org", "Matrix-s3cret-2").await;
    let permission =
        json!({"levels": [{"type": "Read"}], "name": "m", "organizationId": tenant.organization, "userIds": []});
    let permission = id(&engine.made(admin, "/permission", permission).await);
    let made = engine.made(admin, "/api-key", json!({"name": "script", "permissionIds": [permission]})).await;
    let key = made["key"].as_str().unwrap();
    let key_path = format!("/api-key/{}", id(&made));
    for path in [
        path,
        format!("/sigfox-group?organizationId={}", tenant.organization),
        user_path,
        "/user?limit=500".to_owned(),
        format!("/user/organizationUsers/{}", tenant.organization),
        key_path,
        "/api-key?limit=500".to_owned(),
        "/change-log?limit=500&offset=0".to_owned(),
    ] {
        let answer = engine.got(admin, &path).await.to_string();
        for secret in [PASSWORD, "Matrix-s3cret", "argon2", key] {
            assert!(!answer.contains(secret), "{secret} at {path}: {answer}");
        }
    }
}

/// A Sigfox device's PAC comes from Sigfox, or from whoever registers the device there.
#[tokio::test]
async fn a_sigfox_devices_pac_is_shown_like_a_secret_and_kept() {
    use crate::sigfox_server::{DEVICE_TYPE, PASSWORD, USERNAME};
    let engine = engine().await;
    let tenant = engine.tenant("Matrix D", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(tenant.organization, tenant.application, "Matrix D reader", &["Read"]).await;
    let writer = tenant.token.as_str();
    let login = json!({"organizationId": tenant.organization, "username": USERNAME, "password": PASSWORD});
    let group = id(&engine.made(writer, "/sigfox-group", login).await);
    let settings = json!({"deviceId": "6C6C6C", "groupId": group, "deviceTypeId": DEVICE_TYPE, "pac": "AA0055EE",
        "endProductCertificate": "P_1"});
    let mut body = device(tenant.application, "SIGFOX", "sigfoxSettings", settings);
    body["longitude"] = json!(10);
    body["latitude"] = json!(56);
    let row = id(&engine.made(writer, "/iot-device", body.clone()).await);
    body["id"] = json!(row);
    let (path, pac) = (format!("/iot-device/{row}"), "/sigfoxSettings/pac");
    let before = lines(&engine, "device", row).await.1;
    assert_eq!(at(&engine.got(&reader, &path).await, pac), MASK);
    let list = engine.got(writer, &format!("/application/{}/iot-devices?limit=100", tenant.application)).await;
    assert!(!list.to_string().contains("AA0055EE"), "{list}");
    assert_eq!(lines(&engine, "device", row).await.1, before);
    assert_eq!(at(&engine.got(writer, &path).await, pac), "AA0055EE");
    assert_eq!(lines(&engine, "device", row).await.1, before + 1, "a reveal is noted");
    for (changed, status) in [
        (with(&body, pac, json!(MASK)), 200),
        (with(&body, pac, json!(null)), 200),
        (without(&body, pac), 200),
        (with(&body, pac, json!("")), 400),
        (with(&body, pac, json!("AA\u{0}")), 400),
    ] {
        let (got, answer) = engine.put(writer, &path, changed.clone()).await;
        assert_eq!(got, status, "{changed}: {answer}");
        assert_eq!(at(&engine.got(writer, &path).await, pac), "AA0055EE", "after {changed}");
    }
    let log = lines(&engine, "device", row).await.0;
    assert!(!log.contains("AA0055EE"), "{log}");
}
