//! Secrets: whoever may change a row sees them, on that row's own page, and it is noted; readers see a mask.

use serde_json::{Value, json};

use crate::engine::{CONNECTIONS, engine, http_device, http_target, id};

const MASK: &str = "********";

#[tokio::test]
async fn readers_see_a_mask_writers_the_value_and_a_put_with_the_mask_keeps_it() {
    let engine = engine().await;
    let tenant = engine.tenant("Secrets A", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(tenant.organization, tenant.application, "Secrets A reader", &["Read"]).await;
    let (writer, application) = (tenant.token.clone(), tenant.application);
    let external = json!({"name": "Ext", "type": "MQTT_EXTERNAL_BROKER", "applicationId": application, "mqttExternalBrokerSettings": {
        "mqttURL": "mqtts://broker.example.org", "mqttPort": 8883, "mqtttopicname": "a/#", "authenticationType": "PASSWORD",
        "mqttusername": "u", "mqttpassword": "ext-s3cret"}});
    let lora = json!({"name": "Meter", "type": "LORAWAN", "applicationId": application, "lorawanSettings": {
        "devEUI": "A81758FFFE0000F1", "activationType": "OTAA", "OTAAapplicationKey": "00112233445566778899AABBCCDDEEFF"}});
    let external = id(&engine.made(&writer, "/iot-device", external).await);
    let lora = id(&engine.made(&writer, "/iot-device", lora).await);
    let http = engine.made(&writer, "/iot-device", http_device("Room", application)).await;
    let target = engine.made(&writer, "/data-target", http_target("Hub", application, "https://hub.example.org")).await;

    let at = |row: &Value, pointer: &str| row.pointer(pointer).cloned().unwrap_or_else(|| panic!("{pointer}: {row}"));
    for (path, pointer, value) in [
        (format!("/iot-device/{external}"), "/mqttExternalBrokerSettings/mqttpassword", json!("ext-s3cret")),
        (format!("/iot-device/{external}"), "/mqttpassword", json!("ext-s3cret")),
        (format!("/iot-device/{lora}"), "/OTAAapplicationKey", json!("00112233445566778899AABBCCDDEEFF")),
        (format!("/iot-device/{}", id(&http)), "/apiKey", http["apiKey"].clone()),
        (format!("/data-target/{}", id(&target)), "/authorizationHeader", json!("Bearer s3cret")),
    ] {
        assert_eq!(at(&engine.got(&reader, &path).await, pointer), MASK, "{path}");
        assert_eq!(at(&engine.got(&writer, &path).await, pointer), value, "{path}");
    }
    // Lists show nobody any.
    for path in [
        format!("/application/{application}/iot-devices?limit=10"),
        format!("/application/{}/iot-devices-org", tenant.organization),
        format!("/application?organizationId={}", tenant.organization),
        format!("/data-target?applicationId={application}"),
        format!("{CONNECTIONS}?limit=10"),
        "/search?q=Room&limit=10&offset=0".to_owned(),
    ] {
        let list = engine.got(&writer, &path).await.to_string();
        for secret in ["s3cret", "00112233445566778899AABBCCDDEEFF", http["apiKey"].as_str().unwrap()] {
            assert!(!list.contains(secret), "{path} shows {secret}");
        }
    }
    let csv = |token: String| {
        let (engine, path) = (engine.clone(), format!("/iot-device/getDevicesMetadataCsv/{application}"));
        async move { engine.got(&token, &path).await.as_str().unwrap().to_owned() }
    };
    let (of_reader, of_writer) = (csv(reader.clone()).await, csv(writer.clone()).await);
    for secret in ["ext-s3cret", "00112233445566778899AABBCCDDEEFF", http["apiKey"].as_str().unwrap()] {
        assert!(!of_reader.contains(secret) && of_writer.contains(secret), "{secret}");
    }

    let mut whole = http_target("Hub", application, "https://hub.example.org");
    whole["authorizationHeader"] = json!(MASK);
    let path = format!("/data-target/{}", id(&target));
    assert_eq!(engine.put(&writer, &path, whole.clone()).await.0, 200);
    assert_eq!(engine.got(&writer, &path).await["authorizationHeader"], "Bearer s3cret");
    whole["authorizationHeader"] = json!("");
    assert_eq!(engine.put(&writer, &path, whole).await.0, 200);
    assert_eq!(engine.got(&writer, &path).await["authorizationHeader"], json!(null));
}

#[tokio::test]
async fn a_refused_body_never_comes_back_with_its_secrets() {
    let engine = engine().await;
    let tenant = engine.tenant("Secrets B", &["OrganizationApplicationAdmin"]).await;
    let application = tenant.application;
    for (path, body) in [
        (
            "/iot-device",
            json!({"name": "", "type": "MQTT_EXTERNAL_BROKER", "applicationId": application, "mqttExternalBrokerSettings": {
            "mqttURL": "nope", "mqttPort": 1, "mqtttopicname": "a", "authenticationType": "PASSWORD", "mqttusername": "u",
            "mqttpassword": "hidden-1"}}),
        ),
        (
            "/iot-device",
            json!({"name": "x", "type": "LORAWAN", "applicationId": application, "lorawanSettings": {
            "devEUI": "zz", "activationType": "OTAA", "OTAAapplicationKey": "hidden-1"}}),
        ),
        (
            "/iot-device/createMany",
            json!({"data": [{"name": "", "type": "SIGFOX", "applicationId": application, "sigfoxSettings": {
            "deviceId": "1", "groupId": 1, "deviceTypeId": "1", "pac": "hidden-1"}}]}),
        ),
        (
            "/data-target",
            json!({"name": "", "type": "HTTP_PUSH", "applicationId": application, "url": "nope", "timeout": 1,
                                "authorizationHeader": "hidden-1"}),
        ),
        ("/sigfox-group", json!({"organizationId": "x", "username": 7, "password": "hidden-1"})),
    ] {
        let (status, answer) = engine.post(&tenant.token, path, body).await;
        assert_eq!(status, 400, "{path}: {answer}");
        assert!(!answer.to_string().contains("hidden-1"), "{path}: {answer}");
    }
}

/// 29: failed bodies and device keys were in the log. The engine of these tests logs everything that it can.
#[tokio::test]
async fn not_even_a_trace_tells_a_secret() {
    let engine = engine().await;
    let tenant = engine.tenant("Secrets C", &["OrganizationApplicationAdmin"]).await;
    let (token, application) = (tenant.token.as_str(), tenant.application);
    let device = engine.made(token, "/iot-device", http_device("Room", application)).await;
    let device_key = device["apiKey"].as_str().unwrap().to_owned();
    let mut target = http_target("Hub", application, "http://127.0.0.1:9");
    target["authorizationHeader"] = json!("Bearer trace-1");
    engine.made(token, "/data-target", target).await;
    let broker = json!({"name": "Broker", "type": "MQTT_EXTERNAL_BROKER", "applicationId": application, "mqttExternalBrokerSettings": {
        "mqttURL": "mqtt://127.0.0.1", "mqttPort": 9, "mqtttopicname": "a", "authenticationType": "PASSWORD", "mqttusername": "u",
        "mqttpassword": "trace-2"}});
    engine.made(token, "/iot-device", broker).await;
    let user = json!({"name": "Trace", "email": "trace@example.org", "password": "trace-3", "active": true});
    engine.made(&engine.admin, "/user", user).await;
    let his = engine.log_in("trace@example.org", "trace-3").await;
    let group =
        json!({"levels": [{"type": "Read"}], "name": "g", "organizationId": tenant.organization, "userIds": []});
    let group = id(&engine.made(&engine.admin, "/permission", group).await);
    let made = engine.made(&engine.admin, "/api-key", json!({"name": "script", "permissionIds": [group]})).await;
    let key = made["key"].as_str().unwrap().to_owned();
    for (path, body) in [
        ("/user".to_owned(), json!({"name": "", "email": "trace", "password": "trace-4"})),
        ("/auth/login".to_owned(), json!({"username": "trace@example.org", "password": "trace-5"})),
        (
            "/sigfox-group".to_owned(),
            json!({"organizationId": tenant.organization, "username": "x", "password": "trace-6"}),
        ),
        (format!("/receive-data?apiKey={device_key}"), json!({"raw": 1})),
    ] {
        engine.post(&engine.admin, &path, body).await;
    }
    engine.get(token, &format!("/search?q={device_key}&limit=1&offset=0")).await;
    engine.get(token, &format!("/auth/kombit/logout?secret_token={his}")).await;
    let log = engine.log();
    let secrets =
        ["trace-1", "trace-2", "trace-3", "trace-4", "trace-5", "trace-6", "$argon2", &device_key, &key, &his];
    for secret in secrets.into_iter().chain([token, engine.admin.as_str(), crate::engine::ADMIN_PASSWORD]) {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is in the log: {line:?}");
    }
}
