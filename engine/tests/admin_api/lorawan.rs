//! LoRaWAN with a ChirpStack behind it: gateways, profiles, devices, downlinks, multicast; and who may not.

use serde_json::{Value, json};

use crate::fixture::{Api, Tenant};
use crate::network_server::{FakeChirpstack, api};

pub const EUI: &str = "a81758fffe000001";
pub const OTAA_KEY: &str = "00112233445566778899aabbccddeeff";
const MASK: &str = "********";
const GATEWAY: &str = "0016c001f1500001";
pub const ROLES: [&str; 3] = ["OrganizationApplicationAdmin", "OrganizationGatewayAdmin", "Read"];

pub fn profile(name: &str) -> Value {
    json!({"name": name, "macVersion": 3, "regParamsRevision": 0, "adrAlgorithmID": "default", "classCTimeout": 0,
           "supportsClassB": false, "supportsClassC": false, "supportsJoin": true, "devStatusReqFreq": 1})
}

/// A profile of a tenant's, by its own application administrator.
pub async fn profile_of(api: &Api, tenant: &Tenant) -> String {
    let body = json!({"internalOrganizationId": tenant.organization, "deviceProfile": profile("Class A")});
    let (status, made) = api.call("POST", "/chirpstack/device-profiles", Some(&tenant.token), Some(body)).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

pub fn otaa(tenant: &Tenant, profile: &str, eui: &str) -> Value {
    json!({"name": "Meter", "type": "LORAWAN", "applicationId": tenant.application, "lorawanSettings": {
        "devEUI": eui, "deviceProfileID": profile, "isDisabled": false, "skipFCntCheck": true,
        "activationType": "OTAA", "OTAAapplicationKey": OTAA_KEY}})
}

fn abp(tenant: &Tenant, profile: &str, eui: &str) -> Value {
    json!({"name": "Valve", "type": "LORAWAN", "applicationId": tenant.application, "lorawanSettings": {
        "devEUI": eui, "deviceProfileID": profile, "activationType": "ABP", "devAddr": "01020304", "fCntUp": 0,
        "nFCntDown": 0, "networkSessionKey": OTAA_KEY, "applicationSessionKey": OTAA_KEY}})
}

pub async fn post(api: &Api, tenant: &Tenant, path: &str, body: Value) -> (u16, Value) {
    api.call("POST", path, Some(&tenant.token), Some(body)).await
}

/// A registered device's id.
pub async fn device_of(api: &Api, tenant: &Tenant, body: Value) -> Value {
    let (status, made) = post(api, tenant, "/iot-device", body).await;
    assert_eq!(status, 201, "{made}");
    made["id"].clone()
}

fn gateway(name: &str) -> Value {
    json!({"gatewayId": GATEWAY.to_uppercase(), "name": name, "description": "roof", "placement": "OUTDOORS",
           "location": {"latitude": 56.15, "longitude": 10.2, "altitude": 30}, "tagsString": "{\"owner\":\"town\"}"})
}

/// A user who may only read the tenant's application.
async fn reader_of(api: &Api, tenant: &Tenant) -> String {
    let group = json!({"levels": [{"type": "Read"}], "name": "readers", "organizationId": tenant.organization,
                       "userIds": [], "applicationIds": [tenant.application]});
    let group = api.made("/permission", group).await["id"].clone();
    let user = json!({"name": "Rita", "email": "rita@example.org", "password": "Sesame-11", "active": true,
                      "permissionIds": [group]});
    api.made("/user", user).await;
    api.log_in("rita@example.org", "Sesame-11").await
}

async fn start() -> (Api, FakeChirpstack, Tenant) {
    let (api, chirpstack) = Api::start_with_network().await;
    let tenant = api.tenant("Aarhus", &ROLES).await;
    (api, chirpstack, tenant)
}

#[tokio::test]
async fn without_a_network_server_lists_are_empty_writes_say_so_and_radio_devices_are_rows() {
    let api = Api::start().await;
    let tenant = api.tenant("Aarhus", &ROLES).await;
    let empty = json!({"resultList": [], "totalCount": 0});
    assert_eq!(api.get("/chirpstack/gateway?limit=10&offset=0").await, (200, empty.clone()));
    assert_eq!(api.get("/chirpstack/gateway/getAllForMaps").await, (200, empty));
    assert_eq!(api.get("/chirpstack/device-profiles").await, (200, json!({"result": [], "totalCount": "0"})));
    assert_eq!(api.get("/chirpstack/device-profiles/adr-algorithms").await, (200, json!({"adrAlgorithms": []})));
    let body = json!({"organizationId": tenant.organization, "gateway": gateway("gw-1")});
    let (status, answer) = post(&api, &tenant, "/chirpstack/gateway", body).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("No network server (ChirpStack) is configured")));
    let body = json!({"internalOrganizationId": tenant.organization, "deviceProfile": profile("A")});
    assert_eq!(post(&api, &tenant, "/chirpstack/device-profiles", body).await.0, 400);
    let device = device_of(&api, &tenant, otaa(&tenant, "00000000-0000-4000-8000-000000000000", EUI)).await;
    let (status, _) =
        post(&api, &tenant, &format!("/iot-device/{device}/downlink"), json!({"data": "01", "port": 1})).await;
    assert_eq!(status, 400);
    assert_eq!(api.get(&format!("/iot-device/stats/{device}")).await, (200, json!([])));
    assert_eq!(api.number("SELECT count(*) FROM network_server_task").await, 0);
}

