//! Devices as the API shows them. Pure: rows in, JSON out.
//!
//! Secrets are shown to whoever may change the device, in answers about that one device: he has to give them to it. Readers, and
//! lists, see a mask; whoever answers with a secret in clear notes it in the change log.

use serde_json::{Map, Value, json};
use sluse_schema::device::Transmission;
use sluse_schema::port::admin::device::{DeviceRow, DeviceType, LatestMessage, StoredState};

use super::mask::Secrets;
use super::view::{base, instant, location, with_authors};

/// Names of secrets, by the type of device that has them.
pub const OTAA_KEY: &str = "OTAAapplicationKey";
pub const NETWORK_SESSION_KEY: &str = "networkSessionKey";
pub const APPLICATION_SESSION_KEY: &str = "applicationSessionKey";
pub const MQTT_PASSWORD: &str = "mqttpassword";
/// What the broker compares a password with.
pub const MQTT_PASSWORD_HASH: &str = "mqttpasswordhash";
pub const MQTT_KEY: &str = "deviceCertificateKey";
pub const SIGFOX_PAC: &str = "pac";

/// The device alone, as it stands in connections and lists.
pub fn device(row: &DeviceRow) -> Value {
    base(row.id.0, &row.stamps, Value::Object(fields(row, Secrets::Masked)))
}

/// The device with who made and changed it, as answers about one device have it.
pub fn device_with_authors(row: &DeviceRow, secrets: Secrets) -> Value {
    with_authors(base(row.id.0, &row.stamps, Value::Object(fields(row, secrets))), &row.stamps)
}

/// Whether there is anything that [`Secrets::Clear`] would show.
pub fn has_secrets(row: &DeviceRow) -> bool {
    row.fields.api_key.is_some() || !row.fields.secrets.is_empty()
}

fn fields(row: &DeviceRow, secrets: Secrets) -> Map<String, Value> {
    let fields = &row.fields;
    let mut shown = Map::new();
    shown.insert("name".into(), json!(fields.name));
    shown.insert("type".into(), json!(fields.kind.as_str()));
    shown.insert("location".into(), location(fields.longitude, fields.latitude));
    shown.insert("commentOnLocation".into(), json!(fields.comment_on_location));
    shown.insert("comment".into(), json!(fields.comment));
    shown.insert("metadata".into(), json!(fields.metadata));
    let setting = |name: &str| fields.settings.get(name).cloned().unwrap_or(Value::Null);
    let secret = |name: &str| secrets.shown(fields.secrets.get(name));
    match fields.kind {
        DeviceType::GenericHttp => {
            shown.insert("apiKey".into(), secrets.shown(fields.api_key.as_ref()));
        }
        DeviceType::Lorawan => {
            // As it was typed, as the reference has it; look-ups go by the row's own column.
            let typed = fields.settings.get("deviceEUI").cloned();
            let eui = typed.unwrap_or_else(|| json!(fields.dev_eui.map(|eui| eui.to_string())));
            shown.insert("deviceEUI".into(), eui);
            shown.insert(OTAA_KEY.into(), secret(OTAA_KEY));
            shown.insert("deviceProfileName".into(), setting("deviceProfileName"));
            shown.insert("chirpstackApplicationId".into(), setting("chirpstackApplicationId"));
        }
        DeviceType::Sigfox => {
            for name in ["deviceId", "deviceTypeId", "groupId", "downlinkPayload"] {
                shown.insert(name.into(), setting(name));
            }
        }
        DeviceType::MqttInternalBroker | DeviceType::MqttExternalBroker => {
            for name in MQTT_SETTINGS {
                shown.insert(name.into(), setting(name));
            }
            shown.insert(MQTT_PASSWORD.into(), secret(MQTT_PASSWORD));
            shown.insert(MQTT_KEY.into(), secret(MQTT_KEY));
            if fields.kind == DeviceType::MqttInternalBroker {
                shown.insert("permissions".into(), setting("permissions"));
                shown.insert(MQTT_PASSWORD_HASH.into(), secret(MQTT_PASSWORD_HASH));
            } else {
                shown.insert("invalidMqttConfig".into(), json!(setting("invalidMqttConfig") == true));
            }
        }
    }
    shown
}

const MQTT_SETTINGS: [&str; 7] = [
    "authenticationType",
    "caCertificate",
    "deviceCertificate",
    "mqttusername",
    "mqttURL",
    "mqttPort",
    "mqtttopicname",
];

