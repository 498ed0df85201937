//! Users, as administrators see them.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::organization::OrganizationRow;
use super::permission::PermissionDetail;
use super::{AdminError, ChangedBy, Listed, Page, Stamps};
use crate::id::{OrganizationId, UserId};
use crate::policy::Permit;
use crate::secret::Secret;

/// A user without his password's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    pub id: UserId,
    pub name: String,
    pub email: Option<String>,
    pub is_active: bool,
    pub last_log_in_at: Option<DateTime<Utc>>,
    pub name_id: Option<String>,
    /// `None` until he waits for the first time.
    pub is_awaiting_confirmation: Option<bool>,
    pub is_system_user: bool,
    pub shows_welcome_screen: bool,
    pub expires_at: Option<DateTime<Utc>>,
    pub stamps: Stamps,
}

/// A user with his groups.
#[derive(Clone, Debug, PartialEq)]
pub struct UserDetail {
    pub user: UserRow,
    pub permissions: Vec<PermissionDetail>,
    /// Organisations that he asked to be let into.
    pub requested_organizations: Vec<OrganizationRow>,
}

/// A user in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct UserListing {
    pub user: UserRow,
    /// Without users and applications.
    pub permissions: Vec<PermissionDetail>,
}

/// Where a user belongs, for decisions about his account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountScope {
    pub user: UserId,
    /// Organisations in which he has a group, ascending.
    pub organizations: Vec<OrganizationId>,
    /// Organisations that he asked to be let into.
    pub requested: Vec<OrganizationId>,
    pub is_global_admin: bool,
}

/// A user to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    pub name: String,
    pub email: String,
    pub password_hash: Secret,
    pub is_active: bool,
    pub expires_at: Option<DateTime<Utc>>,
    pub is_global_admin: bool,
    pub permissions: Vec<i64>,
}

/// A change of a user. `None` in a field: it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserChange {
    pub name: String,
    pub email: Option<String>,
    /// A new password makes every token invalid, and so does deactivating him.
    pub password_hash: Option<Secret>,
    pub is_active: Option<bool>,
    /// Outer `None`: stays; inner `None`: never.
    pub expires_at: Option<Option<DateTime<Utc>>>,
    pub is_global_admin: Option<bool>,
    /// `None`: groups stay.
    pub permissions: Option<Vec<i64>>,
}

impl UserChange {
    /// Whether it changes nothing but name, address and password.
    pub fn is_identity_only(&self) -> bool {
        self.is_active.is_none()
            && self.expires_at.is_none()
            && self.is_global_admin.is_none()
            && self.permissions.is_none()
    }
}

/// Somebody asks to be let into organisations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRequest {
    /// His address, when he had none.
    pub email: Option<String>,
    /// Added to those that he asked for before.
    pub organizations: Vec<OrganizationId>,
}

/// Which users a list holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserQuery {
    /// All but the system users of API keys.
    All,
    /// With a group in one of these organisations.
    InOrganizations(Vec<OrganizationId>),
    /// Waiting to be let into one of these organisations, or into any.
    Awaiting(Option<Vec<OrganizationId>>),
}

/// Users.
#[async_trait]
pub trait UserStore: Debug + Send + Sync + 'static {
    /// Makes a user. `permit` is for an account ([`crate::policy::Resource::Account`]) of user zero in the organisations of its
    /// groups.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when the e-mail is in use.
    async fn create_user(&self, permit: &Permit, by: &ChangedBy, new: &NewUser) -> Result<UserDetail, AdminError>;

    /// Changes a user. The permit is for his account in his organisations and in those of the groups that he is to have; his
    /// own will do for name, address and password.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when the e-mail is in use; [`AdminError::InUse`] when no global administrator would be left who can
    /// log in.
    async fn update_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        change: &UserChange,
    ) -> Result<UserDetail, AdminError>;

    /// Gives a user exactly these groups in the organisations that the permits are for
    /// ([`crate::policy::Resource::OrganizationUsers`]); his groups elsewhere stay.
    ///
    /// # Errors
    /// [`AdminError::NotCovered`] for a group that no permit is for.
    async fn set_memberships(
        &self,
        permits: &[Permit],
        by: &ChangedBy,
        id: UserId,
        permissions: &[i64],
    ) -> Result<UserDetail, AdminError>;

    /// Notes that somebody asks to be let in. The permit is for himself.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when the e-mail is in use, or he has one; [`AdminError::BadReference`] for an organisation that there
    /// is not.
    async fn request_access(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        request: &AccessRequest,
    ) -> Result<UserDetail, AdminError>;

    /// Lets somebody who waits into an organisation, with these of its groups; groups of others are passed over.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] when he does not wait there; [`AdminError::BadReference`] when none of the groups is the
    /// organisation's.
    async fn accept_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        organization: OrganizationId,
        permissions: &[i64],
    ) -> Result<UserDetail, AdminError>;

    /// Sends somebody away who waits; returns who still does.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] when he does not wait there.
    async fn reject_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: UserId,
        organization: OrganizationId,
    ) -> Result<(OrganizationRow, Vec<UserRow>), AdminError>;

    /// Whether somebody has this e-mail, whatever its case.
    async fn is_email_taken(&self, email: &str) -> Result<bool, AdminError>;

    /// Addresses of an organisation's user administrators, or, without any, of the global administrators. Only of those who can
    /// log in.
    async fn addresses_of_admins(&self, organization: OrganizationId) -> Result<Vec<String>, AdminError>;

    /// Clears the welcome screen; `true` when it was shown before.
    async fn hide_welcome(&self, permit: &Permit, by: &ChangedBy, id: UserId) -> Result<bool, AdminError>;

    /// Where these users belong; one that is gone is missing.
    async fn account_scopes(&self, users: &[UserId]) -> Result<Vec<AccountScope>, AdminError>;

    /// One with his groups (organisation and levels filled; users of each group only when `with_members`).
    async fn user(&self, id: UserId, with_members: bool) -> Result<UserDetail, AdminError>;

    /// A page of users.
    async fn users(&self, query: &UserQuery, page: &Page) -> Result<Listed<UserListing>, AdminError>;

    /// Id and name of every user, system users included.
    async fn user_names(&self) -> Result<Vec<(UserId, String)>, AdminError>;
}
