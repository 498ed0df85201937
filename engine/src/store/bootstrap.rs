//! The first start's administrator, and new passwords from the command line.
//!
//! Without any global administrator, one is made in the group `GlobalAdmin` (that name is part of the API: the web client
//! knows global administrators by it). A password that nobody gave is random and shown once.

use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHasher, SaltString};
use rand::Rng;
use sluse_schema::port::StoreError;
use sluse_schema::secret::Secret;

use super::connect::Store;
use super::error::WorkError;
use super::pool::{lease, within};

/// The reference's name of the first administrator.
pub const DEFAULT_EMAIL: &str = "global-admin@os2iot.dk";
/// Letters and digits without those that look alike.
const PASSWORD_CHARS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const NUM_PASSWORD_CHARS: usize = 20;
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
    #[error("there is no user with the e-mail address {0}")]
    NoSuchUser(String),
    #[error("there are {0} global administrators: say which one with --email")]
    Several(usize),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A random password of 20 characters (116 bits).
pub fn random_password() -> Secret {
    let mut rng = rand::rng();
    let chars = (0..NUM_PASSWORD_CHARS).map(|_| char::from(PASSWORD_CHARS[rng.random_range(0..PASSWORD_CHARS.len())]));
    Secret::new(chars.collect::<String>())
}

/// The Argon2id hash of a password in PHC form.
///
/// # Errors
/// [`StoreError::Refused`] when it cannot be hashed (longer than 4 GiB).
pub fn hash_password(password: &Secret) -> Result<String, StoreError> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password.reveal().as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| StoreError::Refused(format!("the password cannot be hashed: {error}")))
}

impl Store {
    /// Makes the first global administrator, if there is none; `None` when there is one already.
    ///
    /// # Errors
    /// When the database is away or refuses.
    pub async fn bootstrap(
        &self,
        email: Option<&str>,
        password: Option<&Secret>,
    ) -> Result<Option<NewCredentials>, StoreError> {
        let email = email.unwrap_or(DEFAULT_EMAIL);
        let generated = password.is_none().then(random_password);
        let Some(password) = password.or(generated.as_ref()) else { return Ok(None) };
        within(TIMEOUT, async {
            let mut client = lease(&self.pool).await?;
            let transaction = client.transaction().await?;
            // Two nodes that start at once make one administrator.
            transaction.batch_execute("LOCK TABLE permission_level IN SHARE ROW EXCLUSIVE MODE").await?;
            let is_there: bool = transaction
                .query_one(
                    "SELECT EXISTS (SELECT 1 FROM permission_level l
                                    JOIN permission_user m ON m.permission_id = l.permission_id
                                    WHERE l.type = 'GlobalAdmin')",
                    &[],
                )
                .await?
                .get(0);
            if is_there {
                transaction.rollback().await?;
                client.done();
                return Ok::<_, WorkError>(None);
            }
            let hash = hash_password(password)?;
            let user: i64 = match transaction
                .query_opt("SELECT id FROM app_user WHERE lower(email) = lower($1)", &[&email])
                .await?
            {
                Some(row) => {
                    let user: i64 = row.get(0);
                    transaction
                        .execute(
                            "UPDATE app_user SET password_hash = $2, active = true, token_version = token_version + 1,
                                    updated_at = now() WHERE id = $1",
                            &[&user, &hash],
                        )
                        .await?;
                    user
                }
                None => transaction
                    .query_one(
                        "INSERT INTO app_user (name, email, password_hash, active)
                         VALUES ('GlobalAdmin', $1, $2, true) RETURNING id",
                        &[&email, &hash],
                    )
                    .await?
                    .get(0),
            };
            let group: i64 = match transaction
                .query_opt("SELECT permission_id FROM permission_level WHERE type = 'GlobalAdmin' ORDER BY 1 LIMIT 1", &[])
                .await?
            {
                Some(row) => row.get(0),
                None => {
                    let group: i64 = transaction
                        .query_one(
                            "INSERT INTO permission (name, created_by, updated_by) VALUES ('GlobalAdmin', $1, $1)
                             RETURNING id",
                            &[&user],
                        )
                        .await?
                        .get(0);
                    transaction
                        .execute("INSERT INTO permission_level (permission_id, type) VALUES ($1, 'GlobalAdmin')", &[&group])
                        .await?;
                    group
                }
            };
            transaction
                .execute("INSERT INTO permission_user (permission_id, user_id) VALUES ($1, $2)", &[&group, &user])
                .await?;
            transaction
                .execute(
                    "INSERT INTO change_log (principal, action, entity, entity_id) VALUES ('system', 'CREATE', 'user', $1)",
                    &[&user],
                )
                .await?;
            transaction
                .execute(
                    "INSERT INTO change_event (entity, entity_id) VALUES ('user', $1), ('permission', $2)",
                    &[&user, &group],
                )
                .await?;
            transaction.commit().await?;
            client.done();
            Ok(Some(NewCredentials { email: email.to_owned(), generated_password: None }))
        })
        .await
        .map(|made| made.map(|made| NewCredentials { generated_password: generated.clone(), ..made }))
    }

    /// Gives a user a random password, makes him active and all his tokens invalid. Without an e-mail address: the only global
    /// administrator.
    ///
    /// # Errors
    /// A [`ResetError`] that says which user could be meant.
    pub async fn reset_password(&self, email: Option<&str>) -> Result<NewCredentials, ResetError> {
        let password = random_password();
        let hash = hash_password(&password)?;
        let found = within(TIMEOUT, async {
            let mut client = lease(&self.pool).await?;
            let transaction = client.transaction().await?;
            let rows = transaction
                .query(
                    "SELECT u.id, coalesce(u.email, u.name) FROM app_user u
                     WHERE CASE WHEN $1::text IS NULL
                           THEN EXISTS (SELECT 1 FROM permission_user m
                                        JOIN permission_level l ON l.permission_id = m.permission_id
                                        WHERE m.user_id = u.id AND l.type = 'GlobalAdmin')
                           ELSE lower(u.email) = lower($1) END
                     ORDER BY u.id",
                    &[&email],
                )
                .await?;
            let [row] = rows.as_slice() else {
                transaction.rollback().await?;
                client.done();
                return Ok::<_, WorkError>(Err(rows.len()));
            };
            let (user, email): (i64, String) = (row.get(0), row.get(1));
            transaction
                .execute(
                    "UPDATE app_user SET password_hash = $2, active = true, token_version = token_version + 1,
                            updated_at = now() WHERE id = $1",
                    &[&user, &hash],
                )
                .await?;
            transaction
                .execute(
                    "INSERT INTO change_log (principal, action, entity, entity_id)
                     VALUES ('system', 'RESET-PASSWORD', 'user', $1)",
                    &[&user],
                )
                .await?;
            transaction.execute("INSERT INTO change_event (entity, entity_id) VALUES ('user', $1)", &[&user]).await?;
            transaction.commit().await?;
            client.done();
            Ok(Ok(email))
        })
        .await?;
        match found {
            Ok(email) => Ok(NewCredentials { email, generated_password: Some(password) }),
            Err(num_found) if num_found > 1 => Err(ResetError::Several(num_found)),
            Err(_) => Err(ResetError::NoSuchUser(email.unwrap_or("of a global administrator").to_owned())),
        }
    }
}