/// The settings object of the device's type, as `GET /iot-device/:id` nests it.
pub fn settings(row: &DeviceRow, secrets: Secrets) -> Option<(&'static str, Value)> {
    let fields = &row.fields;
    let setting = |name: &str| fields.settings.get(name).cloned().unwrap_or(Value::Null);
    let secret = |name: &str| secrets.shown(fields.secrets.get(name));
    let (name, nested) = match fields.kind {
        DeviceType::GenericHttp => return None,
        DeviceType::Lorawan => {
            let mut nested = setting("lorawanSettings");
            if !nested.is_object() {
                nested = json!({"devEUI": fields.dev_eui.map(|eui| eui.to_string())});
            }
            match nested["activationType"].as_str() {
                Some("OTAA") => nested[OTAA_KEY] = secret(OTAA_KEY),
                Some("ABP") => {
                    nested[NETWORK_SESSION_KEY] = secret(NETWORK_SESSION_KEY);
                    nested[APPLICATION_SESSION_KEY] = secret(APPLICATION_SESSION_KEY);
                }
                _ => {}
            }
            ("lorawanSettings", nested)
        }
        DeviceType::Sigfox => (
            "sigfoxSettings",
            json!({
                "deviceId": setting("deviceId"),
                "deviceTypeId": setting("deviceTypeId"),
                "deviceTypeName": setting("deviceTypeName"),
                // The group's row here, by which the client chooses it; beside it in the device stands its id at Sigfox.
                "groupId": setting("sigfoxGroupId"),
                "groupName": setting("groupName"),
                "connectToExistingDeviceInBackend": true,
                "endProductCertificate": setting("endProductCertificate"),
                "prototype": setting("prototype") == true,
                SIGFOX_PAC: secret(SIGFOX_PAC),
            }),
        ),
        DeviceType::MqttInternalBroker | DeviceType::MqttExternalBroker => {
            let mut nested = Map::new();
            for name in MQTT_SETTINGS {
                nested.insert(name.into(), setting(name));
            }
            nested.insert(MQTT_PASSWORD.into(), secret(MQTT_PASSWORD));
            nested.insert(MQTT_KEY.into(), secret(MQTT_KEY));
            let is_internal = fields.kind == DeviceType::MqttInternalBroker;
            (
                if is_internal { "mqttInternalBrokerSettings" } else { "mqttExternalBrokerSettings" },
                Value::Object(nested),
            )
        }
    };
    Some((name, nested))
}

/// A payload as JSON, or as text where it is none.
pub fn raw_data(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(payload).into_owned()))
}

/// The newest message; `rawData` is the payload as JSON, or as text where it is none.
pub fn latest_message(id: i64, latest: &LatestMessage) -> Value {
    let raw = latest.payload.as_ref().map(|payload| raw_data(payload));
    json!({
        "id": id,
        "createdAt": instant(latest.created_at),
        "updatedAt": instant(latest.updated_at),
        "rawData": raw,
        "sentTime": instant(latest.sent_at),
        "rssi": latest.rssi_dbm,
        "snr": latest.snr_db,
        "receivedTime": instant(latest.received_at),
    })
}

/// The window of transmissions, newest first. Signal figures are there for radio devices alone.
pub fn transmissions(window: &[Transmission]) -> Vec<Value> {
    window
        .iter()
        .rev()
        .map(|t| {
            let at = chrono::DateTime::from_timestamp_millis(t.event_at_ms).unwrap_or_default();
            let is_radio = t.rssi_dbm.is_some() || t.snr_db.is_some() || t.f_cnt.is_some();
            let signal = is_radio.then(|| {
                json!({
                    "rssi": t.rssi_dbm,
                    "snr": t.snr_db,
                    "numGateways": t.num_gateways,
                    "dr": t.dr,
                    "fCnt": t.f_cnt,
                    "fCntGap": t.f_cnt_gap,
                })
            });
            json!({
                "id": t.offset,
                "createdAt": instant(at),
                "updatedAt": instant(at),
                "sentTime": instant(at),
                "signalData": signal,
            })
        })
        .collect()
}

