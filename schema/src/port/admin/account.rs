//! Accounts as far as logging in needs them: look-up, principals, the last log-in.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{AdminError, ChangedBy};
use crate::id::UserId;
use crate::permission::Grant;
use crate::policy::Permit;
use crate::secret::Secret;

/// A user as authentication sees him, groups included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: UserId,
    pub name: String,
    pub email: Option<String>,
    /// The identity provider's name for him; then he has no password here.
    pub name_id: Option<String>,
    /// PHC string (Argon2id) or `$2a$…` (bcrypt, from OS2iot).
    pub password_hash: Option<Secret>,
    pub is_active: bool,
    pub expires_at: Option<DateTime<Utc>>,
    /// A token with another one is refused.
    pub token_version: i32,
    pub grants: Vec<Grant>,
}

impl Account {
    /// Whether he may do anything at all now.
    pub fn is_usable(&self, now: DateTime<Utc>) -> bool {
        self.is_active && self.expires_at.is_none_or(|at| now < at)
    }
}

/// An API key's system user, with the groups of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyCaller {
    /// The key's own id.
    pub key: i64,
    pub system_user: UserId,
    pub name: String,
    pub expires_at: Option<DateTime<Utc>>,
    pub grants: Vec<Grant>,
}

/// Who is calling.
#[async_trait]
pub trait AccountStore: Debug + Send + Sync + 'static {
    /// The account with this e-mail, whatever its case.
    async fn account_of_email(&self, email: &str) -> Result<Option<Account>, AdminError>;

    /// The account of a token's subject. One query, groups included.
    async fn account_of_user(&self, user: UserId) -> Result<Option<Account>, AdminError>;

    /// The caller of an API key, by the SHA-256 of the key.
    async fn caller_of_api_key(&self, key_hash: &[u8; 32]) -> Result<Option<ApiKeyCaller>, AdminError>;

    /// Notes a successful log-in. `rehash` replaces the password's hash when it was of an older kind.
    async fn record_log_in(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        user: UserId,
        rehash: Option<&Secret>,
    ) -> Result<(), AdminError>;
}
