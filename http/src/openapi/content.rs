//! Search, Sigfox, Open Data DK, trying data targets out.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::ToSchema;

use super::tenants::Organization;

/// A row that was found; which fields it has depends on its `type`.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Found {
    /// A number; of a gateway its 16 hex digits.
    pub id: Value,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    pub organization_id: Option<i64>,
    /// `Application`, `IoTDevice` or `Gateway`.
    #[schema(rename = "type")]
    pub kind: String,
    pub device_type: Option<String>,
    pub application_id: Option<i64>,
    #[schema(rename = "deviceEUI")]
    pub device_eui: Option<String>,
    /// At Sigfox.
    pub device_id: Option<String>,
    /// Masked.
    pub api_key: Option<String>,
    pub gateway_id: Option<String>,
}

/// A login at Sigfox; its password is never shown.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SigfoxGroup {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub username: String,
    pub belongs_to: Organization,
    /// At Sigfox.
    pub sigfox_group_id: String,
    /// What Sigfox says of it; `null` when it does not answer.
    #[schema(required)]
    pub sigfox_group_data: Option<Value>,
}

/// A login at Sigfox to add or to try.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SigfoxGroupDraft {
    pub organization_id: i64,
    pub username: String,
    pub password: String,
}

/// A login at Sigfox to change.
#[derive(Debug, ToSchema)]
pub struct SigfoxGroupChange {
    pub username: String,
    /// The mask or nothing keeps it.
    pub password: Option<String>,
}

/// Whether Sigfox accepts a login.
#[derive(Debug, ToSchema)]
pub struct SigfoxConnection {
    pub status: bool,
}

/// A device type at Sigfox.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SigfoxDeviceTypeDraft {
    /// 1 to 100 characters.
    pub name: String,
    pub contract_id: String,
    /// At most 300 characters.
    pub description: String,
    /// Seconds.
    pub keep_alive: Option<i64>,
    pub alert_email: Option<String>,
}

/// The id of a row at Sigfox.
#[derive(Debug, ToSchema)]
pub struct SigfoxId {
    pub id: String,
}

/// What to send to a data target.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct TargetTrial {
    pub data_target_id: i64,
    pub iot_device_id: Option<i64>,
    pub payload_decoder_id: Option<i64>,
    /// JSON text. Without it an MQTT target is only connected to.
    pub data_package: Option<String>,
}

/// What came of it.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct TargetTrialResult {
    /// `status` (`OK` or `ERROR`), `statusCode`, `statusText`, `errorMessage`.
    pub result: Option<Value>,
    pub decoded_payload: Option<Value>,
}

/// What Open Data DK is told.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct OpenDataMail {
    pub organization_id: i64,
    /// The organisation's name at Open Data DK.
    pub organization_oddk_alias: String,
    pub comment: Option<String>,
    /// Where the catalogue is.
    pub sharing_url: String,
}

/// Whether Open Data DK was told.
#[derive(Debug, ToSchema)]
pub struct OpenDataRegistration {
    pub registered: Option<bool>,
}
