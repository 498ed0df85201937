//! Devices, decoders, targets and connections: what is stored, what is shown, and whom a change reaches.

use serde_json::{Value, json};
use sluse_schema::id::{DeviceKey, TargetId};
use sluse_schema::partition::partition_of_target;
use sluse_schema::port::DeviceDirectory;

use crate::fixture::Api;

pub const CONNECTIONS: &str = "/iot-device-payload-decoder-data-target-connection";

/// An organisation's application with a device, a decoder, a target and a connection between them.
pub struct Registry {
    pub organization: Value,
    pub application: Value,
    pub device: Value,
    pub decoder: Value,
    pub target: Value,
    pub connection: Value,
}

impl Registry {
    pub async fn of(api: &Api, organization: &Value, application: &Value) -> Self {
        let device = json!({"name": "Room 1", "type": "GENERIC_HTTP", "applicationId": application});
        let device = api.made("/iot-device", device).await;
        let decoder = json!({"name": "D", "organizationId": organization, "decodingFunction": "\"function decode(p) { return p; }\""});
        let decoder = api.made("/payload-decoder", decoder).await;
        let target = json!({"name": "Hub", "type": "HTTP_PUSH", "applicationId": application, "url": "http://127.0.0.1:9/in",
                            "timeout": 3000, "authorizationHeader": "Bearer s3cret"});
        let target = api.made("/data-target", target).await;
        let connection =
            json!({"iotDeviceIds": [device["id"]], "payloadDecoderId": decoder["id"], "dataTargetId": target["id"]});
        let connection = api.made(CONNECTIONS, connection).await;
        Self {
            organization: organization.clone(),
            application: application.clone(),
            device,
            decoder,
            target,
            connection,
        }
    }

    pub async fn new(api: &Api, name: &str) -> Self {
        let organization = api.made("/organization", json!({"name": name})).await["id"].clone();
        let application = json!({"name": format!("{name} app"), "organizationId": organization});
        let application = api.made("/application", application).await["id"].clone();
        Self::of(api, &organization, &application).await
    }
}

/// Entities and ids of the change events after `after`, and the newest event's id.
async fn events_since(api: &Api, after: i64) -> (Vec<(String, i64)>, i64) {
    let client = api.store.pool().get().await.unwrap();
    let sql = "SELECT id, entity, entity_id FROM change_event WHERE id > $1 ORDER BY id";
    let rows = client.query(sql, &[&after]).await.unwrap();
    let newest = rows.last().map_or(after, |row| row.get(0));
    (rows.iter().map(|row| (row.get(1), row.get(2))).collect(), newest)
}

fn event(entity: &str, row: &Value) -> (String, i64) {
    (entity.to_owned(), row["id"].as_i64().unwrap())
}

#[tokio::test]
async fn an_http_device_is_found_by_its_key_until_the_key_is_reset() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let path = format!("/iot-device/{}", own.device["id"]);
    let old = own.device["apiKey"].as_str().unwrap().to_owned();
    uuid::Uuid::try_parse(&old).unwrap();
    let find = |key: String| {
        let store = api.store.clone();
        async move { store.find_devices(&[DeviceKey::of_api_key(&key)]).await.unwrap()[0].map(|d| d.device.0) }
    };
    assert_eq!(find(old.to_uppercase()).await, own.device["id"].as_i64());
    let (status, reset) = api.put(&format!("/iot-device/resetHttpDeviceApiKey/{}", own.device["id"]), json!({})).await;
    assert_eq!(status, 200, "{reset}");
    let new = reset["apiKey"].as_str().unwrap().to_owned();
    assert_eq!((find(old).await, find(new.clone()).await), (None, own.device["id"].as_i64()));
    assert_eq!(api.get(&path).await.1["apiKey"], new.as_str());
    assert_eq!(api.number("SELECT count(*) FROM iot_device WHERE api_key_enc IS NOT NULL").await, 1);
}

