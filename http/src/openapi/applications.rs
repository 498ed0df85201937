//! Applications and what lists show of them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::ToSchema;

use super::tenants::Organization;

/// An application.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Application {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub description: Option<String>,
    /// `NONE`, `IN-OPERATION`, `PROJECT`, `PROTOTYPE` or `OTHER`.
    #[schema(required)]
    pub status: Option<String>,
    #[schema(required)]
    pub start_date: Option<DateTime<Utc>>,
    #[schema(required)]
    pub end_date: Option<DateTime<Utc>>,
    #[schema(required)]
    pub category: Option<String>,
    #[schema(required)]
    pub owner: Option<String>,
    #[schema(required)]
    pub contact_person: Option<String>,
    #[schema(required)]
    pub contact_email: Option<String>,
    #[schema(required)]
    pub contact_phone: Option<String>,
    #[schema(required)]
    pub personal_data: Option<bool>,
    #[schema(required)]
    pub hardware: Option<String>,
    #[schema(required)]
    pub chirpstack_id: Option<String>,
    pub permission_ids: Vec<i64>,
}

/// An application with its organisation, devices and data targets.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ApplicationDetail {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub description: Option<String>,
    /// `NONE`, `IN-OPERATION`, `PROJECT`, `PROTOTYPE` or `OTHER`.
    #[schema(required)]
    pub status: Option<String>,
    #[schema(required)]
    pub start_date: Option<DateTime<Utc>>,
    #[schema(required)]
    pub end_date: Option<DateTime<Utc>>,
    #[schema(required)]
    pub category: Option<String>,
    #[schema(required)]
    pub owner: Option<String>,
    #[schema(required)]
    pub contact_person: Option<String>,
    #[schema(required)]
    pub contact_email: Option<String>,
    #[schema(required)]
    pub contact_phone: Option<String>,
    #[schema(required)]
    pub personal_data: Option<bool>,
    #[schema(required)]
    pub hardware: Option<String>,
    #[schema(required)]
    pub chirpstack_id: Option<String>,
    pub permission_ids: Vec<i64>,
    pub belongs_to: Organization,
    pub controlled_properties: Vec<Property>,
    pub device_types: Vec<Property>,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// An application in a list.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ApplicationListing {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub description: Option<String>,
    /// `NONE`, `IN-OPERATION`, `PROJECT`, `PROTOTYPE` or `OTHER`.
    #[schema(required)]
    pub status: Option<String>,
    #[schema(required)]
    pub start_date: Option<DateTime<Utc>>,
    #[schema(required)]
    pub end_date: Option<DateTime<Utc>>,
    #[schema(required)]
    pub category: Option<String>,
    #[schema(required)]
    pub owner: Option<String>,
    #[schema(required)]
    pub contact_person: Option<String>,
    #[schema(required)]
    pub contact_email: Option<String>,
    #[schema(required)]
    pub contact_phone: Option<String>,
    #[schema(required)]
    pub personal_data: Option<bool>,
    #[schema(required)]
    pub hardware: Option<String>,
    #[schema(required)]
    pub chirpstack_id: Option<String>,
    pub permission_ids: Vec<i64>,
    /// `stable` or `alert`: whether a device is silent or a target has errors.
    pub status_check: Option<String>,
    pub belongs_to: Option<Organization>,
    pub iot_devices: Option<Vec<Value>>,
    pub data_targets: Option<Vec<Value>>,
    pub controlled_properties: Option<Vec<Property>>,
    pub device_types: Option<Vec<Property>>,
}

/// A controlled property or a type of device.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Property {
    #[schema(rename = "type")]
    pub kind: String,
}

/// An application to create or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ApplicationDraft {
    /// 1 to 50 characters, unique.
    pub name: String,
    pub organization_id: i64,
    pub description: Option<String>,
    pub status: Option<String>,
    pub start_date: Option<DateTime<Utc>>,
    pub end_date: Option<DateTime<Utc>>,
    pub category: Option<String>,
    pub owner: Option<String>,
    pub contact_person: Option<String>,
    pub contact_email: Option<String>,
    pub contact_phone: Option<String>,
    pub personal_data: Option<bool>,
    pub hardware: Option<String>,
    pub controlled_properties: Option<Vec<String>>,
    pub device_types: Option<Vec<String>>,
    pub permission_ids: Option<Vec<Option<i64>>>,
}

/// Where an application moves to.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Relocation {
    pub organization_id: i64,
    pub permission_ids: Vec<i64>,
}

/// How many applications an organisation has.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct DashboardCounts {
    pub total: i64,
    pub with_error: i64,
}
