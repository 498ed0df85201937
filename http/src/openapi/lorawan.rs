//! Gateways, device profiles and multicast groups.

use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// Where a gateway is.
#[derive(Debug, ToSchema)]
pub struct GatewayPlace {
    pub latitude: f64,
    pub longitude: f64,
    /// Metres.
    pub altitude: Option<f64>,
}

/// A gateway to be made or changed. On a change what is not sent stays.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct GatewayFields {
    /// 16 hex digits; only of a new one.
    pub gateway_id: Option<String>,
    /// Letters, digits, hyphens and underscores.
    pub name: String,
    pub description: Option<String>,
    pub location: Option<GatewayPlace>,
    /// `NONE`, `INDOORS`, `OUTDOORS` or `OTHER`.
    pub placement: Option<String>,
    /// `NONE`, `IN-OPERATION`, `PROJECT`, `PROTOTYPE` or `OTHER`.
    pub status: Option<String>,
    pub model_name: Option<String>,
    pub antenna_type: Option<String>,
    pub gateway_responsible_name: Option<String>,
    pub gateway_responsible_email: Option<String>,
    pub gateway_responsible_phone_number: Option<String>,
    pub operational_responsible_name: Option<String>,
    pub operational_responsible_email: Option<String>,
    pub notify_offline: Option<bool>,
    pub offline_alarm_threshold_minutes: Option<i64>,
    pub notify_unusual_packages: Option<bool>,
    pub minimum_packages: Option<i64>,
    pub maximum_packages: Option<i64>,
    pub alarm_mail: Option<String>,
    /// A JSON object of texts, as text.
    pub tags_string: Option<String>,
}

/// A gateway with the organisation that it is to belong to.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct GatewayDraft {
    pub organization_id: i64,
    pub gateway: GatewayFields,
}

/// A gateway's change.
#[derive(Debug, ToSchema)]
pub struct GatewayChange {
    pub gateway: GatewayFields,
}

/// Where a gateway is to belong.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct GatewayMove {
    pub organization_id: i64,
}

/// Whether it was done.
#[derive(Debug, ToSchema)]
pub struct Done {
    pub success: bool,
}

/// Why it was not done.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct NotDone {
    /// `false`, with `error`.
    pub success: Option<bool>,
    pub error: Value,
    /// What is wrong with the body, as everywhere else.
    pub message: Option<Value>,
    pub status_code: Option<u16>,
}

/// A page of gateways.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Gateways {
    pub result_list: Vec<Value>,
    pub total_count: i64,
}

/// Whose gateways, and of which time.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GatewayFilter {
    /// Of this organisation; otherwise of all in which the caller has a role.
    #[param(rename = "organizationId")]
    pub organization_id: Option<i64>,
}

/// Which time.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatusInterval {
    /// `DAY`, `WEEK` or `MONTH`.
    #[param(rename = "timeInterval")]
    pub time_interval: Option<String>,
}

/// A LoRaWAN device profile.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceProfile {
    pub name: String,
    /// 0: LoRaWAN 1.0.0 … 5: 1.1.0.
    pub mac_version: i64,
    /// 0: A, 1: B, 2: RP002-1.0.0 …
    pub reg_params_revision: i64,
    #[schema(rename = "adrAlgorithmID")]
    pub adr_algorithm_id: Option<String>,
    pub supports_join: Option<bool>,
    #[schema(rename = "supportsClassB")]
    pub supports_class_b: Option<bool>,
    #[schema(rename = "supportsClassC")]
    pub supports_class_c: Option<bool>,
    pub class_c_timeout: Option<i64>,
    pub dev_status_req_freq: Option<i64>,
}

/// A device profile with the organisation that it is to belong to.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceProfileDraft {
    pub internal_organization_id: Option<i64>,
    pub device_profile: DeviceProfile,
}

/// Whose id a network server gave.
#[derive(Debug, ToSchema)]
pub struct NetworkId {
    pub id: String,
}

/// A page of device profiles.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DeviceProfiles {
    pub result: Vec<Value>,
    /// A number, as text.
    pub total_count: String,
}

/// A multicast group to be made or changed.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct MulticastDraft {
    pub name: String,
    #[schema(rename = "applicationID")]
    pub application_id: i64,
    /// 8 hex digits.
    pub mc_addr: String,
    /// 32 hex digits; the mask keeps it.
    #[schema(rename = "mcNwkSKey")]
    pub mc_nwk_s_key: String,
    /// 32 hex digits; the mask keeps it.
    #[schema(rename = "mcAppSKey")]
    pub mc_app_s_key: String,
    pub f_cnt: i64,
    pub dr: i64,
    /// Hertz.
    pub frequency: i64,
    /// `CLASS_C`.
    pub group_type: String,
    /// Devices of the application, of which only `id` is read.
    pub iot_devices: Option<Vec<Value>>,
}

/// A downlink for a multicast group.
#[derive(Debug, ToSchema)]
pub struct MulticastDownlink {
    /// Hexadecimal.
    pub data: String,
    pub port: i64,
}