#[tokio::test]
async fn a_dev_eui_is_unique_whatever_its_case_and_its_keys_are_nowhere_in_clear() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let key = "00112233445566778899aabbccddeeff";
    let meter = |name: &str, eui: &str| {
        json!({"name": name, "type": "LORAWAN", "applicationId": own.application, "lorawanSettings": {
            "devEUI": eui, "deviceProfileID": "7517205a-d1f8-4615-9be7-3f44f6539663", "activationType": "OTAA",
            "OTAAapplicationKey": key}})
    };
    let made = api.made("/iot-device", meter("Meter 1", "A81758FFFE000001")).await;
    assert_eq!(made["deviceEUI"], "A81758FFFE000001");
    assert_eq!(made["OTAAapplicationKey"], key, "whoever may change it sees it");
    let (status, answer) = api.post("/iot-device", meter("Meter 2", "a81758fffe000001")).await;
    assert_eq!((status, answer), (400, json!({"message": "MESSAGE.ID-INVALID-OR-ALREADY-IN-USE"})));
    let (_, shown) = api.get(&format!("/iot-device/{}", made["id"])).await;
    assert_eq!(shown["lorawanSettings"]["devEUI"], "a81758fffe000001");
    assert_eq!(shown["lorawanSettings"]["OTAAapplicationKey"], key);
    // A change that sends the mask back keeps the key; nothing of it stands in tables or the change log.
    let mut change = meter("Meter 1b", "a81758fffe000001");
    change["id"] = made["id"].clone();
    change["lorawanSettings"]["OTAAapplicationKey"] = json!("********");
    let (status, changed) = api.put(&format!("/iot-device/{}", made["id"]), change).await;
    assert_eq!(status, 200, "{changed}");
    let sealed = "SELECT count(*) FROM iot_device WHERE settings_enc IS NOT NULL";
    assert_eq!(api.number(sealed).await, 1);
    for table in ["iot_device", "change_log"] {
        let sql = format!("SELECT count(*) FROM {table} t WHERE to_jsonb(t)::text LIKE '%{key}%'");
        assert_eq!(api.number(&sql).await, 0, "{table}");
    }
}

#[tokio::test]
async fn secrets_of_a_target_are_kept_by_the_mask_and_cleared_by_an_empty_text() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let path = format!("/data-target/{}", own.target["id"]);
    assert_eq!(own.target["authorizationHeader"], "Bearer s3cret", "whoever may change it sees it");
    let secrets = "SELECT count(*) FROM data_target WHERE secrets_enc IS NOT NULL";
    assert_eq!(api.number(secrets).await, 1);
    let (_, shown) = api.get(&path).await;
    assert_eq!(shown["hasRecentErrors"], false);
    let mut whole = shown.clone();
    whole["applicationId"] = own.application.clone();
    whole["authorizationHeader"] = json!("********");
    assert_eq!(api.put(&path, whole.clone()).await.0, 200, "the web client sends whole objects");
    assert_eq!(api.number(secrets).await, 1);
    whole["authorizationHeader"] = json!("");
    let (status, cleared) = api.put(&path, whole).await;
    assert_eq!((status, &cleared["authorizationHeader"]), (200, &json!(null)));
    assert_eq!(api.number(secrets).await, 0);
    for table in ["data_target", "change_log"] {
        let sql = format!("SELECT count(*) FROM {table} t WHERE to_jsonb(t)::text LIKE '%s3cret%'");
        assert_eq!(api.number(&sql).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_target_gets_the_partition_that_its_id_hashes_to() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let id = own.target["id"].as_i64().unwrap();
    let stored = api.number(&format!("SELECT partition::bigint FROM data_target WHERE id = {id}")).await;
    assert_eq!(stored, i64::from(partition_of_target(TargetId(id), 8).0));
}

#[tokio::test]
async fn a_change_of_a_connection_reaches_every_device_that_it_named_or_names() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let second = json!({"name": "Room 2", "type": "GENERIC_HTTP", "applicationId": own.application});
    let second = api.made("/iot-device", second).await;
    let (_, newest) = events_since(&api, 0).await;
    let path = format!("{CONNECTIONS}/{}", own.connection["id"]);
    let body = json!({"iotDeviceIds": [second["id"], second["id"]], "payloadDecoderId": null, "dataTargetId": own.target["id"]});
    let (status, changed) = api.put(&path, body).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["iotDevices"].as_array().unwrap().len(), 1, "devices are distinct");
    let (events, newest) = events_since(&api, newest).await;
    let expected = [event("connection", &own.connection), event("device", &own.device), event("device", &second)];
    assert_eq!(events, expected);

    let decoder = json!({"name": "D2", "decodingFunction": "\"function decode() {}\"", "dialect": "os2iot"});
    let (status, changed) = api.put(&format!("/payload-decoder/{}", own.decoder["id"]), decoder).await;
    assert_eq!((status, &changed["dialect"]), (200, &json!("os2iot")));
    let (events, newest) = events_since(&api, newest).await;
    assert_eq!(events, [event("decoder", &own.decoder)]);

    // A deleted target takes its connections along, and its devices hear of it.
    let delete = api.call("DELETE", &format!("/data-target/{}", own.target["id"]), Some(&api.admin), None).await;
    assert_eq!(delete, (200, json!({"affected": 1})));
    let (events, _) = events_since(&api, newest).await;
    let expected = [event("connection", &own.connection), event("device", &second), event("target", &own.target)];
    assert_eq!(events, expected);
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn a_connection_stays_within_one_application() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let other = Registry::new(&api, "Ballerup").await;
    let body = |devices: Value, decoder: &Value, target: &Value| json!({"iotDeviceIds": devices, "payloadDecoderId": decoder, "dataTargetId": target});
    let none = Value::Null;
    let own_device = json!([own.device["id"]]);
    for (body, message) in [
        (body(json!([]), &none, &own.target["id"]), json!("Must contain at least one IoTDevice")),
        (body(own_device.clone(), &none, &json!(999_999)), json!("Could not find DataTarget by id: '999999'")),
        (
            body(own_device.clone(), &json!(999_999), &own.target["id"]),
            json!("Could not find PayloadDecoder by id: '999999'"),
        ),
        (body(json!([999_999]), &none, &own.target["id"]), json!("Must contain at least one IoTDevice")),
        (
            body(json!([own.device["id"], 999_999]), &none, &own.target["id"]),
            json!("Could not find IoTDevice by id: '999999'"),
        ),
        (body(own_device.clone(), &json!("x"), &own.target["id"]), json!("Could not find PayloadDecoder by id: 'x'")),
        (body(own_device, &none, &other.target["id"]), json!("MESSAGE.NOT-SAME-APPLICATION")),
        (
            body(json!([own.device["id"], other.device["id"]]), &none, &own.target["id"]),
            json!("MESSAGE.NOT-SAME-APPLICATION"),
        ),
    ] {
        let (status, answer) = api.post(CONNECTIONS, body.clone()).await;
        assert_eq!((status, &answer["message"]), (400, &message), "{body}");
    }
    assert_eq!(api.number("SELECT count(*) FROM connection").await, 2);
}