/// What Sluse adds to a device: what the network server told of its link, and counters.
pub fn link_and_counters(state: &StoredState) -> (Value, Value) {
    let link = serde_json::to_value(&state.link).unwrap_or(Value::Null);
    let counters = json!({
        "numUplinks": state.counters.num_uplinks,
        "numRepeats": state.counters.num_repeats,
        "numDecodeFailures": state.counters.num_decode_failures,
        "numFCntMissing": state.counters.num_f_cnt_missing,
        "asOf": instant(state.updated_at),
    });
    (link, counters)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use chrono::DateTime;
    use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId};
    use sluse_schema::port::admin::Stamps;
    use sluse_schema::port::admin::device::DeviceFields;
    use sluse_schema::secret::Secret;

    use super::*;
    use crate::admin::mask::MASK;

    fn row(kind: DeviceType) -> DeviceRow {
        let at = DateTime::from_timestamp_millis(1_780_000_000_123).unwrap();
        DeviceRow {
            id: DeviceId(2),
            organization: OrganizationId(1),
            fields: DeviceFields {
                application: ApplicationId(1),
                device_model: None,
                kind,
                name: "Room 1".into(),
                longitude: Some(10.2),
                latitude: Some(56.1),
                comment_on_location: None,
                comment: None,
                metadata: None,
                dev_eui: None,
                api_key: None,
                settings: Map::new(),
                secrets: BTreeMap::new(),
            },
            stamps: Stamps { created_at: at, updated_at: at, created_by: Some(1), updated_by: Some(1) },
        }
    }

    #[test]
    fn the_api_key_is_shown_in_clear_when_asked_for_and_never_in_lists() {
        let mut http = row(DeviceType::GenericHttp);
        http.fields.api_key = Some(Secret::new("9644525c-a22d-4fb9-b247-75fab5d42bf7"));
        assert_eq!(device_with_authors(&http, Secrets::Clear)["apiKey"], "9644525c-a22d-4fb9-b247-75fab5d42bf7");
        assert_eq!(device_with_authors(&http, Secrets::Masked)["apiKey"], MASK);
        assert_eq!(device(&http)["apiKey"], MASK);
        assert!(has_secrets(&http) && !has_secrets(&row(DeviceType::GenericHttp)));
    }

    #[test]
    fn keys_of_radio_and_mqtt_devices_are_masked_unless_asked_for() {
        let mut lora = row(DeviceType::Lorawan);
        lora.fields.dev_eui = Some("a81758fffe000001".parse().unwrap());
        lora.fields.settings.insert("deviceEUI".into(), json!("A81758FFFE000001"));
        let nested = json!({"activationType": "OTAA", "devEUI": "a81758fffe000001"});
        lora.fields.settings.insert("lorawanSettings".into(), nested);
        lora.fields.secrets.insert(OTAA_KEY.into(), Secret::new("00112233445566778899aabbccddeeff"));
        let shown = device(&lora);
        assert_eq!((&shown["deviceEUI"], &shown[OTAA_KEY]), (&json!("A81758FFFE000001"), &json!(MASK)));
        let (name, nested) = settings(&lora, Secrets::Masked).unwrap();
        assert_eq!(name, "lorawanSettings");
        assert_eq!((&nested["devEUI"], &nested[OTAA_KEY]), (&json!("a81758fffe000001"), &json!(MASK)));

        let mut mqtt = row(DeviceType::MqttExternalBroker);
        mqtt.fields.secrets.insert(MQTT_PASSWORD.into(), Secret::new("p"));
        let text = format!("{:?}{:?}", device(&mqtt), settings(&mqtt, Secrets::Masked));
        assert!(!text.contains("\"p\""), "{text}");
        assert_eq!(device(&mqtt)["invalidMqttConfig"], false);
        assert_eq!(settings(&mqtt, Secrets::Clear).unwrap().1[MQTT_PASSWORD], "p");
    }

    #[test]
    fn transmissions_come_newest_first_and_have_signal_figures_only_when_there_was_a_radio() {
        let at = |ms, rssi_dbm| Transmission {
            event_at_ms: ms,
            offset: 1,
            rssi_dbm,
            snr_db: None,
            num_gateways: 2,
            dr: Some(5),
            f_cnt: None,
            f_cnt_gap: 0,
        };
        let shown = transmissions(&[at(1000, None), at(2000, Some(-90))]);
        assert_eq!(shown[0]["sentTime"], "1970-01-01T00:00:02.000Z");
        assert_eq!(shown[0]["signalData"]["rssi"], -90);
        assert_eq!(shown[1]["signalData"], Value::Null);
    }

    #[test]
    fn a_payload_that_is_no_json_is_shown_as_text() {
        let at = DateTime::from_timestamp_millis(0).unwrap();
        let message = |payload: &'static [u8]| LatestMessage {
            payload: Some(Bytes::from_static(payload)),
            sent_at: at,
            received_at: at,
            rssi_dbm: None,
            snr_db: None,
            created_at: at,
            updated_at: at,
        };
        assert_eq!(latest_message(1, &message(b"{\"raw\":213}"))["rawData"], json!({"raw": 213}));
        assert_eq!(latest_message(1, &message(b"{\xff"))["rawData"], json!("{\u{fffd}"));
    }
}
