//! Sigfox groups: logins at Sigfox that belong to an organisation. Passwords are clear here and encrypted in the store.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{AdminError, ChangedBy, OrganizationRow, Stamps};
use crate::id::OrganizationId;
use crate::policy::Permit;
use crate::port::sigfox::SigfoxLogin;

/// A group as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigfoxGroupRow {
    pub id: i64,
    pub organization: OrganizationRow,
    pub login: SigfoxLogin,
    /// The group's own id at Sigfox.
    pub sigfox_group_id: String,
    pub stamps: Stamps,
}

/// What was done with a device type, which is a row at Sigfox and not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTypeChange {
    /// Its id at Sigfox.
    pub id: String,
    pub name: String,
    /// Otherwise it was changed.
    pub is_new: bool,
    /// The group through which it was done.
    pub group: i64,
}

/// Sigfox groups as rows.
#[async_trait]
pub trait SigfoxGroupStore: Debug + Send + Sync + 'static {
    /// Those of an organisation, by id; at most 1000.
    async fn sigfox_groups(&self, organization: OrganizationId) -> Result<Vec<SigfoxGroupRow>, AdminError>;

    /// One.
    async fn sigfox_group(&self, id: i64) -> Result<SigfoxGroupRow, AdminError>;

    /// Adds one.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when the organisation has this user name already; [`AdminError::BadReference`] when there is no such
    /// organisation.
    async fn create_sigfox_group(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        organization: OrganizationId,
        login: &SigfoxLogin,
        sigfox_group_id: &str,
    ) -> Result<SigfoxGroupRow, AdminError>;

    /// Changes one.
    ///
    /// # Errors
    /// As [`SigfoxGroupStore::create_sigfox_group`].
    async fn update_sigfox_group(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        login: &SigfoxLogin,
        sigfox_group_id: &str,
    ) -> Result<SigfoxGroupRow, AdminError>;

    /// Which of these Sigfox ids (upper case) are registered here.
    async fn known_sigfox_devices(&self, ids: &[String]) -> Result<Vec<String>, AdminError>;

    /// Notes in the change log what was done with a device type.
    async fn record_device_type(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        change: &DeviceTypeChange,
    ) -> Result<(), AdminError>;
}