#[tokio::test]
async fn a_device_that_moves_leaves_its_connections_and_gets_new_ones() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let other = Registry::new(&api, "Ballerup").await;
    let path = format!("/iot-device/changeApplication/{}", own.device["id"]);
    let to = |target: &Value| {
        json!({"deviceModelId": null, "organizationId": other.organization, "applicationId": other.application,
               "dataTargetToPayloadDecoderIds": [{"dataTargetId": target, "payloadDecoderId": null}]})
    };
    let (status, answer) = api.put(&path, to(&own.target["id"])).await;
    assert_eq!(status, 400, "a target that stays behind: {answer}");
    let connected = format!("SELECT count(*) FROM connection_device WHERE device_id = {}", own.device["id"]);
    assert_eq!(api.number(&connected).await, 1, "nothing of a refused move is done");
    let (status, moved) = api.put(&path, to(&other.target["id"])).await;
    assert_eq!((status, &moved["application"]["id"]), (200, &other.application), "{moved}");
    let (_, list) = api.get(&format!("{CONNECTIONS}/byIoTDevice/{}", own.device["id"])).await;
    assert_eq!((&list["count"], &list["data"][0]["dataTarget"]["id"]), (&json!(1), &other.target["id"]));
    assert_eq!(moved["apiKey"], own.device["apiKey"]);
}

#[tokio::test]
async fn a_decoder_in_use_is_not_deleted_and_one_of_others_is_not_there() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let stranger = api.tenant("Ballerup", &["OrganizationApplicationAdmin"]).await;
    let path = format!("/payload-decoder/{}", own.decoder["id"]);
    let (status, answer) = api.call("DELETE", &path, Some(&api.admin), None).await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.DELETE-NOT-ALLOWED-ITEM-IS-IN-USE")));
    assert_eq!(api.call("DELETE", &path, Some(&stranger.token), None).await.0, 404);
    assert_eq!(api.call("GET", &path, Some(&stranger.token), None).await.0, 200, "decoders are shared");
    let connection = format!("{CONNECTIONS}/{}", own.connection["id"]);
    assert_eq!(api.call("DELETE", &connection, Some(&api.admin), None).await.0, 200);
    assert_eq!(api.call("DELETE", &path, Some(&api.admin), None).await.1, json!({"affected": 1}));
    assert_eq!(api.call("DELETE", &path, Some(&api.admin), None).await.0, 404);
}

#[tokio::test]
async fn many_devices_stand_each_for_itself() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let device = |name: &str, more: Value| {
        let mut body = json!({"name": name, "type": "GENERIC_HTTP", "applicationId": own.application});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let data = json!([device("M1", json!({})), device("M2", json!({"deviceModelId": 999_999}))]);
    let (status, made) = api.post("/iot-device/createMany", json!({"data": data})).await;
    assert_eq!((status, &made[0]["data"]["name"]), (201, &json!("M1")));
    assert_eq!(made[1]["error"]["message"], "MESSAGE.DEVICE-MODEL-DOES-NOT-EXIST");
    let many: Vec<Value> = (0..51).map(|i| device(&format!("D{i}"), json!({}))).collect();
    assert_eq!(api.post("/iot-device/createMany", json!({"data": many})).await.0, 400);
    let (_, csv) = api.get(&format!("/iot-device/getDevicesMetadataCsv/{}", own.application)).await;
    assert_eq!(csv.as_str().unwrap().lines().count(), 3);
}
