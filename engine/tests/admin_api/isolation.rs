//! Devices, targets, connections and all that is looked into: none of it is shown to another tenant, or changed by a reader.

use serde_json::{Value, json};

use crate::fixture::Api;
use crate::registry::{CONNECTIONS, Registry};

/// Every route that names a row of a tenant, with a body that would be right.
fn routes(own: &Registry) -> Vec<(&'static str, String, Option<Value>)> {
    let (device, target, decoder) = (&own.device["id"], &own.target["id"], &own.decoder["id"]);
    let (application, connection) = (&own.application, &own.connection["id"]);
    let device_body = json!({"id": device, "name": "Taken", "type": "GENERIC_HTTP", "applicationId": application});
    let target_body =
        json!({"name": "Taken", "type": "HTTP_PUSH", "applicationId": application, "url": "http://x", "timeout": 1});
    let link = json!({"iotDeviceIds": [device], "payloadDecoderId": decoder, "dataTargetId": target});
    let source = json!({"name": "Taken", "organizationId": own.organization, "decodingFunction": "\"x\""});
    let body = |value: &Value| Some(value.clone());
    let all = Some(json!({"all": true}));
    vec![
        ("GET", format!("/iot-device/{device}"), None),
        ("GET", format!("/iot-device/stats/{device}"), None),
        ("GET", format!("/iot-device/{device}/downlink"), None),
        ("GET", format!("/iot-device/{device}/historicalDownlink"), None),
        ("GET", format!("/iot-device/{device}/decoder-errors"), None),
        ("GET", format!("/iot-device/{device}/live"), None),
        ("GET", format!("/application/{application}/live"), None),
        ("GET", format!("/iot-device/getDevicesMetadataCsv/{application}"), None),
        ("POST", "/iot-device".to_owned(), body(&device_body)),
        ("PUT", format!("/iot-device/{device}"), body(&device_body)),
        ("DELETE", format!("/iot-device/{device}"), None),
        ("POST", "/iot-device/createMany".to_owned(), Some(json!({"data": [device_body]}))),
        ("POST", "/iot-device/updateMany".to_owned(), Some(json!({"data": [device_body]}))),
        ("PUT", format!("/iot-device/changeApplication/{device}"), Some(json!({"applicationId": application}))),
        ("PUT", format!("/iot-device/resetHttpDeviceApiKey/{device}"), Some(json!({}))),
        ("POST", format!("/iot-device/{device}/downlink"), Some(json!({"data": "00"}))),
        ("POST", format!("/iot-device/{device}/flushDownlinkQueue"), Some(json!({}))),
        ("GET", format!("/data-target?applicationId={application}"), None),
        ("GET", format!("/data-target/{target}"), None),
        ("POST", "/data-target".to_owned(), body(&target_body)),
        ("PUT", format!("/data-target/{target}"), body(&target_body)),
        ("DELETE", format!("/data-target/{target}"), None),
        ("GET", format!("/data-target/getOpenDataDkRegistered/{}", own.organization), None),
        ("GET", format!("/datatarget-log/{target}"), None),
        ("GET", format!("/data-target/{target}/state"), None),
        ("POST", format!("/data-target/{target}/rewind"), Some(json!({"offset": 0}))),
        ("GET", format!("/data-target/{target}/dead-letters"), None),
        ("GET", format!("/data-target/{target}/dead-letters/1"), None),
        ("DELETE", format!("/data-target/{target}/dead-letters/1"), None),
        ("POST", format!("/data-target/{target}/dead-letters/replay"), all.clone()),
        ("POST", format!("/data-target/{target}/dead-letters/purge"), all),
        ("POST", "/payload-decoder".to_owned(), body(&source)),
        ("PUT", format!("/payload-decoder/{decoder}"), body(&source)),
        ("DELETE", format!("/payload-decoder/{decoder}"), None),
        ("GET", format!("{CONNECTIONS}/{connection}"), None),
        ("POST", CONNECTIONS.to_owned(), body(&link)),
        ("PUT", format!("{CONNECTIONS}/{connection}"), body(&link)),
        ("PUT", format!("{CONNECTIONS}/appendCopiedDevice/{connection}"), Some(json!({"deviceId": device}))),
        ("DELETE", format!("{CONNECTIONS}/{connection}"), None),
        ("GET", "/unknown-devices".to_owned(), None),
    ]
}

/// Routes that answer every role, but with nothing of other tenants in it.
fn filtered(own: &Registry) -> Vec<String> {
    vec![
        "/data-target".to_owned(),
        CONNECTIONS.to_owned(),
        format!("{CONNECTIONS}/byIoTDevice/{}", own.device["id"]),
        format!("{CONNECTIONS}/byDataTarget/{}", own.target["id"]),
        format!("{CONNECTIONS}/byPayloadDecoder/{}", own.decoder["id"]),
        format!("/iot-device/minimalByPayloadDecoder/{}", own.decoder["id"]),
        format!("/payload-decoder/{}/errors", own.decoder["id"]),
    ]
}

async fn add_decoder_error(api: &Api, own: &Registry) {
    let sql = format!(
        "INSERT INTO decoder_error (payload_decoder_id, device_id, kind, message, sample, failed_at) \
         VALUES ({}, {}, 'thrown', 'boom', '{{\"secret\":1}}', now())",
        own.decoder["id"], own.device["id"]
    );
    api.store.pool().get().await.unwrap().batch_execute(&sql).await.unwrap();
}

