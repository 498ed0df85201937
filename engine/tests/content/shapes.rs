//! What each route answers when all is well, field by field: golden.

use serde_json::{Value, json};

use crate::engine::{CONNECTIONS, decoder, engine, http_device, http_target, id};
use crate::golden::Golden;
use crate::server::Server;

fn model(name: &str) -> Value {
    json!({"id": "m1", "type": "DeviceModel", "category": ["sensor"], "controlledProperty": ["airPollution"],
           "manufacturerName": "Acme", "brandName": "Acme", "modelName": "A1", "name": name})
}

#[tokio::test]
async fn applications_devices_and_models_answer_as_the_reference_does() {
    let engine = engine().await;
    let tenant = engine.tenant("Shapes A", &["OrganizationApplicationAdmin", "OrganizationUserAdmin"]).await;
    let (admin, me, organization) = (engine.admin.clone(), tenant.token.clone(), tenant.organization);
    let mut golden = Golden::default();

    let body = json!({
        "name": "Shapes parking", "organizationId": organization, "description": "d", "status": "IN-OPERATION",
        "startDate": "2026-01-01T00:00:00.000Z", "endDate": "2027-01-01T00:00:00.000Z", "category": "traffic", "owner": "Teknik",
        "contactPerson": "P", "contactEmail": "p@example.org", "contactPhone": "12345678", "personalData": false,
        "hardware": "radar", "controlledProperties": [{"type": "x"}], "permissionIds": [null],
    });
    golden.add("application/refused properties", engine.post(&me, "/application", body.clone()).await);
    let mut right = body.clone();
    right["controlledProperties"] = json!(["trafficFlow"]);
    right["deviceTypes"] = json!(["GENERIC_HTTP", "OTHER"]);
    let application = id(&golden.add("application/create", engine.post(&admin, "/application", right.clone()).await));
    let path = format!("/application/{application}");
    golden.add("application/get", engine.get(&admin, &path).await);
    right["name"] = json!("Shapes parking 2");
    golden.add("application/update", engine.put(&admin, &format!("{path}?observe=response"), right).await);

    let made = golden.add(
        "device-model/create",
        engine.post(&me, "/device-model", json!({"belongsToId": organization, "body": model("A")})).await,
    );
    let model_id = id(&made);
    golden.add("device-model/get", engine.get(&me, &format!("/device-model/{model_id}")).await);
    golden.add(
        "device-model/update",
        engine.put(&me, &format!("/device-model/{model_id}"), json!({"body": model("B")})).await,
    );
    golden.add("device-model/list", engine.get(&me, &format!("/device-model?organizationId={organization}")).await);

    let own = tenant.application;
    let mut device = http_device("Room", own);
    device.as_object_mut().unwrap().extend(
        json!({"longitude": 10.2, "latitude": 56.1, "commentOnLocation": "2nd floor", "comment": "c", "metadata": "{\"room\":\"1\"}",
               "deviceModelId": model_id})
        .as_object()
        .unwrap()
        .clone(),
    );
    let made = golden.add("device/create", engine.post(&me, "/iot-device", device.clone()).await);
    let (device_id, key) = (id(&made), made["apiKey"].as_str().unwrap().to_owned());
    let path = format!("/iot-device/{device_id}");
    golden.add("device/get, silent", engine.get(&me, &path).await);
    engine.receive(&key, json!({"raw": 213})).await;
    engine.eventually(&me, &path, |device| !device["latestReceivedMessage"].is_null()).await;
    golden.add("device/get", engine.get(&me, &path).await);
    golden.add(
        "application/iot-devices",
        engine.get(&me, &format!("/application/{own}/iot-devices?limit=10&offset=0")).await,
    );
    golden.add("application/iot-devices-map", engine.get(&me, &format!("/application/{own}/iot-devices-map")).await);
    golden.add(
        "application/iot-devices-org",
        engine
            .get(&me, &format!("/application/{organization}/iot-devices-org?status=null&statusCheck=null&owner=null"))
            .await,
    );
    let list =
        format!("/application?limit=null&offset=null&sort=null&orderOn=null&organizationId={organization}&owner=null");
    golden.add("application/list", engine.get(&me, &list).await);
    golden.add(
        "application/dashboard",
        engine.get(&me, &format!("/application/{organization}/application-dashboard-data")).await,
    );
    golden.add("application/owners", engine.get(&me, &format!("/application/{organization}/filter-information")).await);
    device["id"] = json!(device_id);
    device["name"] = json!("Room b");
    golden.add("device/update", engine.put(&me, &path, device).await);
    golden.add("device/stats", engine.get(&me, &format!("/iot-device/stats/{device_id}")).await);
    let many = json!({"data": [http_device("M1", own), http_device("M2", 999_999)]});
    golden.add("device/create many, one elsewhere", engine.post(&admin, "/iot-device/createMany", many).await);
    golden.add(
        "device/reset key",
        engine.put(&me, &format!("/iot-device/resetHttpDeviceApiKey/{device_id}"), json!({})).await,
    );
    golden.add("device-model/delete in use", engine.delete(&me, &format!("/device-model/{model_id}")).await);
    golden.add("device/delete", engine.delete(&me, &path).await);
    golden.add("device-model/delete", engine.delete(&me, &format!("/device-model/{model_id}")).await);
    golden.add("application/delete", engine.delete(&admin, &format!("/application/{application}")).await);
    golden.check("applications");
}

