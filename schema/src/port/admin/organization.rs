//! Organisations: the tenants.

use std::fmt::Debug;

use async_trait::async_trait;

use super::application::ApplicationRow;
use super::permission::PermissionRow;
use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::OrganizationId;
use crate::policy::Permit;

/// An organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrganizationRow {
    pub id: OrganizationId,
    pub name: String,
    pub is_open_data_dk_registered: bool,
    pub stamps: Stamps,
}

/// An organisation in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct OrganizationListing {
    pub organization: OrganizationRow,
    pub applications: Vec<ApplicationRow>,
    /// Filled only by [`OrganizationStore::organizations_with_groups`].
    pub permissions: Vec<PermissionRow>,
}

/// Organisations.
#[async_trait]
pub trait OrganizationStore: Debug + Send + Sync + 'static {
    /// Creates it with its three default groups.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when there is one of this name.
    async fn create_organization(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        name: &str,
    ) -> Result<OrganizationRow, AdminError>;

    /// Renames it; its groups keep their names.
    async fn rename_organization(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: OrganizationId,
        name: &str,
    ) -> Result<(OrganizationRow, Vec<PermissionRow>), AdminError>;

    /// Deletes it with all that belongs to it.
    ///
    /// # Errors
    /// [`AdminError::InUse`] while it has gateways, or while another organisation's connections use its decoders.
    async fn delete_organization(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: OrganizationId,
    ) -> Result<NumDeleted, AdminError>;

    /// One, with its groups.
    async fn organization(&self, id: OrganizationId) -> Result<(OrganizationRow, Vec<PermissionRow>), AdminError>;

    /// A page of them, all or only these, with their applications.
    async fn organizations(
        &self,
        among: Option<&[OrganizationId]>,
        page: &Page,
    ) -> Result<Listed<OrganizationListing>, AdminError>;

    /// Every organisation with applications and groups, for `/auth/me` of a global administrator.
    async fn organizations_with_groups(&self) -> Result<Vec<OrganizationListing>, AdminError>;

    /// Id and name of every organisation.
    async fn organization_names(&self) -> Result<Vec<(OrganizationId, String)>, AdminError>;
}
