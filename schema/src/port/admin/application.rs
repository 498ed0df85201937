//! Applications, and the lists of devices that are shown with them.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::organization::OrganizationRow;
use super::permission::PermissionRow;
use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::{ApplicationId, OrganizationId};
use crate::permission::Visible;
use crate::policy::Permit;

/// An application.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationRow {
    pub id: ApplicationId,
    pub organization_id: OrganizationId,
    pub name: String,
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
    pub chirpstack_id: Option<String>,
    pub controlled_properties: Vec<String>,
    pub device_types: Vec<String>,
    /// Groups that it is mapped to.
    pub permission_ids: Vec<i64>,
    pub stamps: Stamps,
}

/// What a client says of an application; `None` clears the column.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationDraft {
    pub organization: OrganizationId,
    pub name: String,
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
    /// `None`: stay.
    pub controlled_properties: Option<Vec<String>>,
    /// `None`: stay.
    pub device_types: Option<Vec<String>>,
    /// Groups of the same organisation. `None`: stay.
    pub permissions: Option<Vec<i64>>,
    /// Columns, as the database names them, that stay as they are on a change: a client did not speak of them.
    pub kept: Vec<&'static str>,
}

/// Whether anything is wrong with an application: no target, or a device silent for a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCheck {
    Stable,
    Alert,
}

/// An application with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationDetail {
    pub application: ApplicationRow,
    pub organization: OrganizationRow,
    pub permissions: Vec<PermissionRow>,
    pub devices: Vec<DeviceSummary>,
    /// Id, type and name of its targets.
    pub targets: Vec<TargetSummary>,
}

/// An application in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationListing {
    pub detail: ApplicationDetail,
    pub status_check: StatusCheck,
}

/// A target as lists of applications show it, without secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetSummary {
    pub id: i64,
    pub r#type: String,
    pub name: String,
    pub last_message_at: Option<DateTime<Utc>>,
    /// What its type has, in the API's names.
    pub settings: serde_json::Value,
    /// Whether it has a secret.
    pub has_secrets: bool,
    pub stamps: Stamps,
}

/// A device as lists show it, without secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSummary {
    pub id: i64,
    pub application_id: ApplicationId,
    pub r#type: String,
    pub name: String,
    pub longitude: Option<f64>,
    pub latitude: Option<f64>,
    pub comment_on_location: Option<String>,
    pub comment: Option<String>,
    /// JSON text, as the client sent it.
    pub metadata: Option<String>,
    pub device_eui: Option<String>,
    /// What else belongs to the type, without secrets.
    pub settings: serde_json::Value,
    pub latest: Option<LatestSummary>,
    pub stamps: Stamps,
}

/// The newest transmission of a device, without its payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatestSummary {
    pub sent_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub rssi_dbm: Option<i32>,
    pub snr_db: Option<f32>,
}

/// A device on an application's page.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceListing {
    pub device: DeviceSummary,
    pub device_model: Option<(i64, serde_json::Value, Stamps)>,
    /// Connections that it is part of.
    pub connections: Vec<(i64, Stamps)>,
    /// Per cent, as the network server told.
    pub battery_level_percent: Option<f32>,
    /// What it last sent, unless that is too long for a list.
    pub latest_payload: Option<Vec<u8>>,
}

/// A device on the map.
#[derive(Clone, Debug, PartialEq)]
pub struct MapDevice {
    pub id: i64,
    pub r#type: String,
    pub name: String,
    pub longitude: Option<f64>,
    pub latitude: Option<f64>,
    pub latest_sent_at: Option<DateTime<Utc>>,
}

/// Which applications a list holds; every filter that is given must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationQuery {
    pub visible: Visible,
    pub organization: Option<OrganizationId>,
    pub status: Option<String>,
    pub status_check: Option<StatusCheck>,
    pub owner: Option<String>,
}

/// Figures of an organisation's start page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DashboardCounts {
    pub num_applications: i64,
    pub num_with_error: i64,
    pub num_devices: i64,
}

/// Applications.
#[async_trait]
pub trait ApplicationStore: Debug + Send + Sync + 'static {
    /// Makes one.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when its name is in use; [`AdminError::BadReference`] when the organisation does not exist or a group
    /// belongs to another one.
    async fn create_application(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        draft: &ApplicationDraft,
    ) -> Result<ApplicationDetail, AdminError>;

    /// Changes one. `permit` is for where it is now, `target_permit` for where it is to be, when that differs.
    async fn update_application(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: ApplicationId,
        draft: &ApplicationDraft,
    ) -> Result<ApplicationDetail, AdminError>;

    /// Moves one to an organisation and maps it to these groups, or to those that take every new application.
    async fn move_application(
        &self,
        permit: &Permit,
        target_permit: &Permit,
        by: &ChangedBy,
        id: ApplicationId,
        organization: OrganizationId,
        permissions: &[i64],
    ) -> Result<ApplicationDetail, AdminError>;

    /// Deletes it with its devices, targets and connections.
    ///
    /// # Errors
    /// [`AdminError::InUse`] while it has Sigfox devices.
    async fn delete_application(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: ApplicationId,
    ) -> Result<NumDeleted, AdminError>;

    /// The organisation that it belongs to, for a decision.
    async fn organization_of_application(&self, id: ApplicationId) -> Result<OrganizationId, AdminError>;

    /// One with everything.
    async fn application(&self, id: ApplicationId) -> Result<ApplicationDetail, AdminError>;

    /// A page of them.
    async fn applications(
        &self,
        query: &ApplicationQuery,
        page: &Page,
    ) -> Result<Listed<ApplicationListing>, AdminError>;

    /// Distinct owners of an organisation's applications that are visible.
    async fn application_owners(
        &self,
        visible: &Visible,
        organization: OrganizationId,
    ) -> Result<Vec<Option<String>>, AdminError>;

    /// Figures over the visible applications of an organisation.
    async fn dashboard_counts(
        &self,
        visible: &Visible,
        organization: OrganizationId,
    ) -> Result<DashboardCounts, AdminError>;

    /// A page of an application's devices.
    async fn application_devices(&self, id: ApplicationId, page: &Page) -> Result<Listed<DeviceListing>, AdminError>;

    /// Every device of an application, for its map.
    async fn application_map(&self, id: ApplicationId) -> Result<Vec<MapDevice>, AdminError>;

    /// Devices of the applications that a query finds, for the map of an organisation; at most `limit`.
    async fn organization_devices(
        &self,
        query: &ApplicationQuery,
        limit: i64,
    ) -> Result<Vec<DeviceSummary>, AdminError>;
}
