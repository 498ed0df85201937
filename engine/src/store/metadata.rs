//! The device's record as decoders see it (`metadata`): the reference's fields in the reference's order, without its secrets.
//!
//! Left out on purpose: `apiKey`, LoRaWAN keys, MQTT passwords and private keys. `OTAAapplicationKey` stays as a null, since
//! scripts may look whether it is there.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use sluse_schema::record_text::RecordText;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::convert::iso;

/// Applications whose part of the record is kept once for all their devices.
const NUM_SHARED_MAX: usize = 4096;

/// Keys of `lorawanSettings` that never leave the store.
const LORAWAN_SECRETS: [&str; 3] = ["OTAAapplicationKey", "networkSessionKey", "applicationSessionKey"];

/// Settings that stand beside the common fields, by type; none of them is secret.
fn settings_shown(kind: &str) -> &'static [&'static str] {
    match kind {
        "SIGFOX" => &["deviceId", "deviceTypeId", "groupId", "downlinkPayload"],
        "MQTT_INTERNAL_BROKER" | "MQTT_EXTERNAL_BROKER" => &[
            "authenticationType",
            "caCertificate",
            "deviceCertificate",
            "mqttusername",
            "mqttURL",
            "mqttPort",
            "mqtttopicname",
        ],
        _ => &[],
    }
}

/// The columns that [`DeviceRecord::of_row`] reads, from `iot_device d`, `application a`, `device_model m`, in its order.
pub const COLUMNS: &str = "d.id, d.created_at, d.updated_at, d.name, d.type, d.longitude, d.latitude,
    d.comment_on_location, d.comment, d.metadata, d.device_eui, d.settings,
    a.id, a.created_at, a.updated_at, a.name, a.description, a.status, a.start_date, a.end_date, a.category, a.owner,
    a.contact_person, a.contact_email, a.contact_phone, a.personal_data, a.hardware, a.chirpstack_id,
    array(SELECT p.permission_id FROM permission_application p WHERE p.application_id = a.id ORDER BY 1),
    m.id, m.created_at, m.updated_at, m.body";
/// How many those are.
pub const NUM_COLUMNS: usize = 33;
/// Where they come from.
pub const TABLES: &str = "iot_device d JOIN application a ON a.id = d.application_id
    LEFT JOIN device_model m ON m.id = d.device_model_id";

/// A device with what belongs to it.
#[derive(Clone, Debug)]
pub struct DeviceRecord {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    pub kind: String,
    /// Longitude and latitude.
    pub location: Option<(f64, f64)>,
    pub comment_on_location: Option<String>,
    pub comment: Option<String>,
    /// JSON text, and handed on as text.
    pub metadata: Option<String>,
    pub device_eui: Option<String>,
    pub settings: Value,
    pub application: ApplicationRecord,
    pub device_model: Option<DeviceModelRecord>,
}

/// Its application.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationRecord {
    pub id: i64,
    pub created_at: String,
    pub updated_at: String,
    pub name: String,
    pub description: Option<String>,
    pub status: Option<String>,
    pub start_date: Option<String>,
    pub end_date: Option<String>,
    pub category: Option<String>,
    pub owner: Option<String>,
    pub contact_person: Option<String>,
    pub contact_email: Option<String>,
    pub contact_phone: Option<String>,
    pub personal_data: Option<bool>,
    pub hardware: Option<String>,
    pub chirpstack_id: Option<String>,
    pub permission_ids: Vec<i64>,
}

/// Its model.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceModelRecord {
    pub id: i64,
    pub created_at: String,
    pub updated_at: String,
    pub body: Value,
}

#[derive(Serialize)]
struct Point {
    #[serde(rename = "type")]
    kind: &'static str,
    coordinates: (f64, f64),
}