#[tokio::test]
async fn a_gateway_stands_in_both_and_an_update_keeps_what_only_chirpstack_knows() {
    let (api, chirpstack, tenant) = start().await;
    let body = json!({"organizationId": tenant.organization, "gateway": gateway("gw-1")});
    assert_eq!(post(&api, &tenant, "/chirpstack/gateway", body.clone()).await, (201, json!({"success": true})));
    let (status, again) = post(&api, &tenant, "/chirpstack/gateway", body).await;
    assert_eq!((status, again["message"].as_str()), (400, Some("MESSAGE.ID-INVALID-OR-ALREADY-IN-USE")));
    {
        let mut world = chirpstack.world();
        let made = world.gateways.get_mut(GATEWAY).unwrap();
        assert_eq!((made.tags["owner"].as_str(), made.tags["internalOrganizationId"].as_str()), ("town", "1"));
        assert_eq!(made.location.unwrap().altitude, 30.0);
        (made.downlink_priority, made.stats_interval) = (7, 60);
    }
    let path = format!("/chirpstack/gateway/{GATEWAY}");
    let change = json!({"gateway": {"name": "gw-2", "description": "tower"}});
    assert_eq!(api.call("PUT", &path, Some(&tenant.token), Some(change)).await, (200, json!({"success": true})));
    {
        let world = chirpstack.world();
        let changed = &world.gateways[GATEWAY];
        assert_eq!((changed.name.as_str(), changed.description.as_str()), ("gw-2", "tower"));
        assert_eq!((changed.downlink_priority, changed.stats_interval), (7, 60), "read, changed, written");
    }
    let (status, shown) = api.get(&path).await;
    assert_eq!(status, 200);
    assert_eq!((&shown["gateway"]["name"], &shown["gateway"]["altitude"]), (&json!("gw-2"), &json!("30")));
    assert_eq!(shown["stats"].as_array().unwrap().len(), 3);
    assert_eq!(shown["stats"][2]["rxPacketsReceived"], 7);
    let with_id = json!({"gateway": gateway("gw-3")});
    let (status, answer) = api.put(&path, with_id).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("MESSAGE.GATEWAY-ID-NOT-ALLOWED-IN-UPDATE")));
    assert_eq!(api.get("/chirpstack/gateway/zz").await.1["message"], "MESSAGE.WRONG-LENGTH");
    assert_eq!(api.get("/chirpstack/gateway/zzzzzzzzzzzzzzzz").await.1["message"], "MESSAGE.NOT-VALID-FORMAT");
    assert_eq!(api.get("/chirpstack/gateway/0016c001f15000ff").await.0, 404);

    let organization = format!("/organization/{}", tenant.organization);
    let (status, answer) = api.call("DELETE", &organization, Some(&api.admin), None).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("MESSAGE.ORGANIZATION-GATEWAYS-EXISTS")));
    assert_eq!(api.call("DELETE", &path, Some(&tenant.token), None).await, (200, json!({"success": true})));
    assert!(chirpstack.world().gateways.is_empty());
    assert_eq!(api.number("SELECT count(*) FROM network_server_task").await, 0, "both agree");
    assert_eq!(api.number("SELECT count(*) FROM change_log WHERE entity = 'gateway'").await, 3);
}

