//! API keys that clients have already, from an installation of OS2iot: there they stand in clear, here only their hash is kept.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sluse_schema::permission::Principal;
use sluse_schema::policy::{Action, Denied, Resource, decide};
use sluse_schema::port::admin::{AdminError, ApiKeyStore, ChangedBy, NewApiKey, PermissionStore};
use sluse_schema::secret::Secret;
use sluse_schema::text::cut;

use super::PgAdminStore;
use crate::store::connect::Store;

/// A shorter key could be guessed.
const KEY_CHARS_MIN: usize = 16;
/// As many characters of the key are shown to people, at most.
const PREFIX_CHARS: usize = 8;

/// A key to take over.
#[derive(Clone, Debug)]
pub struct NewImport {
    pub name: String,
    pub key: Secret,
    pub permissions: Vec<i64>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why a key was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(
        "the key on standard input has fewer than {KEY_CHARS_MIN} characters: give the whole key, without anything else"
    )]
    TooShort,
    #[error("the name must have 2 to 50 characters")]
    Name,
    #[error("there is no group {0}: GET /api/v1/permission lists them")]
    NoSuchGroup(i64),
    #[error("there is this key already")]
    Taken,
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Takes a key over and returns its id.
///
/// # Errors
/// An [`ImportError`] that says what to do.
pub async fn import_api_key(store: &Store, import: NewImport) -> Result<i64, ImportError> {
    let store = PgAdminStore::new(store);
    let key = import.key.reveal();
    if key.chars().count() < KEY_CHARS_MIN {
        return Err(ImportError::TooShort);
    }
    if !(2..=50).contains(&import.name.chars().count()) {
        return Err(ImportError::Name);
    }
    let mut permissions = import.permissions;
    permissions.sort_unstable();
    permissions.dedup();
    let groups = store.permissions_by_id(&permissions).await?;
    if let Some(missing) = permissions.iter().find(|id| !groups.iter().any(|g| g.id == **id)) {
        return Err(ImportError::NoSuchGroup(*missing));
    }
    let mut organizations: Vec<_> = groups.iter().filter_map(|g| g.organization_id).collect();
    organizations.sort_unstable();
    organizations.dedup();
    let is_global_admin = groups.iter().any(|g| g.organization_id.is_none());
    let permit = decide(&Principal::system(), Action::Write, Resource::ApiKey { organizations, is_global_admin })?;
    let new = NewApiKey {
        name: import.name,
        key_hash: Sha256::digest(key.as_bytes()).into(),
        prefix: cut(key, PREFIX_CHARS).to_owned(),
        permissions,
        expires_at: import.expires_at,
    };
    match store.create_api_key(&permit, &ChangedBy::system(), &new).await {
        Ok(detail) => Ok(detail.key.id),
        Err(AdminError::Taken(_)) => Err(ImportError::Taken),
        Err(error) => Err(error.into()),
    }
}
