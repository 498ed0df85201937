//! The first start's administrator, and new passwords from the command line: who is meant, and what is shown of it.
//! The rows are `admin::bootstrap`'s part, which writes them as every administrative row is written (I5).

use std::time::Duration;

use sluse_schema::port::StoreError;
use sluse_schema::secret::Secret;

use super::admin::{self, BootstrapError, PgAdminStore};
use super::connect::Store;
use super::error::WorkError;
use super::pool::{lease, within};

const TIMEOUT: Duration = Duration::from_secs(10);

/// An administrator that was made, or got another password.
#[derive(Debug)]
pub struct NewCredentials {
    pub email: String,
    /// `None`: the one that was given.
    pub generated_password: Option<Secret>,
}

/// Why there is no new password.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error("there are {0} global administrators: say which one with --email")]
    Several(usize),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

impl Store {
    /// Makes the first global administrator, if there is none; `None` when there is one already.
    ///
    /// # Errors
    /// When the database is away, the password too short or the address taken.
    pub async fn bootstrap(
        &self,
        email: &str,
        password: Option<&Secret>,
    ) -> Result<Option<NewCredentials>, BootstrapError> {
        let made = admin::ensure_global_admin(&PgAdminStore::new(self), email, password).await?;
        Ok(made.map(|made| NewCredentials {
            email: made.email,
            generated_password: password.is_none().then_some(made.password),
        }))
    }

    /// Gives a user a random password, makes him active and all his tokens invalid. Without an e-mail address: the only global
    /// administrator.
    ///
    /// # Errors
    /// A [`ResetError`] that says which user could be meant.
    pub async fn reset_password(&self, email: Option<&str>) -> Result<NewCredentials, ResetError> {
        let email = match email {
            Some(email) => email.to_owned(),
            None => self.only_global_admin().await?,
        };
        let reset = admin::reset_password(&PgAdminStore::new(self), &email).await?;
        Ok(NewCredentials { email: reset.email, generated_password: Some(reset.password) })
    }

    async fn only_global_admin(&self) -> Result<String, ResetError> {
        let emails: Vec<String> = within(TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let rows = client
                .query(
                    "SELECT DISTINCT u.email FROM app_user u
                     JOIN permission_user m ON m.user_id = u.id
                     JOIN permission_level l ON l.permission_id = m.permission_id AND l.type = 'GlobalAdmin'
                     WHERE u.email IS NOT NULL AND NOT u.is_system_user",
                    &[],
                )
                .await?;
            client.done();
            Ok::<_, WorkError>(rows.iter().map(|row| row.get(0)).collect())
        })
        .await?;
        match <[String; 1]>::try_from(emails) {
            Ok([email]) => Ok(email),
            Err(emails) => Err(ResetError::Several(emails.len())),
        }
    }
}