#[tokio::test]
async fn gateways_are_ordered_by_an_allowed_column_and_by_nothing_else() {
    let (api, _chirpstack, tenant) = start().await;
    for (n, name) in ["b", "a", "c"].iter().enumerate() {
        let mut gateway = gateway(name);
        gateway["gatewayId"] = json!(format!("0016c001f150000{n}"));
        let body = json!({"organizationId": tenant.organization, "gateway": gateway});
        assert_eq!(post(&api, &tenant, "/chirpstack/gateway", body).await.0, 201);
    }
    let names = |body: &Value| -> Vec<String> {
        let rows = body["resultList"].as_array().unwrap();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, by_name) = api.get("/chirpstack/gateway?orderOn=name&sort=DESC&limit=2").await;
    assert_eq!((names(&by_name), &by_name["totalCount"]), (vec!["c".to_owned(), "b".to_owned()], &json!(3)));
    for order in ["name;DROP%20TABLE%20gateway", "alarm_mail", "g.id%20DESC"] {
        let (status, answer) = api.get(&format!("/chirpstack/gateway?orderOn={order}&limit=null")).await;
        assert_eq!((status, &answer["message"][0]["property"]), (400, &json!("orderOn")), "{order}");
    }
    for order in ["undefined", "alarmMail"] {
        let (status, by_id) = api.get(&format!("/chirpstack/gateway?orderOn={order}&limit=null")).await;
        assert_eq!((status, names(&by_id)), (200, vec!["b".to_owned(), "a".to_owned(), "c".to_owned()]));
    }
    let (_, map) = api.get("/chirpstack/gateway/getAllForMaps").await;
    assert_eq!(map["totalCount"], 3);
    let (_, found) = api.get("/search?q=0016C001F1500001&limit=10&offset=0").await;
    assert_eq!((&found["count"], &found["data"][0]["id"]), (&json!(1), &json!("0016c001f1500001")), "{found}");
    let other = api.tenant("Odense", &ROLES).await;
    let (_, found) = api.call("GET", "/search?q=0016c001f&limit=10&offset=0", Some(&other.token), None).await;
    assert_eq!(found["count"], 0, "another tenant's");
}

