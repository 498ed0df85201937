//! Devices, device models and downlinks.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::ToSchema;

use super::applications::Application;

/// GeoJSON.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Point {
    /// `Point`.
    #[schema(rename = "type")]
    pub kind: String,
    /// Longitude, latitude.
    pub coordinates: Vec<f64>,
}

/// A device; what else it has depends on its `type`.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Device {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    /// `GENERIC_HTTP`, `LORAWAN`, `SIGFOX`, `MQTT_INTERNAL_BROKER` or `MQTT_EXTERNAL_BROKER`.
    #[schema(rename = "type")]
    pub kind: String,
    #[schema(required)]
    pub location: Option<Point>,
    #[schema(required)]
    pub comment_on_location: Option<String>,
    #[schema(required)]
    pub comment: Option<String>,
    /// A JSON object of texts, as text.
    #[schema(required)]
    pub metadata: Option<String>,
    /// GENERIC_HTTP; masked for whoever may not change the device.
    pub api_key: Option<String>,
    /// LORAWAN.
    #[schema(rename = "deviceEUI")]
    pub device_eui: Option<String>,
}

/// A device with its latest payload and the window of its last transmissions.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceDetail {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(rename = "type")]
    pub kind: String,
    #[schema(required)]
    pub location: Option<Point>,
    #[schema(required)]
    pub comment_on_location: Option<String>,
    #[schema(required)]
    pub comment: Option<String>,
    #[schema(required)]
    pub metadata: Option<String>,
    pub application: Application,
    #[schema(required)]
    pub device_model: Option<DeviceModel>,
    #[schema(required)]
    pub latest_received_message: Option<LatestMessage>,
    /// Newest first.
    pub received_messages_metadata: Vec<Transmission>,
    #[schema(required)]
    pub created_by: Option<i64>,
    #[schema(required)]
    pub updated_by: Option<i64>,
}

/// What a device sent last.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct LatestMessage {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// As it came in.
    #[schema(required)]
    pub raw_data: Option<Value>,
    pub sent_time: DateTime<Utc>,
    /// dBm, of the gateway that heard best.
    #[schema(required)]
    pub rssi: Option<f64>,
    /// dB.
    #[schema(required)]
    pub snr: Option<f64>,
}

/// One transmission of the window.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Transmission {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub sent_time: DateTime<Utc>,
    #[schema(required)]
    pub signal_data: Option<SignalData>,
}

/// How a transmission was heard.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SignalData {
    /// dBm.
    #[schema(required)]
    pub rssi: Option<f64>,
    /// dB.
    #[schema(required)]
    pub snr: Option<f64>,
    pub num_gateways: i64,
    #[schema(required)]
    pub dr: Option<i64>,
    #[schema(required)]
    pub f_cnt: Option<i64>,
    /// Transmissions missing before it.
    pub f_cnt_gap: i64,
}

/// A device to create or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceDraft {
    /// Needed to change many.
    pub id: Option<i64>,
    /// 1 to 50 characters.
    pub name: String,
    #[schema(rename = "type")]
    pub kind: String,
    pub application_id: i64,
    pub longitude: Option<f64>,
    pub latitude: Option<f64>,
    pub comment_on_location: Option<String>,
    pub comment: Option<String>,
    /// A JSON object of texts, as text.
    pub metadata: Option<String>,
    pub device_model_id: Option<i64>,
    pub lorawan_settings: Option<Value>,
    pub sigfox_settings: Option<Value>,
    pub mqtt_internal_broker_settings: Option<Value>,
    pub mqtt_external_broker_settings: Option<Value>,
}

/// Up to 50 devices.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceDrafts {
    pub data: Vec<DeviceDraft>,
}

/// What became of one of many.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct BatchResult {
    pub data: Option<Device>,
    /// Name and application of the device it is about.
    pub id_metadata: Value,
    pub error: Option<Value>,
}

/// The key an HTTP device sends with.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceKey {
    pub api_key: String,
}

/// Where a device moves to.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceMove {
    pub application_id: i64,
    pub organization_id: i64,
    pub device_model_id: Option<i64>,
    pub data_target_to_payload_decoder_ids: Vec<TargetAndDecoder>,
}

/// A connection to make.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct TargetAndDecoder {
    pub data_target_id: i64,
    pub payload_decoder_id: Option<i64>,
}

/// A downlink to queue.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DownlinkDraft {
    /// Hexadecimal.
    pub data: String,
    pub port: Option<i64>,
    pub confirmed_downlink: Option<bool>,
}

/// A device model.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceModel {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// A FIWARE DeviceModel.
    pub body: Value,
    /// Its organisation, or the id of it.
    pub belongs_to: Option<Value>,
}

/// A device model to create or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceModelDraft {
    /// Needed to create one.
    pub belongs_to_id: Option<i64>,
    /// A FIWARE DeviceModel: id, type, category, controlledProperty, manufacturerName, brandName, modelName, name.
    pub body: Value,
}
