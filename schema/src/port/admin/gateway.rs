//! Administration of gateways: the rows as people describe them, their figures, and their history.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{AdminError, ChangedBy, Listed, NumDeleted, OrganizationRow, Page, Stamps};
use crate::id::{GatewayId, OrganizationId};
use crate::policy::Permit;

/// What people say of a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewayFields {
    pub name: String,
    pub description: Option<String>,
    pub longitude: Option<f64>,
    pub latitude: Option<f64>,
    /// Metres.
    pub altitude: Option<f64>,
    pub tags: BTreeMap<String, String>,
    pub placement: Option<String>,
    pub model_name: Option<String>,
    pub antenna_type: Option<String>,
    pub status: Option<String>,
    pub gateway_responsible_name: Option<String>,
    pub gateway_responsible_email: Option<String>,
    pub gateway_responsible_phone_number: Option<String>,
    pub operational_responsible_name: Option<String>,
    pub operational_responsible_email: Option<String>,
    pub notify_offline: Option<bool>,
    pub notify_unusual_packages: Option<bool>,
    pub offline_alarm_threshold_minutes: Option<i64>,
    pub minimum_packages: Option<i64>,
    pub maximum_packages: Option<i64>,
    pub alarm_mail: Option<String>,
}

/// A gateway as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayRow {
    pub id: i64,
    pub gateway: GatewayId,
    /// `None`: found in the network server and given to nobody yet.
    pub organization: Option<OrganizationRow>,
    pub fields: GatewayFields,
    /// Today's.
    pub num_received: i64,
    pub num_sent: i64,
    pub last_seen_at: Option<DateTime<Utc>>,
    pub has_sent_offline_notification: Option<bool>,
    pub stamps: Stamps,
}

/// Whose gateways are wanted: `None` for everybody's.
pub type Organizations = Option<Vec<OrganizationId>>;

/// A gateway's connection over time, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayHistory {
    pub gateway: GatewayId,
    pub name: String,
    pub states: Vec<(DateTime<Utc>, bool)>,
}

/// What the network server told of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayFigures {
    pub gateway: GatewayId,
    pub num_received: i64,
    pub num_sent: i64,
    pub last_seen_at: Option<DateTime<Utc>>,
}

/// Gateways as rows.
#[async_trait]
pub trait GatewayAdminStore: Debug + Send + Sync + 'static {
    /// A page of the gateways of these organisations.
    async fn gateways(&self, of: &Organizations, page: &Page) -> Result<Listed<GatewayRow>, AdminError>;

    /// One gateway.
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRow, AdminError>;

    /// One gateway by its row.
    async fn gateway_by_row(&self, id: i64) -> Result<GatewayRow, AdminError>;

    /// Gateways whose name or id holds this text, without regard to case.
    async fn find_gateways(&self, of: &Organizations, text: &str, num_max: i64) -> Result<Vec<GatewayRow>, AdminError>;

    /// Their connection since `from`, with the last state before it put there.
    async fn gateway_histories(
        &self,
        of: &Organizations,
        only: Option<GatewayId>,
        from: DateTime<Utc>,
        page: &Page,
    ) -> Result<Listed<GatewayHistory>, AdminError>;

    /// Adds a gateway.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when there is one of this id.
    async fn create_gateway(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
        organization: Option<OrganizationId>,
        fields: &GatewayFields,
    ) -> Result<GatewayRow, AdminError>;

    /// Changes a gateway.
    async fn update_gateway(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
        fields: &GatewayFields,
    ) -> Result<GatewayRow, AdminError>;

    /// Gives a gateway to another organisation: `permit` is for where it is, `target` for where it comes to.
    async fn move_gateway(
        &self,
        permit: &Permit,
        target: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
        organization: OrganizationId,
    ) -> Result<GatewayRow, AdminError>;

    /// Removes a gateway, and notes that the network server has to.
    async fn delete_gateway(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
    ) -> Result<NumDeleted, AdminError>;

    /// Stores what the network server told; `updatedAt` stays.
    async fn store_gateway_figures(&self, figures: &[GatewayFigures]) -> Result<(), AdminError>;

    /// Remembers whether people were told that a gateway is offline; `updatedAt` stays. Whether that changed anything.
    async fn mark_offline_notified(&self, gateway: GatewayId, is_notified: bool) -> Result<bool, AdminError>;

    /// Gateways that anybody wants alarms of, at most `num_max`.
    async fn gateways_with_alarms(&self, num_max: i64) -> Result<Vec<GatewayRow>, AdminError>;
}
