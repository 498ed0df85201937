//! Secrets between rows and their ciphertext: one secret, or a JSON object of several.

use std::collections::BTreeMap;

use sluse_schema::port::StoreError;
use sluse_schema::port::admin::AdminError;
use sluse_schema::secret::Secret;

use crate::store::cipher::Cipher;

/// A stored column that does not hold what this version of Sluse wrote there.
pub(super) fn unreadable(column: &str) -> AdminError {
    AdminError::Store(StoreError::Refused(format!("{column} does not hold what it must")))
}

pub(super) fn seal(cipher: &Cipher, secret: &Secret) -> Vec<u8> {
    cipher.encrypt(secret.reveal().as_bytes())
}

pub(super) fn open(cipher: &Cipher, sealed: &[u8]) -> Result<Secret, AdminError> {
    let clear = cipher.decrypt(sealed).map_err(|_| {
        AdminError::Store(StoreError::Refused("a secret was encrypted with another SLUSE_SECRET_KEY".into()))
    })?;
    String::from_utf8(clear).map(Secret::new).map_err(|_| unreadable("an encrypted column"))
}

/// `None` for no secrets at all.
pub(super) fn seal_map(cipher: &Cipher, secrets: &BTreeMap<String, Secret>) -> Option<Vec<u8>> {
    if secrets.is_empty() {
        return None;
    }
    let clear: BTreeMap<&str, &str> = secrets.iter().map(|(name, s)| (name.as_str(), s.reveal())).collect();
    let text = serde_json::to_vec(&clear).expect("a map of texts is JSON");
    Some(cipher.encrypt(&text))
}

pub(super) fn open_map(cipher: &Cipher, sealed: Option<&[u8]>) -> Result<BTreeMap<String, Secret>, AdminError> {
    let Some(sealed) = sealed else { return Ok(BTreeMap::new()) };
    let text = open(cipher, sealed)?;
    let clear: BTreeMap<String, String> =
        serde_json::from_str(text.reveal()).map_err(|_| unreadable("an encrypted column"))?;
    Ok(clear.into_iter().map(|(name, s)| (name, Secret::new(s))).collect())
}
