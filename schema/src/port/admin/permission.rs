//! User groups, "permissions" in the API.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::application::ApplicationDetail;
use super::organization::OrganizationRow;
use super::user::UserRow;
use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::{ApplicationId, OrganizationId, UserId};
use crate::permission::Role;
use crate::policy::Permit;

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionRow {
    pub id: i64,
    pub name: String,
    /// `None`: the group of global administrators.
    pub organization_id: Option<OrganizationId>,
    pub automatically_add_new_applications: bool,
    pub application_ids: Vec<ApplicationId>,
    pub stamps: Stamps,
}

/// A role of a group, a row of its own in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelRow {
    pub id: i64,
    pub role: Role,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A group with what belongs to it. What was not asked for is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct PermissionDetail {
    pub permission: PermissionRow,
    pub organization: Option<OrganizationRow>,
    pub levels: Vec<LevelRow>,
    pub users: Vec<UserRow>,
    pub applications: Vec<super::ApplicationRow>,
}

/// A group to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPermission {
    pub name: String,
    pub organization: OrganizationId,
    pub roles: Vec<Role>,
    pub users: Vec<UserId>,
    /// Of the same organisation.
    pub applications: Vec<ApplicationId>,
    pub automatically_add_new_applications: bool,
}

/// A change of a group; roles stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionChange {
    pub name: String,
    /// `None`: members stay.
    pub users: Option<Vec<UserId>>,
    /// `None`: applications stay.
    pub applications: Option<Vec<ApplicationId>>,
    /// `None`: stays.
    pub automatically_add_new_applications: Option<bool>,
}

/// Which groups a list holds; every filter that is given must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionQuery {
    /// Groups of this organisation.
    pub organization: Option<OrganizationId>,
    /// Groups of one of these organisations; the group of global administrators is of none.
    pub among: Option<Vec<OrganizationId>>,
    /// Groups that this user belongs to; then only he is listed in them.
    pub member: Option<UserId>,
    /// Without the group of global administrators.
    pub is_without_global: bool,
    /// Whether users are filled.
    pub with_users: bool,
}

/// Groups.
#[async_trait]
pub trait PermissionStore: Debug + Send + Sync + 'static {
    /// Makes a group.
    ///
    /// # Errors
    /// [`AdminError::BadReference`] when the organisation, a user or an application does not exist, or an application belongs to
    /// another organisation.
    async fn create_permission(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        new: &NewPermission,
    ) -> Result<PermissionDetail, AdminError>;

    /// Changes a group.
    async fn update_permission(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        change: &PermissionChange,
    ) -> Result<PermissionDetail, AdminError>;

    /// Deletes a group, whoever is a member.
    async fn delete_permission(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError>;

    /// One group without what belongs to it.
    async fn permission(&self, id: i64) -> Result<PermissionRow, AdminError>;

    /// One group with everything.
    async fn permission_detail(&self, id: i64) -> Result<PermissionDetail, AdminError>;

    /// These groups without what belongs to them; one that is gone is missing.
    async fn permissions_by_id(&self, ids: &[i64]) -> Result<Vec<PermissionRow>, AdminError>;

    /// A page of groups with organisation, levels and, if asked for, users.
    async fn permissions(&self, query: &PermissionQuery, page: &Page) -> Result<Listed<PermissionDetail>, AdminError>;

    /// A page of a group's applications.
    async fn permission_applications(&self, id: i64, page: &Page) -> Result<Listed<ApplicationDetail>, AdminError>;

    /// A page of a group's members.
    async fn permission_users(&self, id: i64, page: &Page) -> Result<Listed<UserRow>, AdminError>;
}
