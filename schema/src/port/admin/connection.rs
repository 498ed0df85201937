//! Administration of connections: these devices, through this decoder or as they are, to that target.
//! Limits: a connection names at most [`NUM_DEVICES_MAX`] devices.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::{ApplicationId, ConnectionId, DecoderId, DeviceId, OrganizationId, TargetId};
use crate::permission::Visible;
use crate::policy::Permit;

/// How many devices one connection may name.
pub const NUM_DEVICES_MAX: usize = 10_000;

/// Everything of a connection that people set. Devices are distinct and in the target's application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionFields {
    pub target: TargetId,
    pub decoder: Option<DecoderId>,
    pub devices: Vec<DeviceId>,
}

/// A connection as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    pub id: ConnectionId,
    /// The target's, and so every device's.
    pub application: ApplicationId,
    pub organization: OrganizationId,
    pub fields: ConnectionFields,
    pub stamps: Stamps,
}

/// Which connections a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFilter {
    All,
    OfDevice(DeviceId),
    OfTarget(TargetId),
    OfDecoder(DecoderId),
}

/// Connections as rows.
#[async_trait]
pub trait ConnectionAdminStore: Debug + Send + Sync + 'static {
    /// One connection.
    async fn connection(&self, id: ConnectionId) -> Result<ConnectionRow, AdminError>;

    /// A page of the visible connections, by id.
    async fn connections(
        &self,
        filter: ConnectionFilter,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<ConnectionRow>, AdminError>;

    /// Adds a connection. `permit` is for the target's application, in which every device has to be.
    ///
    /// # Errors
    /// [`AdminError::BadReference`] when target, decoder or a device went, or left the application, since they were looked at.
    async fn create_connection(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &ConnectionFields,
    ) -> Result<ConnectionRow, AdminError>;

    /// Changes a connection. `permit` is for its application now, `target_permit` for the new target's, when that differs.
    async fn update_connection(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: ConnectionId,
        fields: &ConnectionFields,
    ) -> Result<ConnectionRow, AdminError>;

    /// Adds one device to a connection, unless it is in it already.
    async fn append_device(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: ConnectionId,
        device: DeviceId,
    ) -> Result<ConnectionRow, AdminError>;

    /// Removes a connection.
    async fn delete_connection(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: ConnectionId,
    ) -> Result<NumDeleted, AdminError>;
}
