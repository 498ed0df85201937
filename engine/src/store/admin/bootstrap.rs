//! The first global administrator, and a new password for one who lost his: without a caller, on Sluse's own permit.

use rand::distr::{Alphanumeric, SampleString};
use sluse_schema::change::ChangedEntity;
use sluse_schema::permission::Principal;
use sluse_schema::policy::{Action, Denied, Resource, decide};
use sluse_schema::port::admin::{AdminError, ChangedBy};
use sluse_schema::secret::Secret;

use super::change::{ChangeAction, Write};
use super::{PgAdminStore, pg};

/// The advisory lock under which one node makes the first administrator.
const LOCK_KEY: i64 = 0x73_6c_75_73_66;
const PASSWORD_CHARS: usize = 24;

/// An administrator whose password is known only now.
#[derive(Debug)]
pub struct NewAdmin {
    pub email: String,
    /// To be shown once.
    pub password: Secret,
}

/// Why there is no administrator.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("there is no user with the e-mail {0}; set SLUSE_ADMIN_EMAIL to an existing administrator's")]
    NoSuchUser(String),
    #[error("the password could not be hashed: {0}")]
    Hash(String),
    #[error("the password is shorter than 6 characters; set a longer SLUSE_ADMIN_PASSWORD")]
    TooShort,
    #[error(transparent)]
    Denied(#[from] Denied),
}

fn random_password() -> Secret {
    Secret::new(Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_CHARS))
}

async fn hash(password: &Secret) -> Result<Secret, BootstrapError> {
    if password.reveal().chars().count() < 6 {
        return Err(BootstrapError::TooShort);
    }
    let clear = password.clone();
    tokio::task::spawn_blocking(move || sluse_http::password::hash(clear.reveal()))
        .await
        .map_err(|e| BootstrapError::Hash(e.to_string()))?
        .map_err(|e| BootstrapError::Hash(e.to_string()))
}

/// Makes the group `GlobalAdmin` and a user in it, unless some user is in it already. `password`: `None` makes a random one.
///
/// # Errors
/// A [`BootstrapError`].
pub async fn ensure_global_admin(
    store: &PgAdminStore,
    email: &str,
    password: Option<&Secret>,
) -> Result<Option<NewAdmin>, BootstrapError> {
    let (by, permit) = (ChangedBy::system(), decide(&Principal::system(), Action::Write, Resource::Platform)?);
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, &permit, &by).await?;
    write.check(&Resource::Platform)?;
    write.db().execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK_KEY]).await.map_err(pg)?;
    let exists = "SELECT 1 FROM permission_user u JOIN permission_level l USING (permission_id) \
                  JOIN permission p ON p.id = l.permission_id \
                  WHERE l.type = 'GlobalAdmin' AND p.organization_id IS NULL LIMIT 1";
    if write.db().query_opt(exists, &[]).await.map_err(pg)?.is_some() {
        return Ok(None);
    }
    let password = password.cloned().unwrap_or_else(random_password);
    let hash = hash(&password).await?;
    let group = write
        .db()
        .query_opt("SELECT id FROM permission WHERE organization_id IS NULL ORDER BY id LIMIT 1", &[])
        .await
        .map_err(pg)?;
    let group: i64 = match group {
        Some(row) => row.get(0),
        None => {
            let insert = "WITH p AS (INSERT INTO permission (name) VALUES ('GlobalAdmin') RETURNING id) \
                          INSERT INTO permission_level (permission_id, type) SELECT id, 'GlobalAdmin' FROM p \
                          RETURNING permission_id";
            let id = write.db().query_one(insert, &[]).await.map_err(pg)?.get(0);
            write.record(ChangeAction::Create, ChangedEntity::Permission, id, None).await?;
            id
        }
    };
    let insert = "WITH u AS (INSERT INTO app_user (name, email, password_hash) VALUES ('GlobalAdmin', $1, $2) RETURNING id) \
                  INSERT INTO permission_user (permission_id, user_id) SELECT $3, id FROM u RETURNING user_id";
    let user: i64 = write.db().query_one(insert, &[&email, &hash.reveal(), &group]).await.map_err(pg)?.get(0);
    write.record(ChangeAction::Create, ChangedEntity::User, user, None).await?;
    write.commit().await?;
    Ok(Some(NewAdmin { email: email.to_owned(), password }))
}

/// Gives a user a new random password, makes him active and all his tokens invalid.
///
/// # Errors
/// A [`BootstrapError`].
pub async fn reset_password(store: &PgAdminStore, email: &str) -> Result<NewAdmin, BootstrapError> {
    let (by, permit) = (ChangedBy::system(), decide(&Principal::system(), Action::Write, Resource::Platform)?);
    let password = random_password();
    let hash = hash(&password).await?;
    let mut client = store.client().await?;
    let mut write = Write::begin(&mut client, &permit, &by).await?;
    let find = "SELECT id FROM app_user WHERE lower(email) = lower($1) AND NOT is_system_user";
    let Some(row) = write.db().query_opt(find, &[&email]).await.map_err(pg)? else {
        return Err(BootstrapError::NoSuchUser(email.to_owned()));
    };
    let id: i64 = row.get(0);
    let before = write.snapshot(ChangedEntity::User, id).await?;
    let update = "UPDATE app_user SET password_hash = $2, active = true, expires_on = NULL, \
                  token_version = token_version + 1, updated_at = now() WHERE id = $1";
    write.db().execute(update, &[&id, &hash.reveal()]).await.map_err(pg)?;
    write.record(ChangeAction::Update, ChangedEntity::User, id, before).await?;
    write.commit().await?;
    Ok(NewAdmin { email: email.to_owned(), password })
}
