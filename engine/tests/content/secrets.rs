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
