//! Rows and ChirpStack agree in the end, whatever fails between the two.

use serde_json::{Value, json};
use sluse_engine::store::admin::PgAdminStore;
use sluse_http::network::align::align_due;

use crate::fixture::{Api, Tenant};
use crate::lorawan::{EUI, OTAA_KEY, ROLES, device_of, otaa, post, profile_of};
use crate::network_server::{FakeChirpstack, api};

async fn start() -> (Api, FakeChirpstack, Tenant, String) {
    let (api, chirpstack) = Api::start_with_network().await;
    let tenant = api.tenant("Aarhus", &ROLES).await;
    let profile = profile_of(&api, &tenant).await;
    (api, chirpstack, tenant, profile)
}

async fn sql(api: &Api, text: &str) {
    api.store.pool().get().await.unwrap().batch_execute(text).await.unwrap();
}

/// What the job does when everything is due.
async fn align_all(api: &Api) -> usize {
    sql(api, "UPDATE network_server_task SET due_at = now()").await;
    let admin = PgAdminStore::new(&api.store);
    align_due(&admin, api.network.as_deref().unwrap(), 100).await.unwrap()
}

async fn num_tasks(api: &Api) -> i64 {
    api.number("SELECT count(*) FROM network_server_task").await
}

/// Makes PostgreSQL refuse every write of a device's row.
const BREAK_ROWS: &str = "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '22000'; END $$;
    CREATE TRIGGER broken BEFORE INSERT OR UPDATE ON iot_device FOR EACH ROW EXECUTE FUNCTION broken()";

#[tokio::test]
async fn a_device_whose_key_chirpstack_refuses_is_in_neither() {
    let (api, chirpstack, tenant, profile) = start().await;
    chirpstack.world().refused.insert("DeviceService/create_keys");
    let (status, answer) = post(&api, &tenant, "/iot-device", otaa(&tenant, &profile, EUI)).await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.FAILED-TO-CREATE-OR-UPDATE-IOT-DEVICE")));
    assert!(chirpstack.world().devices.is_empty());
    assert_eq!((api.number("SELECT count(*) FROM iot_device").await, num_tasks(&api).await), (0, 0));
}

#[tokio::test]
async fn a_device_whose_row_is_refused_goes_from_chirpstack_or_becomes_again_what_its_row_says() {
    let (api, chirpstack, tenant, profile) = start().await;
    let other = "a81758fffe000002";
    let id = device_of(&api, &tenant, otaa(&tenant, &profile, other)).await;
    sql(&api, BREAK_ROWS).await;
    let (status, _) = post(&api, &tenant, "/iot-device", otaa(&tenant, &profile, EUI)).await;
    assert_eq!(status, 400);
    assert!(!chirpstack.world().devices.contains_key(EUI));
    let mut change = otaa(&tenant, &profile, other);
    (change["id"], change["name"]) = (id.clone(), json!("Renamed"));
    change["lorawanSettings"]["OTAAapplicationKey"] = json!("ffffffffffffffffffffffffffffffff");
    let path = format!("/iot-device/{id}");
    assert_eq!(api.call("PUT", &path, Some(&tenant.token), Some(change)).await.0, 400);
    {
        let world = chirpstack.world();
        assert_eq!((world.devices[other].name.as_str(), world.keys[other].nwk_key.as_str()), ("Meter", OTAA_KEY));
    }
    assert_eq!(num_tasks(&api).await, 0);
}

#[tokio::test]
async fn chirpstack_away_gives_a_clear_error_and_no_half_made_device() {
    let (api, chirpstack, tenant, profile) = start().await;
    device_of(&api, &tenant, otaa(&tenant, &profile, "a81758fffe000002")).await;
    chirpstack.world().is_away = true;
    let (status, answer) = post(&api, &tenant, "/iot-device", otaa(&tenant, &profile, EUI)).await;
    assert_eq!(status, 503);
    assert!(answer["message"].as_str().unwrap().contains("ChirpStack"), "{answer}");
    assert_eq!(api.number("SELECT count(*) FROM iot_device").await, 1);
    let http = json!({"name": "Room", "type": "GENERIC_HTTP", "applicationId": tenant.application});
    device_of(&api, &tenant, http).await;
    let body = json!({"name": "Parking", "organizationId": tenant.organization});
    assert_eq!(api.post("/application", body).await.0, 201, "applications need no network server");
    // What was asked of a server that did not answer may have been done: it is undone when it is back.
    chirpstack.world().is_away = false;
    let application = chirpstack.world().devices["a81758fffe000002"].application_id.clone();
    let tags = [("managedBy".to_owned(), "sluse".to_owned())].into();
    let half_made = api::Device { dev_eui: EUI.into(), application_id: application, tags, ..Default::default() };
    chirpstack.world().devices.insert(EUI.into(), half_made);
    assert_eq!(align_all(&api).await, 1);
    assert!(!chirpstack.world().devices.contains_key(EUI));
    assert_eq!(num_tasks(&api).await, 0);
}

