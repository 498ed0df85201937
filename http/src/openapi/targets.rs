//! Data targets, decoders, connections, dead letters.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::ToSchema;

use super::applications::Application;
use super::devices::Device;
use super::tenants::Organization;

/// A data target; what else it has depends on its `type`.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DataTarget {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// `HTTP_PUSH`, `FIWARE`, `MQTT` or `OPENDATADK`.
    #[schema(rename = "type")]
    pub kind: String,
    pub name: String,
    #[schema(required)]
    pub last_message_date: Option<DateTime<Utc>>,
    pub url: Option<String>,
    /// Milliseconds.
    pub timeout: Option<i64>,
    /// In clear for whoever may change the target, on its own page; masked otherwise.
    pub authorization_header: Option<String>,
    pub mqtt_port: Option<i64>,
    pub mqtt_topic: Option<String>,
    pub mqtt_qos: Option<i64>,
    pub mqtt_username: Option<String>,
    /// As `authorizationHeader`.
    pub mqtt_password: Option<String>,
    pub tenant: Option<String>,
    pub context: Option<String>,
    pub client_id: Option<String>,
    pub token_endpoint: Option<String>,
    pub application: Option<Application>,
    pub has_recent_errors: Option<bool>,
    pub open_data_dk_dataset: Option<Value>,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// A data target to create or change; the type never changes.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DataTargetDraft {
    /// 1 to 50 characters.
    pub name: String,
    pub application_id: i64,
    /// Needed to create one.
    #[schema(rename = "type")]
    pub kind: Option<String>,
    /// http, https, mqtt or mqtts; all but `OPENDATADK` need it.
    pub url: Option<String>,
    /// Milliseconds.
    pub timeout: Option<i64>,
    /// The mask or nothing keeps what is stored, an empty text clears it.
    pub authorization_header: Option<String>,
    pub mqtt_port: Option<i64>,
    pub mqtt_topic: Option<String>,
    pub mqtt_qos: Option<i64>,
    pub mqtt_username: Option<String>,
    pub mqtt_password: Option<String>,
    pub tenant: Option<String>,
    pub context: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<String>,
    pub token_endpoint: Option<String>,
    pub open_data_dk_dataset: Option<Value>,
    /// PEM: further authorities for this target.
    pub ca_certificates: Option<String>,
    pub rate_per_second: Option<i64>,
    pub num_in_flight_max: Option<i64>,
    pub age_seconds_max: Option<i64>,
}

/// How a data target stands.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct TargetState {
    pub id: i64,
    /// `live` or `lagging`.
    #[schema(required)]
    pub feed: Option<String>,
    pub lag_records: i64,
    pub lag_seconds: f64,
    #[schema(required)]
    pub breaker: Option<String>,
    #[schema(required)]
    pub breaker_reason: Option<String>,
    #[schema(required)]
    pub next_probe_at: Option<DateTime<Utc>>,
    pub num_in_flight: i64,
    #[schema(required)]
    pub in_flight_limit: Option<i64>,
    #[schema(required)]
    pub last_error: Option<String>,
    #[schema(required)]
    pub last_delivered_at: Option<DateTime<Utc>>,
    pub counters: Counters,
    pub num_dead_letters: i64,
    #[schema(required)]
    pub as_of: Option<DateTime<Utc>>,
}

/// `accepted + offeredAgain = delivered + dead + expired + discarded + pending`.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Counters {
    pub accepted: i64,
    pub offered_again: i64,
    pub delivered: i64,
    pub dead: i64,
    pub expired: i64,
    pub discarded: i64,
    pub pending: i64,
}

/// From where on everything is sent again: exactly one of the two.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Rewind {
    pub time: Option<DateTime<Utc>>,
    pub offset: Option<i64>,
}

/// A request that the target's owner takes up.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct RequestAccepted {
    pub request_id: i64,
}

/// Which dead letters.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Letters {
    pub ids: Option<Vec<i64>>,
    pub all: Option<bool>,
}

/// A delivery that was given up.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: i64,
    pub reason: String,
    pub num_attempts: i64,
    #[schema(required)]
    pub status_code: Option<i64>,
    pub offset: i64,
}

/// An outcome of sending.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct TargetLogEntry {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// `OK` or `ERROR`.
    #[schema(rename = "type")]
    pub kind: String,
    #[schema(required)]
    pub status_code: Option<i64>,
    #[schema(required)]
    pub message: Option<String>,
    #[schema(required)]
    pub iot_device: Option<Value>,
}

/// A payload decoder.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Decoder {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    /// JavaScript.
    pub decoding_function: String,
    pub organization: Option<Organization>,
    /// How the script is called; none: recognised from the source.
    pub dialect: Option<String>,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// A payload decoder to create or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DecoderDraft {
    /// 1 to 50 characters.
    pub name: String,
    /// JavaScript, encoded once more as a JSON text.
    pub decoding_function: String,
    pub organization_id: i64,
    /// `os2iot`, `ts013`, `actility`, `chirpstack3` or `ttn2`.
    pub dialect: Option<String>,
}

/// A decoder to try; each text is encoded once more as a JSON text.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DecoderTrial {
    pub code: String,
    pub iot_device_json_string: String,
    pub raw_payload_json_string: String,
    pub dialect: Option<String>,
}

/// Failed decodes, counted while they are the same.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DecoderError {
    pub id: i64,
    /// When it last failed.
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub payload_decoder: super::tenants::Named,
    pub iot_device: super::tenants::Named,
    pub kind: String,
    pub message: String,
    /// The beginning of what was to be decoded.
    pub sample: String,
    pub num_failures: i64,
}

/// A connection of devices with a data target.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Connection {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub iot_devices: Vec<Device>,
    #[schema(required)]
    pub payload_decoder: Option<Decoder>,
    pub data_target: DataTarget,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// A connection to create or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ConnectionDraft {
    /// At least one.
    pub iot_device_ids: Vec<i64>,
    /// None: as it came in.
    pub payload_decoder_id: Option<i64>,
    pub data_target_id: i64,
}

/// A device to add.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct CopiedDevice {
    pub device_id: i64,
}
