//! Log-ins by a provider, as the store sees them: attempts that count once, users by the provider's name for them.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{Account, AdminError, ChangedBy};
use crate::id::UserId;
use crate::policy::Permit;

/// Accounts of people for whom a log-in provider vouches.
#[async_trait]
pub trait LogInStore: Debug + Send + Sync + 'static {
    /// Marks an attempt as answered. `false`: it was already, by whichever node. Kept for an hour, longer than any attempt lives.
    async fn claim_attempt(&self, attempt: &str) -> Result<bool, AdminError>;

    /// The account with the provider's name.
    async fn account_of_name_id(&self, name_id: &str) -> Result<Option<Account>, AdminError>;

    /// Makes an active account without e-mail, password and groups. `permit` is for an account
    /// ([`crate::policy::Resource::Account`]) of user zero in no organisation.
    ///
    /// # Errors
    /// [`AdminError::Taken`] when there is one with this name id.
    async fn create_vouched_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        name: &str,
        name_id: &str,
    ) -> Result<Account, AdminError>;

    /// Ends every session of a user: tokens issued until now are refused. `permit` is for himself.
    async fn record_log_out(&self, permit: &Permit, by: &ChangedBy, user: UserId) -> Result<(), AdminError>;
}