#[tokio::test]
async fn decoders_targets_and_connections_answer_as_the_reference_does() {
    let engine = engine().await;
    let tenant = engine.tenant("Shapes B", &["OrganizationApplicationAdmin"]).await;
    let (me, organization, application) = (tenant.token.clone(), tenant.organization, tenant.application);
    let receiver = Server::receiver();
    let mut golden = Golden::default();

    let source = "function decode(payload, metadata) { return {t: payload.raw / 10, device: metadata.name}; }";
    let made = golden.add(
        "decoder/create",
        engine.post(&me, "/payload-decoder", decoder("Temperature", organization, source)).await,
    );
    let decoder_id = id(&made);
    let path = format!("/payload-decoder/{decoder_id}");
    golden.add("decoder/get", engine.get(&me, &path).await);
    golden.add("decoder/update", engine.put(&me, &path, decoder("Temperature 2", organization, source)).await);
    golden.add("decoder/list", engine.get(&me, &format!("/payload-decoder?organizationId={organization}")).await);

    let mut targets = Vec::new();
    for (name, body) in [
        ("http", http_target("Hub", application, &receiver.url())),
        (
            "mqtt",
            json!({"name": "Broker", "type": "MQTT", "applicationId": application, "url": "mqtt://broker.example.org", "timeout": 3000,
                        "mqttPort": 1883, "mqttTopic": "out/city", "mqttQos": 1, "mqttUsername": "u", "mqttPassword": "p"}),
        ),
        (
            "fiware",
            json!({"name": "Orion", "type": "FIWARE", "applicationId": application, "url": "https://orion.example.org",
                          "timeout": 3000, "tenant": "city", "context": "https://example.org/context.jsonld", "clientId": "c",
                          "clientSecret": "s", "tokenEndpoint": "https://example.org/token"}),
        ),
        (
            "open data",
            json!({"name": "Open", "type": "OPENDATADK", "applicationId": application, "openDataDkDataset": {
            "name": "ds", "description": "d", "keywords": ["air"], "license": "https://creativecommons.org/licenses/by/4.0/",
            "authorName": "A", "authorEmail": "a@example.org", "resourceTitle": "r", "updateFrequency": "HOURLY",
            "documentationUrl": "https://example.org/doc", "dataDirectory": "air"}}),
        ),
    ] {
        let made = golden.add(&format!("target/create {name}"), engine.post(&me, "/data-target", body).await);
        targets.push(id(&made));
        golden.add(&format!("target/get {name}"), engine.get(&me, &format!("/data-target/{}", id(&made))).await);
    }
    golden.add(
        "target/list",
        engine.get(&me, &format!("/data-target?applicationId={application}&sort=id&orderOn=ASC")).await,
    );
    let changed = http_target("Hub 2", application, &receiver.url());
    golden.add("target/update", engine.put(&me, &format!("/data-target/{}", targets[0]), changed).await);
    golden.add("target/log", engine.get(&me, &format!("/datatarget-log/{}", targets[0])).await);

    let device = engine.made(&me, "/iot-device", http_device("Room", application)).await;
    let body = json!({"iotDeviceIds": [id(&device)], "payloadDecoderId": decoder_id, "dataTargetId": targets[0]});
    let connection = id(&golden.add("connection/create", engine.post(&me, CONNECTIONS, body.clone()).await));
    let path = format!("{CONNECTIONS}/{connection}");
    golden.add("connection/get", engine.get(&me, &path).await);
    golden.add("connection/update", engine.put(&me, &path, body).await);
    golden.add("connection/of device", engine.get(&me, &format!("{CONNECTIONS}/byIoTDevice/{}", id(&device))).await);
    golden.add("connection/of target", engine.get(&me, &format!("{CONNECTIONS}/byDataTarget/{}", targets[0])).await);
    golden.add("connection/of decoder", engine.get(&me, &format!("{CONNECTIONS}/byPayloadDecoder/{decoder_id}")).await);
    golden.add("connection/list", engine.get(&me, &format!("{CONNECTIONS}?limit=10&offset=0")).await);
    let copied = id(&engine.made(&me, "/iot-device", http_device("Room copy", application)).await);
    let append = format!("{CONNECTIONS}/appendCopiedDevice/{connection}");
    golden.add("connection/append", engine.put(&me, &append, json!({"deviceId": copied})).await);
    golden.add(
        "decoder/devices",
        engine.get(&me, &format!("/iot-device/minimalByPayloadDecoder/{decoder_id}?limit=1")).await,
    );
    golden.add("decoder/delete in use", engine.delete(&me, &format!("/payload-decoder/{decoder_id}")).await);
    golden.add("connection/delete", engine.delete(&me, &path).await);
    golden.add("target/delete", engine.delete(&me, &format!("/data-target/{}", targets[1])).await);
    golden.add("decoder/delete", engine.delete(&me, &format!("/payload-decoder/{decoder_id}")).await);
    golden.check("targets");
}
