//! API keys. A key is known by its hash only: whoever made it sees it once.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::permission::PermissionDetail;
use super::user::UserRow;
use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::OrganizationId;
use crate::policy::Permit;

/// A key without itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRow {
    pub id: i64,
    pub name: String,
    /// The first characters, for people.
    pub prefix: String,
    /// `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    pub stamps: Stamps,
}

/// A key with its groups (organisation filled) and the user in whose name it acts.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeyDetail {
    pub key: ApiKeyRow,
    pub permissions: Vec<PermissionDetail>,
    pub system_user: UserRow,
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    pub name: String,
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    pub prefix: String,
    pub permissions: Vec<i64>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A change of a key; the key itself stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyChange {
    pub name: String,
    pub permissions: Vec<i64>,
    /// Outer `None`: stays; inner `None`: never.
    pub expires_at: Option<Option<DateTime<Utc>>>,
}

/// API keys. Every write takes a permit for [`crate::policy::Resource::ApiKey`] of all organisations concerned: those of the
/// groups that the key has, and of those that it is to have.
#[async_trait]
pub trait ApiKeyStore: Debug + Send + Sync + 'static {
    /// Makes a key with its system user.
    ///
    /// # Errors
    /// [`AdminError::BadReference`] for a group that there is not, [`AdminError::Taken`] when there is this key already.
    async fn create_api_key(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        new: &NewApiKey,
    ) -> Result<ApiKeyDetail, AdminError>;

    /// Changes a key, and its system user's name with it.
    async fn update_api_key(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        change: &ApiKeyChange,
    ) -> Result<ApiKeyDetail, AdminError>;

    /// Deletes a key with its system user.
    async fn delete_api_key(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError>;

    /// One key.
    async fn api_key(&self, id: i64) -> Result<ApiKeyDetail, AdminError>;

    /// Keys with a group of this organisation; `None`: all.
    async fn api_keys(
        &self,
        organization: Option<OrganizationId>,
        page: &Page,
    ) -> Result<Listed<ApiKeyDetail>, AdminError>;
}