/// 9.2: gateways and their status, profiles and multicast of another tenant.
#[tokio::test]
async fn another_tenants_gateways_profiles_and_groups_are_neither_seen_nor_taken() {
    let (api, _chirpstack, own) = start().await;
    let other = api.tenant("Odense", &ROLES).await;
    let body = json!({"organizationId": own.organization, "gateway": gateway("gw-1")});
    assert_eq!(post(&api, &own, "/chirpstack/gateway", body.clone()).await.0, 201);
    assert_eq!(post(&api, &other, "/chirpstack/gateway", body).await.0, 403, "into another's organisation");
    let profile_id = profile_of(&api, &own).await;
    let as_other = |method: &'static str, path: String, body: Option<Value>| {
        let (api, token) = (&api, &other.token);
        async move { api.call(method, &path, Some(token), body).await }
    };
    let path = format!("/chirpstack/gateway/{GATEWAY}");
    assert_eq!(as_other("GET", "/chirpstack/gateway".into(), None).await.1["totalCount"], 0);
    assert_eq!(as_other("GET", "/chirpstack/gateway/getAllForMaps".into(), None).await.1["totalCount"], 0);
    assert_eq!(as_other("GET", path.clone(), None).await.0, 403);
    let of_own = format!("/chirpstack/gateway?organizationId={}", own.organization);
    assert_eq!(as_other("GET", of_own, None).await, (200, json!({"resultList": [], "totalCount": 0})));
    let change = Some(json!({"gateway": {"name": "mine"}}));
    assert_eq!(as_other("PUT", path.clone(), change).await.0, 403);
    assert_eq!(as_other("DELETE", path, None).await.0, 403);
    assert_eq!(as_other("GET", format!("/lorawan/gateway/status/{GATEWAY}"), None).await.0, 403);
    assert_eq!(as_other("GET", "/lorawan/gateway/status".into(), None).await.1["count"], 0);
    // Stealing a gateway: the target is one's own, the source is not.
    let id = api.get("/chirpstack/gateway").await.1["resultList"][0]["id"].clone();
    let take = format!("/chirpstack/gateway/updateGatewayOrganization/{id}");
    let body = Some(json!({"organizationId": other.organization}));
    assert_eq!(as_other("PUT", take.clone(), body.clone()).await.0, 403);
    // Giving one away: the source is one's own, the target is not.
    assert_eq!(api.call("PUT", &take, Some(&own.token), body.clone()).await.0, 403);
    let (status, moved) = api.call("PUT", &take, Some(&api.admin), body).await;
    assert_eq!((status, &moved["organizationId"]), (200, &other.organization));

    let profile_path = format!("/chirpstack/device-profiles/{profile_id}");
    assert_eq!(as_other("GET", "/chirpstack/device-profiles".into(), None).await.1["totalCount"], "0");
    assert_eq!(as_other("GET", profile_path.clone(), None).await.0, 404);
    let mut stolen = profile("Mine now");
    stolen["internalOrganizationId"] = other.organization.clone();
    let body = Some(json!({"deviceProfile": stolen}));
    assert_eq!(as_other("PUT", profile_path.clone(), body.clone()).await.0, 404);
    assert_eq!(as_other("DELETE", profile_path.clone(), None).await.0, 404);
    assert_eq!(api.call("PUT", &profile_path, Some(&own.token), body).await.0, 403, "given away");
    let (status, answer) = post(&api, &other, "/iot-device", otaa(&other, &profile_id, EUI)).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("MESSAGE.ID-DOES-NOT-EXIST")), "another's profile");

    let device = device_of(&api, &own, abp(&own, &profile_id, EUI)).await;
    let group = |tenant: &Tenant, devices: Value| {
        json!({"name": "valves", "applicationID": tenant.application, "mcAddr": "01020304", "mcNwkSKey": OTAA_KEY,
               "mcAppSKey": OTAA_KEY, "fCnt": 0, "dr": 0, "frequency": 868_100_000, "groupType": "CLASS_C",
               "iotDevices": devices})
    };
    // A client's own word that the device is in his application.
    let injected = json!([{"id": device, "application": {"id": other.application}, "type": "LORAWAN"}]);
    let (status, answer) = post(&api, &other, "/multicast", group(&other, injected.clone())).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("MESSAGE.POST-FAILED")));
    assert_eq!(post(&api, &other, "/multicast", group(&own, json!([]))).await.0, 403);
    let (status, made) = post(&api, &own, "/multicast", group(&own, injected)).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/multicast/{}", made["id"]);
    assert_eq!(as_other("GET", path.clone(), None).await.0, 404);
    assert_eq!(as_other("PUT", path.clone(), Some(json!({"id": made["id"], "name": "x"}))).await.0, 403);
    assert_eq!(as_other("DELETE", path.clone(), None).await.0, 403);
    assert_eq!(
        as_other("POST", format!("{path}/downlink-multicast"), Some(json!({"data": "01", "port": 1}))).await.0,
        403
    );
    assert_eq!(as_other("GET", "/multicast".into(), None).await.1["count"], 0);
    let of_own = format!("/multicast?applicationId={}", own.application);
    assert_eq!(as_other("GET", of_own, None).await.0, 401);
    for path in ["downlink", "historicalDownlink"] {
        assert_eq!(as_other("GET", format!("/iot-device/{device}/{path}"), None).await.0, 403);
    }
    let downlink = Some(json!({"data": "01", "port": 1}));
    assert_eq!(as_other("POST", format!("/iot-device/{device}/downlink"), downlink).await.0, 403);
    assert_eq!(as_other("POST", format!("/iot-device/{device}/flushDownlinkQueue"), None).await.0, 403);
}