#[tokio::test]
async fn a_crash_between_the_two_is_mended_by_the_row_that_is_there() {
    let (api, chirpstack, tenant, profile) = start().await;
    device_of(&api, &tenant, otaa(&tenant, &profile, EUI)).await;
    // As a node leaves it that died after ChirpStack's update and before the row's.
    chirpstack.world().devices.get_mut(EUI).unwrap().name = "half".into();
    chirpstack.world().keys.clear();
    sql(&api, &format!("INSERT INTO network_server_task (kind, key, due_at) VALUES ('device', '{EUI}', now())")).await;
    assert_eq!(align_all(&api).await, 1);
    assert_eq!(chirpstack.world().devices[EUI].name, "Meter");
    assert_eq!(chirpstack.world().keys[EUI].nwk_key, OTAA_KEY);
    // Deleted in ChirpStack by hand.
    chirpstack.world().devices.clear();
    sql(&api, &format!("INSERT INTO network_server_task (kind, key, due_at) VALUES ('device', '{EUI}', now())")).await;
    assert_eq!(align_all(&api).await, 1);
    assert!(chirpstack.world().devices.contains_key(EUI));
    // What somebody else made in ChirpStack is not ours to delete, whatever a note says.
    let foreign = "a81758fffe0000ff";
    chirpstack.world().devices.insert(foreign.into(), api::Device { dev_eui: foreign.into(), ..Default::default() });
    sql(&api, &format!("INSERT INTO network_server_task (kind, key, due_at) VALUES ('device', '{foreign}', now())"))
        .await;
    assert_eq!(align_all(&api).await, 1);
    assert!(chirpstack.world().devices.contains_key(foreign));
}

#[tokio::test]
async fn a_deletion_that_chirpstack_did_not_hear_of_is_made_up_for_and_does_not_block_the_eui() {
    let (api, chirpstack, tenant, profile) = start().await;
    let id = device_of(&api, &tenant, otaa(&tenant, &profile, EUI)).await;
    chirpstack.world().is_away = true;
    let path = format!("/iot-device/{id}");
    assert_eq!(api.call("DELETE", &path, Some(&tenant.token), None).await, (200, json!({"affected": 1})));
    assert_eq!(num_tasks(&api).await, 1);
    assert_eq!(align_all(&api).await, 0, "it is still away");
    chirpstack.world().is_away = false;
    // The EUI is registered again before the job came: what is there is the deleted one.
    let again = device_of(&api, &tenant, otaa(&tenant, &profile, EUI)).await;
    assert_ne!(again, id);
    assert_eq!((chirpstack.num_calls("DeviceService/delete"), num_tasks(&api).await), (1, 0));
    chirpstack.world().is_away = true;
    let path = format!("/iot-device/{again}");
    assert_eq!(api.call("DELETE", &path, Some(&tenant.token), None).await.0, 200);
    chirpstack.world().is_away = false;
    assert_eq!(align_all(&api).await, 1);
    assert!(chirpstack.world().devices.is_empty());
}

#[tokio::test]
async fn what_goes_with_an_application_or_an_organisation_goes_from_chirpstack_too() {
    let (api, chirpstack, tenant, profile) = start().await;
    device_of(&api, &tenant, otaa(&tenant, &profile, EUI)).await;
    let path = format!("/application/{}", tenant.application);
    assert_eq!(api.call("DELETE", &path, Some(&api.admin), None).await.0, 200);
    assert!(align_all(&api).await >= 2);
    assert!(chirpstack.world().devices.is_empty() && chirpstack.world().applications.is_empty());
    let path = format!("/organization/{}", tenant.organization);
    assert_eq!(api.call("DELETE", &path, Some(&api.admin), None).await.0, 200);
    assert_eq!(align_all(&api).await, 1);
    assert!(chirpstack.world().profiles.is_empty());
    assert_eq!(num_tasks(&api).await, 0);
}

#[tokio::test]
async fn a_device_that_moves_moves_in_chirpstack_and_leaves_the_groups_of_its_application() {
    let (api, chirpstack, tenant, profile) = start().await;
    let id = device_of(&api, &tenant, otaa(&tenant, &profile, EUI)).await;
    let group = json!({"name": "valves", "applicationID": tenant.application, "mcAddr": "01020304", "mcNwkSKey": OTAA_KEY,
                       "mcAppSKey": OTAA_KEY, "fCnt": 0, "dr": 0, "frequency": 868_100_000, "groupType": "CLASS_C",
                       "iotDevices": [{"id": id}]});
    let (_, made) = post(&api, &tenant, "/multicast", group).await;
    let network_id = made["lorawanMulticastDefinition"]["chirpstackGroupId"].as_str().unwrap().to_owned();
    let body = json!({"name": "Second", "organizationId": tenant.organization});
    let second = api.made("/application", body).await["id"].clone();
    let before = chirpstack.world().devices[EUI].application_id.clone();
    let body = json!({"applicationId": second, "organizationId": tenant.organization, "deviceModelId": null,
                      "dataTargetToPayloadDecoderIds": []});
    let (status, moved) = api.put(&format!("/iot-device/changeApplication/{id}"), body).await;
    assert_eq!((status, &moved["application"]["id"]), (200, &second), "{moved}");
    let after = chirpstack.world().devices[EUI].application_id.clone();
    assert_ne!(after, before);
    assert_eq!(chirpstack.world().applications[&after].name, "os2iot-Second");
    assert_eq!(chirpstack.world().keys[EUI].nwk_key, OTAA_KEY);
    assert_eq!(align_all(&api).await, 1);
    assert!(chirpstack.world().groups[&network_id].devices.is_empty());
    let (_, group) = api.get(&format!("/multicast/{}", made["id"])).await;
    assert_eq!(group["iotDevices"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_changed_eui_leaves_nothing_behind() {
    let (api, chirpstack, tenant, profile) = start().await;
    let id = device_of(&api, &tenant, otaa(&tenant, &profile, EUI)).await;
    let new = "a81758fffe000009";
    let mut change = otaa(&tenant, &profile, new);
    change["id"] = id.clone();
    let (status, answer) = api.call("PUT", &format!("/iot-device/{id}"), Some(&tenant.token), Some(change)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(chirpstack.world().devices.keys().collect::<Vec<_>>(), [new]);
    assert_eq!(num_tasks(&api).await, 0);
}
