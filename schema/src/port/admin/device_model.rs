//! Device models (FIWARE `DeviceModel` documents).

use std::fmt::Debug;

use async_trait::async_trait;

use super::organization::OrganizationRow;
use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::OrganizationId;
use crate::policy::Permit;

/// A device model.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModelRow {
    pub id: i64,
    /// A JSON object that met the schema.
    pub body: serde_json::Value,
    pub organization: OrganizationRow,
    pub stamps: Stamps,
}

/// Device models.
#[async_trait]
pub trait DeviceModelStore: Debug + Send + Sync + 'static {
    /// Makes one.
    async fn create_device_model(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        organization: OrganizationId,
        body: &serde_json::Value,
    ) -> Result<DeviceModelRow, AdminError>;

    /// Replaces its body.
    async fn update_device_model(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        body: &serde_json::Value,
    ) -> Result<DeviceModelRow, AdminError>;

    /// Deletes it.
    ///
    /// # Errors
    /// [`AdminError::InUse`] while devices are of it.
    async fn delete_device_model(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError>;

    /// One.
    async fn device_model(&self, id: i64) -> Result<DeviceModelRow, AdminError>;

    /// A page, of all organisations or only of these.
    async fn device_models(
        &self,
        among: Option<&[OrganizationId]>,
        page: &Page,
    ) -> Result<Listed<DeviceModelRow>, AdminError>;
}