#[tokio::test]
async fn profiles_have_distinct_names_stay_while_they_are_used_and_are_listed_without_asking_for_each() {
    let (api, chirpstack, tenant) = start().await;
    let id = profile_of(&api, &tenant).await;
    let again = json!({"internalOrganizationId": tenant.organization, "deviceProfile": profile("CLASS a")});
    let (status, answer) = post(&api, &tenant, "/chirpstack/device-profiles", again).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("MESSAGE.NAME-INVALID-OR-ALREADY-IN-USE")));
    let abp_only = json!({"internalOrganizationId": tenant.organization, "deviceProfile": {"name": "ABP", "macVersion": 3,
                          "regParamsRevision": 0, "supportsJoin": false}});
    let (status, answer) = post(&api, &tenant, "/chirpstack/device-profiles", abp_only).await;
    assert_eq!(status, 400);
    let named: Vec<&str> = answer["message"][0]["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| child["property"].as_str().unwrap())
        .collect();
    let needed = ["adrAlgorithmID", "classCTimeout", "rxDROffset1", "rxDataRate2", "rxDelay1", "rxFreq2"];
    assert_eq!(named, needed, "in the reference's order");

    let path = format!("/chirpstack/device-profiles/{id}");
    let (status, shown) = api.get(&path).await;
    assert_eq!((status, &shown["deviceProfile"]["macVersion"]), (200, &json!(3)));
    assert_eq!(
        (&shown["deviceProfile"]["rfRegion"], &shown["deviceProfile"]["tagsMap"]),
        (&json!("EU868"), &json!([]))
    );
    chirpstack.world().profiles.get_mut(&id).unwrap().payload_codec_script = "function decodeUplink() {}".into();
    let change = json!({"deviceProfile": profile("Class A, slow")});
    let (status, body) = api.call("PUT", &path, Some(&tenant.token), Some(change)).await;
    assert_eq!((status, body), (204, json!("")));
    {
        let world = chirpstack.world();
        assert_eq!(world.profiles[&id].name, "Class A, slow");
        assert!(!world.profiles[&id].payload_codec_script.is_empty(), "what the API does not have stays");
        assert_eq!(world.profiles[&id].tags["internalOrganizationId"], tenant.organization.to_string());
    }
    device_of(&api, &tenant, otaa(&tenant, &id, EUI)).await;
    let (status, answer) = api.call("DELETE", &path, Some(&tenant.token), None).await;
    assert_eq!((status, answer["message"].as_str()), (409, Some("MESSAGE.DELETE-NOT-ALLOWED-HAS-LORAWAN-DEVICE")));
    let num_before = chirpstack.world().calls.len();
    let (_, list) = api.get("/chirpstack/device-profiles?limit=10&offset=0").await;
    assert_eq!((&list["totalCount"], &list["result"][0]["name"]), (&json!("1"), &json!("Class A, slow")));
    assert_eq!(chirpstack.world().calls.len(), num_before, "a list asks nobody");
}

#[tokio::test]
async fn a_device_is_registered_with_its_key_shown_as_chirpstack_knows_it_and_deleted() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let id = device_of(&api, &tenant, otaa(&tenant, &profile_id, "A81758FFFE000001")).await;
    {
        let world = chirpstack.world();
        let device = &world.devices[EUI];
        assert_eq!((device.device_profile_id.as_str(), device.skip_fcnt_check), (profile_id.as_str(), true));
        assert_eq!(world.applications[&device.application_id].name, "os2iot-Aarhus app");
        assert_eq!((world.keys[EUI].nwk_key.as_str(), world.keys[EUI].app_key.as_str()), (OTAA_KEY, OTAA_KEY));
    }
    let status = api::DeviceStatus { margin: 9, external_power_source: false, battery_level: 78.5 };
    {
        let mut world = chirpstack.world();
        world.statuses.insert(EUI.to_owned(), status);
        world.devices.get_mut(EUI).unwrap().is_disabled = true;
    }
    let path = format!("/iot-device/{id}");
    let (_, shown) = api.get(&path).await;
    let settings = &shown["lorawanSettings"];
    assert_eq!((&settings["isDisabled"], &settings["deviceStatusBattery"]), (&json!(true), &json!(78.5)));
    assert_eq!((&settings["deviceStatusMargin"], &settings["OTAAapplicationKey"]), (&json!(9), &json!(OTAA_KEY)));
    let reveals = "SELECT count(*) FROM change_log WHERE action = 'REVEAL' AND entity = 'device'";
    assert_eq!(api.number(reveals).await, 1, "whoever may change it sees the key, and that is noted");
    let reader = reader_of(&api, &tenant).await;
    let (_, shown_to_reader) = api.call("GET", &path, Some(&reader), None).await;
    assert_eq!(shown_to_reader["lorawanSettings"]["OTAAapplicationKey"], MASK);
    assert_eq!(shown_to_reader["OTAAapplicationKey"], MASK);
    assert_eq!((&shown["deviceProfileName"], &shown["deviceEUI"]), (&json!("Class A"), &json!("A81758FFFE000001")));
    assert!(shown["chirpstackApplicationId"].is_string());
    chirpstack.world().is_away = true;
    let (status, shown) = api.get(&path).await;
    assert_eq!((status, &shown["lorawanSettings"]["isDisabled"]), (200, &json!(false)), "as the row says");
    chirpstack.world().is_away = false;

    // The form comes back with the mask: the key stays.
    let mut change = otaa(&tenant, &profile_id, EUI);
    (change["id"], change["name"]) = (id.clone(), json!("Meter 2"));
    change["lorawanSettings"]["OTAAapplicationKey"] = json!(MASK);
    assert_eq!(api.call("PUT", &path, Some(&tenant.token), Some(change)).await.0, 200);
    {
        let world = chirpstack.world();
        assert_eq!((world.devices[EUI].name.as_str(), world.keys[EUI].nwk_key.as_str()), ("Meter 2", OTAA_KEY));
    }
    let leak = format!(
        "SELECT count(*) FROM change_log WHERE COALESCE(before::text, '') || COALESCE(after::text, '') LIKE '%{OTAA_KEY}%'"
    );
    assert_eq!(api.number(&leak).await, 0, "no key is in the change log");
    assert_eq!(api.call("DELETE", &path, Some(&tenant.token), None).await, (200, json!({"affected": 1})));
    assert!(chirpstack.world().devices.is_empty());
    assert_eq!(api.number("SELECT count(*) FROM network_server_task").await, 0);
}