async fn num_changes(api: &Api) -> i64 {
    api.number("SELECT count(*) FROM change_log WHERE action <> 'LOGIN' AND succeeded").await
}

#[tokio::test]
async fn without_credentials_there_is_nothing() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let before = num_changes(&api).await;
    for (method, path, body) in routes(&own) {
        assert_eq!(api.call(method, &path, None, body).await.0, 401, "{method} {path}");
    }
    for path in filtered(&own) {
        assert_eq!(api.call("GET", &path, None, None).await.0, 401, "{path}");
    }
    for path in ["/payload-decoder", "/payload-decoder/minimal", "/payload-decoder/1"] {
        assert_eq!(api.call("GET", path, None, None).await.0, 401, "{path}");
    }
    let body = json!({"code": "\"x\"", "iotDeviceJsonString": "{}", "rawPayloadJsonString": "{}"});
    assert_eq!(api.call("POST", "/test-payload-decoder", None, Some(body)).await.0, 401);
    assert_eq!(num_changes(&api).await, before);
}

#[tokio::test]
async fn another_tenants_administrator_sees_and_changes_nothing() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    add_decoder_error(&api, &own).await;
    let stranger = api.tenant("Ballerup", &["OrganizationApplicationAdmin", "OrganizationUserAdmin", "Read"]).await;
    let before = num_changes(&api).await;
    for (method, path, body) in routes(&own) {
        let (status, answer) = api.call(method, &path, Some(&stranger.token), body).await;
        assert!([403, 404].contains(&status), "{method} {path}: {status} {answer}");
        assert!(!answer.to_string().contains("Room 1"), "{method} {path}: {answer}");
    }
    for path in filtered(&own) {
        let (status, answer) = api.call("GET", &path, Some(&stranger.token), None).await;
        assert_eq!((status, &answer["count"]), (200, &json!(0)), "{path}: {answer}");
    }
    assert_eq!(num_changes(&api).await, before, "nothing was written");
}

#[tokio::test]
async fn a_reader_reads_his_application_without_its_secrets_and_writes_nothing() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &["Read"]).await;
    let own = Registry::of(&api, &tenant.organization, &tenant.application).await;
    add_decoder_error(&api, &own).await;
    let before = num_changes(&api).await;
    let key = own.device["apiKey"].as_str().unwrap();
    for (method, path, body) in routes(&own) {
        if path.ends_with("/live") {
            continue;
        }
        let (status, answer) = api.call(method, &path, Some(&tenant.token), body).await;
        let is_missing = path.ends_with("dead-letters/1") || path == "/unknown-devices" || path.ends_with("ownlink");
        if method == "GET" && !is_missing {
            assert_eq!(status, 200, "{method} {path}: {answer}");
        } else if method != "GET" {
            assert!([403, 404].contains(&status), "{method} {path}: {status} {answer}");
        }
        let text = answer.to_string();
        assert!(!text.contains(key) && !text.contains("s3cret"), "{method} {path}: {answer}");
    }
    for path in filtered(&own) {
        let (status, answer) = api.call("GET", &path, Some(&tenant.token), None).await;
        assert_eq!((status, &answer["count"]), (200, &json!(1)), "{path}: {answer}");
        assert!(!answer.to_string().contains(key), "{path}");
    }
    assert_eq!(num_changes(&api).await, before);
}

#[tokio::test]
async fn a_device_cannot_be_moved_into_an_application_that_its_mover_does_not_administer() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &["OrganizationApplicationAdmin"]).await;
    let own = Registry::of(&api, &tenant.organization, &tenant.application).await;
    let other = Registry::new(&api, "Ballerup").await;
    let call = |method: &'static str, path: String, body: Value| {
        let (api, token) = (&api, tenant.token.clone());
        async move { api.call(method, &path, Some(&token), Some(body)).await }
    };
    let device = &own.device["id"];
    let body = json!({"id": device, "name": "x", "type": "GENERIC_HTTP", "applicationId": other.application});
    assert_eq!(call("PUT", format!("/iot-device/{device}"), body.clone()).await.0, 403);
    assert_eq!(call("POST", "/iot-device/updateMany".into(), json!({"data": [body]})).await.0, 403);
    let to = json!({"applicationId": other.application});
    assert_eq!(call("PUT", format!("/iot-device/changeApplication/{device}"), to).await.0, 403);
    let target =
        json!({"name": "x", "type": "HTTP_PUSH", "applicationId": other.application, "url": "http://x", "timeout": 1});
    assert_eq!(call("PUT", format!("/data-target/{}", own.target["id"]), target).await.0, 403);
    let append = json!({"deviceId": device});
    let path = format!("{CONNECTIONS}/appendCopiedDevice/{}", other.connection["id"]);
    assert_eq!(call("PUT", path, append).await.0, 403);
    let source = json!({"name": "x", "organizationId": other.organization, "decodingFunction": "\"x\""});
    assert_eq!(call("PUT", format!("/payload-decoder/{}", own.decoder["id"]), source).await.0, 403);
}