impl DeviceRecord {
    /// Reads [`COLUMNS`], which start at column 0.
    pub fn of_row(row: &Row) -> Self {
        let location = row.get::<_, Option<f64>>(5).zip(row.get::<_, Option<f64>>(6));
        let optional_iso = |at: usize| row.get::<_, Option<DateTime<Utc>>>(at).map(iso);
        let Json(settings) = row.get::<_, Json<Value>>(11);
        let device_model = row.get::<_, Option<i64>>(29).map(|id| DeviceModelRecord {
            id,
            created_at: optional_iso(30).unwrap_or_default(),
            updated_at: optional_iso(31).unwrap_or_default(),
            body: row.get::<_, Option<Json<Value>>>(32).map_or(Value::Null, |Json(body)| body),
        });
        Self {
            id: row.get(0),
            created_at: row.get(1),
            updated_at: row.get(2),
            name: row.get(3),
            kind: row.get(4),
            location,
            comment_on_location: row.get(7),
            comment: row.get(8),
            metadata: row.get(9),
            device_eui: row.get(10),
            settings,
            application: ApplicationRecord {
                id: row.get(12),
                created_at: iso(row.get(13)),
                updated_at: iso(row.get(14)),
                name: row.get(15),
                description: row.get(16),
                status: row.get(17),
                start_date: optional_iso(18),
                end_date: optional_iso(19),
                category: row.get(20),
                owner: row.get(21),
                contact_person: row.get(22),
                contact_email: row.get(23),
                contact_phone: row.get(24),
                personal_data: row.get(25),
                hardware: row.get(26),
                chirpstack_id: row.get(27),
                permission_ids: row.get(28),
            },
            device_model,
        }
    }

    /// The record as JSON text, of which the end, about application and model, is shared with the other devices of both.
    pub fn to_text(&self, shared: &SharedEnds) -> RecordText {
        let mut text = self.to_json();
        let json = |part: serde_json::Result<String>| part.expect("a part of a record that has just become JSON");
        let application = json(serde_json::to_string(&self.application));
        let end = format!(
            "\"application\":{application},\"deviceModel\":{}}}",
            json(serde_json::to_string(&self.device_model))
        );
        if !text.ends_with(&end) {
            return text.into();
        }
        text.truncate(text.len() - end.len());
        let model = self.device_model.as_ref().map_or(0, |model| model.id);
        RecordText::new(text, shared.one_for_all((self.application.id, model), end))
    }

    /// The record as JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and JSON values with string keys always make JSON")
    }
}

/// What records of devices end in, by application and model.
pub struct SharedEnds(Cache<(i64, i64), Arc<str>>);

impl Default for SharedEnds {
    fn default() -> Self {
        Self(Cache::new(NUM_SHARED_MAX))
    }
}

impl std::fmt::Debug for SharedEnds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedEnds({})", self.0.len())
    }
}

impl SharedEnds {
    /// This text, from the place where all who have it find it.
    fn one_for_all(&self, key: (i64, i64), end: String) -> Arc<str> {
        if let Some(known) = self.0.get(&key).filter(|known| **known == *end) {
            return known;
        }
        let end: Arc<str> = end.into();
        self.0.insert(key, Arc::clone(&end));
        end
    }
}

impl Serialize for DeviceRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("createdAt", &iso(self.created_at))?;
        map.serialize_entry("updatedAt", &iso(self.updated_at))?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("location", &self.location.map(|coordinates| Point { kind: "Point", coordinates }))?;
        map.serialize_entry("commentOnLocation", &self.comment_on_location)?;
        map.serialize_entry("comment", &self.comment)?;
        map.serialize_entry("metadata", &self.metadata)?;
        map.serialize_entry("type", &self.kind)?;
        if self.kind == "LORAWAN" {
            let device_eui = self.device_eui.as_deref().unwrap_or_default();
            // As it was typed, as the reference has it.
            let typed =
                self.settings["deviceEUI"].as_str().map_or_else(|| device_eui.to_ascii_uppercase(), str::to_owned);
            map.serialize_entry("deviceEUI", &typed)?;
            map.serialize_entry("OTAAapplicationKey", &Value::Null)?;
            map.serialize_entry("deviceProfileName", &self.settings["deviceProfileName"])?;
            map.serialize_entry("chirpstackApplicationId", &self.settings["chirpstackApplicationId"])?;
            if let Some(settings) = self.lorawan_settings(device_eui) {
                map.serialize_entry("lorawanSettings", &settings)?;
            }
        }
        for name in settings_shown(&self.kind) {
            map.serialize_entry(name, &self.settings[*name])?;
        }
        map.serialize_entry("application", &self.application)?;
        map.serialize_entry("deviceModel", &self.device_model)?;
        map.end()
    }
}