#[tokio::test]
async fn a_session_is_set_once_and_not_again_by_a_form_that_comes_back() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let id = device_of(&api, &tenant, abp(&tenant, &profile_id, EUI)).await;
    assert_eq!(chirpstack.num_calls("DeviceService/activate"), 1);
    {
        let mut world = chirpstack.world();
        let session = world.sessions.get_mut(EUI).unwrap();
        assert_eq!((session.dev_addr.as_str(), session.s_nwk_s_int_key.as_str()), ("01020304", OTAA_KEY));
        (session.f_cnt_up, session.n_f_cnt_down) = (1000, 20);
    }
    let path = format!("/iot-device/{id}");
    let (_, shown) = api.get(&path).await;
    assert_eq!(shown["lorawanSettings"]["fCntUp"], 1000);
    let mut change = abp(&tenant, &profile_id, EUI);
    change["id"] = id;
    change["lorawanSettings"]["fCntUp"] = json!(998);
    change["lorawanSettings"]["nFCntDown"] = json!(20);
    for name in ["networkSessionKey", "applicationSessionKey"] {
        assert_eq!(shown["lorawanSettings"][name], OTAA_KEY);
        change["lorawanSettings"][name] = json!(MASK);
    }
    assert_eq!(api.call("PUT", &path, Some(&tenant.token), Some(change.clone())).await.0, 200);
    assert_eq!(chirpstack.world().sessions[EUI].f_cnt_up, 1000, "counters run on");
    change["lorawanSettings"]["fCntUp"] = json!(0);
    assert_eq!(api.call("PUT", &path, Some(&tenant.token), Some(change)).await.0, 200);
    assert_eq!(chirpstack.world().sessions[EUI].f_cnt_up, 0, "a reset is a reset");
}

#[tokio::test]
async fn an_eui_is_registered_once_whoever_has_it() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let other = api.tenant("Odense", &ROLES).await;
    let other_profile = profile_of(&api, &other).await;
    device_of(&api, &tenant, otaa(&tenant, &profile_id, EUI)).await;
    let in_use =
        |answer: (u16, Value)| assert_eq!(answer, (400, json!({"message": "MESSAGE.ID-INVALID-OR-ALREADY-IN-USE"})));
    in_use(post(&api, &tenant, "/iot-device", otaa(&tenant, &profile_id, &EUI.to_uppercase())).await);
    in_use(post(&api, &other, "/iot-device", otaa(&other, &other_profile, EUI)).await);
    assert_eq!(chirpstack.world().devices[EUI].device_profile_id, profile_id, "nothing of it was changed");
    // One that somebody made in ChirpStack, in an application that is none of ours.
    let foreign = "a81758fffe0000ff";
    chirpstack.world().devices.insert(foreign.into(), api::Device { dev_eui: foreign.into(), ..Default::default() });
    in_use(post(&api, &tenant, "/iot-device", otaa(&tenant, &profile_id, foreign)).await);
    assert!(chirpstack.world().devices.contains_key(foreign), "and it is still there");
    assert_eq!(api.number("SELECT count(*) FROM network_server_task").await, 0);
    // One in the application's own.
    let application = chirpstack.world().devices[EUI].application_id.clone();
    let adopted = "a81758fffe0000fe";
    let made = api::Device { dev_eui: adopted.into(), application_id: application, ..Default::default() };
    chirpstack.world().devices.insert(adopted.into(), made);
    device_of(&api, &tenant, otaa(&tenant, &profile_id, adopted)).await;
    assert_eq!(chirpstack.world().devices[adopted].device_profile_id, profile_id);
}

