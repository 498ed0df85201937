//! Trying a data target out: a real attempt, for whoever may change it, under the egress rule.

use serde_json::{Value, json};

use crate::engine::{decoder, engine, http_device, http_target, id};
use crate::server::Server;

#[tokio::test]
async fn a_package_is_decoded_sent_with_the_stored_credentials_and_noted_in_the_targets_log() {
    let engine = engine().await;
    let tenant = engine.tenant("Trials A", &["OrganizationApplicationAdmin"]).await;
    let (token, application) = (tenant.token.clone(), tenant.application);
    let receiver = Server::start(|got| if got.path == "/in" { (202, String::new()) } else { (403, "no".to_owned()) });
    let target = id(&engine
        .made(&token, "/data-target", http_target("Hub", application, &format!("{}/in", receiver.url())))
        .await);
    let device = id(&engine.made(&token, "/iot-device", http_device("Room", application)).await);
    let source = "function decode(payload, metadata) { return {t: payload.raw / 10, device: metadata.name}; }";
    let decoder = id(&engine.made(&token, "/payload-decoder", decoder("D", tenant.organization, source)).await);
    let test = |body: Value| engine.post(&token, "/data-target/testDataTarget", body);

    let (status, answer) = test(json!({"dataTargetId": target, "dataPackage": "[1]"})).await;
    assert_eq!((status, answer), (201, json!({"result": {"status": "OK", "statusCode": 202, "statusText": "OK"}})));
    let whole = json!({"dataTargetId": target, "iotDeviceId": device, "payloadDecoderId": decoder, "dataPackage": "{\"raw\":213}"});
    let (status, answer) = test(whole).await;
    assert_eq!((status, &answer["decodedPayload"]), (201, &json!({"t": 21.3, "device": "Room"})), "{answer}");
    assert_eq!(receiver.bodies("/in"), [json!([1]), json!({"t": 21.3, "device": "Room"})]);
    assert!(receiver.got.lock().unwrap().iter().all(|got| got.authorization.as_deref() == Some("Bearer s3cret")));
    assert_eq!(
        engine.got(&token, &format!("/datatarget-log/{target}")).await,
        json!([]),
        "a success after none is not logged"
    );

    let path = format!("/data-target/{target}");
    let changed = http_target("Hub", application, &format!("{}/refused", receiver.url()));
    assert_eq!(engine.put(&token, &path, changed).await.0, 200);
    let (_, answer) = test(json!({"dataTargetId": target, "iotDeviceId": device, "dataPackage": "{}"})).await;
    assert_eq!(answer["result"], json!({"status": "ERROR", "statusCode": 403, "statusText": "Forbidden"}));
    let log = engine.got(&token, &format!("/datatarget-log/{target}")).await;
    assert_eq!(
        (&log[0]["type"], &log[0]["statusCode"], &log[0]["iotDevice"]["id"]),
        (&json!("ERROR"), &json!(403), &json!(device))
    );
    let shown = engine.got(&token, &path).await;
    assert_eq!((&shown["hasRecentErrors"], shown["lastMessageDate"].is_string()), (&json!(true), true));

    let noted = format!("/change-log?entity=target&entityId={target}&action=ACCESS");
    assert_eq!(engine.got(&engine.admin, &noted).await["count"], 3, "who tried it, and when");
    for body in [
        json!({"dataTargetId": target}),
        json!({"dataTargetId": target, "payloadDecoderId": decoder, "dataPackage": "{}"}),
        json!({"dataTargetId": target, "iotDeviceId": device, "payloadDecoderId": 999_999, "dataPackage": "{}"}),
    ] {
        let (status, answer) = test(body.clone()).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
}

#[tokio::test]
async fn a_target_at_an_address_that_egress_forbids_is_not_reached() {
    let engine = engine().await;
    let tenant = engine.tenant("Trials B", &["OrganizationApplicationAdmin"]).await;
    let target = http_target("Metadata", tenant.application, "http://169.254.169.254/latest");
    let target = id(&engine.made(&tenant.token, "/data-target", target).await);
    let body = json!({"dataTargetId": target, "dataPackage": "{}"});
    let (status, answer) = engine.post(&tenant.token, "/data-target/testDataTarget", body).await;
    assert_eq!((status, &answer["result"]["status"]), (201, &json!("ERROR")));
    assert!(answer["result"]["errorMessage"].as_str().unwrap().contains("link-local"), "{answer}");
}

/// 23: any reader sent what he liked to any target, with its credentials.
#[tokio::test]
async fn readers_and_other_tenants_try_nothing() {
    let engine = engine().await;
    let own = engine.tenant("Trials C", &["OrganizationApplicationAdmin"]).await;
    let other = engine.tenant("Trials D", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(own.organization, own.application, "Trials C reader", &["Read"]).await;
    let receiver = Server::receiver();
    let target =
        id(&engine.made(&own.token, "/data-target", http_target("Hub", own.application, &receiver.url())).await);
    let theirs = id(&engine.made(&other.token, "/iot-device", http_device("Theirs", other.application)).await);
    let body = json!({"dataTargetId": target, "dataPackage": "{}"});
    for token in [&reader, &other.token] {
        assert_eq!(engine.post(token, "/data-target/testDataTarget", body.clone()).await.0, 403);
    }
    let with_theirs = json!({"dataTargetId": target, "iotDeviceId": theirs, "dataPackage": "{}"});
    assert_eq!(engine.post(&own.token, "/data-target/testDataTarget", with_theirs).await.0, 403);
    assert_eq!(receiver.num_got(), 0);
}

#[tokio::test]
async fn an_mqtt_target_is_connected_to_without_a_package_and_an_open_data_target_has_no_result() {
    let engine = engine().await;
    let tenant = engine.tenant("Trials E", &["OrganizationApplicationAdmin"]).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mqtt = json!({"name": "Broker", "type": "MQTT", "applicationId": tenant.application, "url": "mqtt://127.0.0.1", "timeout": 2000,
                      "mqttPort": port, "mqttTopic": "out", "mqttQos": 1, "mqttUsername": "u", "mqttPassword": "p"});
    let mqtt = id(&engine.made(&tenant.token, "/data-target", mqtt).await);
    let (status, answer) =
        engine.post(&tenant.token, "/data-target/testDataTarget", json!({"dataTargetId": mqtt})).await;
    assert_eq!((status, &answer["result"]["status"]), (201, &json!("ERROR")), "nobody listens there: {answer}");
    let open = json!({"name": "Open", "type": "OPENDATADK", "applicationId": tenant.application});
    let open = id(&engine.made(&tenant.token, "/data-target", open).await);
    let answer = engine.post(&tenant.token, "/data-target/testDataTarget", json!({"dataTargetId": open})).await;
    assert_eq!(answer, (201, json!({})));
}