impl DeviceRecord {
    fn lorawan_settings(&self, device_eui: &str) -> Option<Value> {
        let mut settings = self.settings.get("lorawanSettings")?.as_object()?.clone();
        for secret in LORAWAN_SECRETS {
            settings.shift_remove(secret);
        }
        settings.entry("devEUI").or_insert_with(|| device_eui.into());
        Some(Value::Object(settings))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn record(kind: &str) -> DeviceRecord {
        let application = ApplicationRecord {
            id: 1,
            created_at: "2026-11-22T13:25:33.055Z".into(),
            updated_at: "2026-11-22T13:25:33.055Z".into(),
            name: "Egress".into(),
            description: None,
            status: None,
            start_date: None,
            end_date: None,
            category: None,
            owner: None,
            contact_person: None,
            contact_email: None,
            contact_phone: None,
            personal_data: None,
            hardware: None,
            chirpstack_id: Some("9642a7ff-c8c7-48dc-9985-d28bf8217f09".into()),
            permission_ids: vec![],
        };
        DeviceRecord {
            id: 2,
            created_at: at("2026-11-22T13:25:33.088123Z"),
            updated_at: at("2026-11-22T13:25:33.088Z"),
            name: "Sensor".into(),
            kind: kind.into(),
            location: Some((10.2, 56.1)),
            comment_on_location: None,
            comment: Some("c".into()),
            metadata: Some("{\"k\":\"v\"}".into()),
            device_eui: None,
            settings: json!({}),
            application,
            device_model: None,
        }
    }

    const APPLICATION: &str = r#""application":{"id":1,"createdAt":"2026-11-22T13:25:33.055Z","updatedAt":"2026-11-22T13:25:33.055Z","name":"Egress","description":null,"status":null,"startDate":null,"endDate":null,"category":null,"owner":null,"contactPerson":null,"contactEmail":null,"contactPhone":null,"personalData":null,"hardware":null,"chirpstackId":"9642a7ff-c8c7-48dc-9985-d28bf8217f09","permissionIds":[]},"deviceModel":null}"#;

    #[test]
    fn devices_of_one_application_share_the_end_of_their_text_until_it_changes() {
        let shared = SharedEnds::default();
        let (mut first, second) = (record("GENERIC_HTTP"), record("LORAWAN"));
        let texts = [first.to_text(&shared), second.to_text(&shared)];
        assert_eq!(texts[0].to_string(), first.to_json());
        assert_eq!(texts[1].to_string(), second.to_json());
        let ends = texts.each_ref().map(|text| text.pieces()[1].as_ptr());
        assert_eq!(ends[0], ends[1], "one piece of memory");
        first.application.name = "Renamed".into();
        assert_eq!(first.to_text(&shared).to_string(), first.to_json());
        assert_eq!(texts[0].pieces()[1], second.to_text(&shared).pieces()[1]);
    }

    /// As the reference sent it (recorded), but for its `apiKey`.
    #[test]
    fn an_http_device_is_recorded_as_the_reference_does_without_its_key() {
        let expected = format!(
            "{}{APPLICATION}",
            r#"{"id":2,"createdAt":"2026-11-22T13:25:33.088Z","updatedAt":"2026-11-22T13:25:33.088Z","name":"Sensor","location":{"type":"Point","coordinates":[10.2,56.1]},"commentOnLocation":null,"comment":"c","metadata":"{\"k\":\"v\"}","type":"GENERIC_HTTP","#
        );
        assert_eq!(record("GENERIC_HTTP").to_json(), expected);
    }

    #[test]
    fn a_lorawan_device_shows_its_eui_in_capitals_and_no_key() {
        let mut device = record("LORAWAN");
        device.device_eui = Some("a81758fffe0000a1".into());
        device.metadata = None;
        device.location = None;
        let text = device.to_json();
        let expected = r#""metadata":null,"type":"LORAWAN","deviceEUI":"A81758FFFE0000A1","OTAAapplicationKey":null,"deviceProfileName":null,"chirpstackApplicationId":null,"application":"#;
        assert!(text.contains(expected), "{text}");
        device.settings = json!({"deviceProfileName": "Class A", "lorawanSettings": {
            "activationType": "OTAA", "OTAAapplicationKey": "00112233", "networkSessionKey": "x", "applicationSessionKey": "y"}});
        let text = device.to_json();
        assert!(text.contains(r#""lorawanSettings":{"activationType":"OTAA","devEUI":"a81758fffe0000a1"}"#), "{text}");
        assert!(!text.contains("00112233"));
    }
}