#[tokio::test]
async fn a_batch_says_beside_each_device_what_is_wrong_with_it() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let http = json!({"name": "Room", "type": "GENERIC_HTTP", "applicationId": tenant.application});
    let data = json!([
        otaa(&tenant, &profile_id, EUI),
        otaa(&tenant, &profile_id, EUI),
        otaa(&tenant, "00000000-0000-4000-8000-000000000000", "a81758fffe000002"),
        http,
    ]);
    let (status, results) = post(&api, &tenant, "/iot-device/createMany", json!({"data": data})).await;
    assert_eq!(status, 201, "{results}");
    assert!(results[0]["data"]["id"].is_number() && results[3]["data"]["apiKey"].is_string());
    assert_eq!(results[1]["error"]["message"], "MESSAGE.ID-INVALID-OR-ALREADY-IN-USE");
    assert_eq!(results[2]["error"]["message"], "MESSAGE.ID-DOES-NOT-EXIST");
    chirpstack.world().is_away = true;
    let data = json!([otaa(&tenant, &profile_id, "a81758fffe000003"), http]);
    let (status, results) = post(&api, &tenant, "/iot-device/createMany", json!({"data": data})).await;
    assert_eq!(status, 201, "{results}");
    assert!(results[0]["error"]["message"].as_str().unwrap().contains("does not answer"));
    assert!(results[1]["data"]["id"].is_number(), "HTTP devices need no network server");
}

#[tokio::test]
async fn a_downlink_is_queued_listed_and_flushed() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let id = device_of(&api, &tenant, otaa(&tenant, &profile_id, EUI)).await;
    let path = format!("/iot-device/{id}/downlink");
    let body = json!({"data": "0102FF", "port": 5, "confirmedDownlink": true});
    assert_eq!(post(&api, &tenant, &path, body).await, (201, json!("")));
    {
        let world = chirpstack.world();
        let item = &world.queues[EUI][0];
        assert_eq!((item.f_port, item.confirmed, item.data.as_slice()), (5, true, &[1, 2, 255][..]));
    }
    let (_, waiting) = api.get(&path).await;
    assert_eq!((&waiting[0]["payload"], &waiting[0]["sendAt"]), (&json!("0102ff"), &Value::Null));
    for bad in [json!({"data": "xyz", "port": 5}), json!({"data": "01"}), json!({"data": "01", "port": 0}), json!({})] {
        assert_eq!(post(&api, &tenant, &path, bad).await.0, 400);
    }
    let flush = format!("/iot-device/{id}/flushDownlinkQueue");
    assert_eq!(post(&api, &tenant, &flush, json!({})).await, (201, json!("")));
    assert!(!chirpstack.world().queues.contains_key(EUI));
    assert_eq!(api.get(&path).await, (200, json!([])));
    assert_eq!(api.number("SELECT count(*) FROM change_log WHERE entity = 'downlink'").await, 2);
    chirpstack.world().is_away = true;
    let (status, answer) = post(&api, &tenant, &path, json!({"data": "01", "port": 1})).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(api.get(&path).await, (200, json!([])), "nothing is shown as queued");
    let http = json!({"name": "Room", "type": "GENERIC_HTTP", "applicationId": tenant.application});
    let http = device_of(&api, &tenant, http).await;
    let (status, answer) = post(&api, &tenant, &format!("/iot-device/{http}/downlink"), json!({"data": "01"})).await;
    assert_eq!((status, answer["message"].as_str()), (400, Some("MESSAGE.DOWNLINK-NOT-SUPPORTED-FOR-DEVICE-TYPE")));
}

#[tokio::test]
async fn link_figures_come_by_day() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let id = device_of(&api, &tenant, otaa(&tenant, &profile_id, EUI)).await;
    let (status, days) = api.get(&format!("/iot-device/stats/{id}")).await;
    assert_eq!((status, days.as_array().unwrap().len()), (200, 3));
    assert_eq!((&days[0]["rxPacketsPerDr"], &days[1]["rxPacketsPerDr"]), (&json!({}), &json!({"5": 3.0})));
    assert_eq!((&days[1]["rssi"], &days[1]["snr"]), (&json!(-97.0), &json!(7.5)));
    assert!(days[0]["timestamp"].as_str().unwrap().ends_with("T00:00:00.000Z"));
    chirpstack.world().is_away = true;
    assert_eq!(api.get(&format!("/iot-device/stats/{id}")).await, (200, json!([])));
}

#[tokio::test]
async fn a_multicast_group_follows_its_devices_and_sends_one_message_at_a_time() {
    let (api, chirpstack, tenant) = start().await;
    let profile_id = profile_of(&api, &tenant).await;
    let first = device_of(&api, &tenant, abp(&tenant, &profile_id, EUI)).await;
    let second = device_of(&api, &tenant, otaa(&tenant, &profile_id, "a81758fffe000002")).await;
    let group = |devices: Value| {
        json!({"name": "valves", "applicationID": tenant.application, "mcAddr": "01020304", "mcNwkSKey": OTAA_KEY,
               "mcAppSKey": OTAA_KEY, "fCnt": 0, "dr": 0, "frequency": 868_100_000, "groupType": "CLASS_C",
               "iotDevices": devices})
    };
    let (status, made) = post(&api, &tenant, "/multicast", group(json!([]))).await;
    assert_eq!((status, &made["lorawanMulticastDefinition"]["chirpstackGroupId"]), (201, &Value::Null));
    let path = format!("/multicast/{}", made["id"]);
    let queue = format!("{path}/downlink-multicast");
    let downlink = || json!({"data": "00ff", "port": 2});
    assert_eq!(post(&api, &tenant, &queue, downlink()).await.0, 400, "nobody is in it");
    assert_eq!(api.get(&queue).await.0, 404);
    let mut change = group(json!([{"id": first}, {"id": second}]));
    (change["id"], change["mcNwkSKey"]) = (made["id"].clone(), json!(MASK));
    let (status, changed) = api.call("PUT", &path, Some(&tenant.token), Some(change.clone())).await;
    assert_eq!(status, 200, "{changed}");
    let network_id = changed["lorawanMulticastDefinition"]["chirpstackGroupId"].as_str().unwrap().to_owned();
    assert_eq!(changed["lorawanMulticastDefinition"]["networkSessionKey"], OTAA_KEY);
    let reader = reader_of(&api, &tenant).await;
    let (status, shown) = api.call("GET", &path, Some(&reader), None).await;
    assert_eq!((status, &shown["lorawanMulticastDefinition"]["networkSessionKey"]), (200, &json!(MASK)));
    {
        let world = chirpstack.world();
        let group = &world.groups[&network_id];
        assert_eq!((group.devices.len(), group.group.mc_nwk_s_key.as_str()), (2, OTAA_KEY));
    }
    assert_eq!(post(&api, &tenant, &queue, downlink()).await, (201, json!({"fCnt": 0})));
    assert_eq!(post(&api, &tenant, &queue, downlink()).await, (201, json!({"fCnt": 1})));
    let (_, waiting) = api.get(&queue).await;
    let expected = json!([{"multicastGroupId": network_id, "fCnt": 1, "fPort": 2, "data": "AP8="}]);
    assert_eq!(waiting["deviceQueueItems"], expected);
    change["iotDevices"] = json!([{"id": second}]);
    assert_eq!(api.call("PUT", &path, Some(&tenant.token), Some(change)).await.0, 200);
    {
        let world = chirpstack.world();
        assert_eq!(world.groups[&network_id].devices.len(), 1);
        assert_eq!(world.groups[&network_id].group.f_cnt, 2, "an old form does not turn the counter back");
    }
    let (_, list) = api.get(&format!("/multicast?applicationId={}&orderOn=groupName", tenant.application)).await;
    assert_eq!((&list["count"], &list["data"][0]["groupName"]), (&json!(1), &json!("valves")));
    assert_eq!(list["data"][0]["lorawanMulticastDefinition"]["networkSessionKey"], MASK);
    let leak = format!(
        "SELECT count(*) FROM change_log WHERE COALESCE(before::text, '') || COALESCE(after::text, '') LIKE '%{OTAA_KEY}%'"
    );
    assert_eq!(api.number(&leak).await, 0, "no key is in the change log");
    assert_eq!(api.call("DELETE", &path, Some(&tenant.token), None).await, (200, json!({"affected": 1})));
    assert!(chirpstack.world().groups.is_empty());
    assert_eq!(api.number("SELECT count(*) FROM network_server_task").await, 0);
}
