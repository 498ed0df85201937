//! Secrets at rest: one key, an authenticated cipher, and a fingerprint by which a database recognises its key.
//!
//! Form of a ciphertext: `key id (1 byte) · nonce (24 bytes) · XChaCha20-Poly1305 ciphertext and tag`. The nonce is random,
//! which is safe at 24 bytes for any number of secrets. The key and its fingerprint come out of one Argon2id run over
//! `SLUSE_SECRET_KEY`, so that neither the fingerprint nor a stolen row gives a weak phrase away cheaply.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sluse_schema::secret::Secret;

/// Shortest secret key, in characters.
pub const SECRET_KEY_CHARS_MIN: usize = 32;

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
const FINGERPRINT_BYTES: usize = 8;
/// Fixed: the same text has to give the same key on every node, and there is one key per deployment.
const SALT: &[u8] = b"sluse secret key v1";

/// Why something could not be encrypted or decrypted. Never shows any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// The text for the key is too short to be one.
    #[error(
        "the secret key has {num_chars} characters, {SECRET_KEY_CHARS_MIN} are needed: set SLUSE_SECRET_KEY to a longer text"
    )]
    KeyTooShort {
        /// What it has.
        num_chars: usize,
    },
    /// Encrypted under another key than ours.
    #[error(
        "encrypted with another secret key: start with the SLUSE_SECRET_KEY that was used then, or enter the secret again"
    )]
    OtherKey,
    /// Cut short or changed.
    #[error("the stored secret is damaged: enter it again")]
    Damaged,
    /// The operating system's random numbers, or memory for the key, were not to be had.
    #[error("the cipher could not be set up")]
    Unusable,
}

/// Encrypts and decrypts secrets under the deployment's one key.
#[derive(Clone)]
pub struct Cipher {
    aead: XChaCha20Poly1305,
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Cipher {
    /// The cipher of this secret key. Takes some tens of milliseconds, on purpose.
    ///
    /// # Errors
    /// [`CipherError::KeyTooShort`] below [`SECRET_KEY_CHARS_MIN`] characters.
    pub fn new(secret_key: &Secret) -> Result<Self, CipherError> {
        let num_chars = secret_key.reveal().chars().count();
        if num_chars < SECRET_KEY_CHARS_MIN {
            return Err(CipherError::KeyTooShort { num_chars });
        }
        let mut derived = [0u8; KEY_BYTES + FINGERPRINT_BYTES];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
            .hash_password_into(secret_key.reveal().as_bytes(), SALT, &mut derived)
            .map_err(|_| CipherError::Unusable)?;
        let (key, fingerprint) = derived.split_at(KEY_BYTES);
        let aead = XChaCha20Poly1305::new_from_slice(key).map_err(|_| CipherError::Unusable)?;
        let fingerprint = fingerprint.try_into().map_err(|_| CipherError::Unusable)?;
        Ok(Self { aead, fingerprint })
    }

    /// Names the key without giving it away: kept in the database, compared at every start.
    pub fn fingerprint(&self) -> String {
        hex::encode(self.fingerprint)
    }

    fn key_id(&self) -> u8 {
        self.fingerprint[0]
    }

    /// Encrypts `clear`; two runs over the same text differ.
    pub fn encrypt(&self, clear: &[u8]) -> Vec<u8> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let sealed =
            self.aead.encrypt(&nonce, clear).expect("sealing fails only beyond 256 GiB, and no secret has that");
        let mut whole = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        whole.push(self.key_id());
        whole.extend_from_slice(&nonce);
        whole.extend_from_slice(&sealed);
        whole
    }

    /// What [`Cipher::encrypt`] was given.
    ///
    /// # Errors
    /// [`CipherError::OtherKey`] or [`CipherError::Damaged`]; nothing of the text is shown either way.
    pub fn decrypt(&self, whole: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (key_id, rest) = whole.split_first().ok_or(CipherError::Damaged)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES).ok_or(CipherError::Damaged)?;
        if *key_id != self.key_id() {
            return Err(CipherError::OtherKey);
        }
        self.aead.decrypt(XNonce::from_slice(nonce), sealed).map_err(|_| CipherError::Damaged)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cipher({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(key: &str) -> Cipher {
        Cipher::new(&Secret::new(key)).unwrap()
    }

    #[test]
    fn what_was_encrypted_comes_back_and_looks_different_every_time() {
        let cipher = cipher("correct horse battery staple, twice");
        let (a, b) = (cipher.encrypt(b"s3cret"), cipher.encrypt(b"s3cret"));
        assert_ne!(a, b);
        assert!(!a.windows(6).any(|w| w == b"s3cret"));
        assert_eq!(cipher.decrypt(&a).unwrap(), b"s3cret");
        assert_eq!(cipher.decrypt(&cipher.encrypt(b"")).unwrap(), b"");
    }

    #[test]
    fn the_same_key_text_makes_the_same_key_and_another_text_another_fingerprint() {
        let a = cipher("0123456789abcdef0123456789abcdef");
        let b = cipher("0123456789abcdef0123456789abcdef");
        let c = cipher("0123456789abcdef0123456789abcdeg");
        assert_eq!(b.decrypt(&a.encrypt(b"x")).unwrap(), b"x");
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_ne!(a.fingerprint(), c.fingerprint());
        assert!(matches!(c.decrypt(&a.encrypt(b"x")), Err(CipherError::OtherKey | CipherError::Damaged)));
    }

    #[test]
    fn a_changed_or_cut_ciphertext_is_damaged_and_nothing_panics() {
        let cipher = cipher("correct horse battery staple, twice");
        let whole = cipher.encrypt(b"s3cret");
        for len in 0..whole.len() {
            assert!(cipher.decrypt(&whole[..len]).is_err());
        }
        for at in 1..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.decrypt(&changed), Err(CipherError::Damaged));
        }
    }

    #[test]
    fn a_short_key_is_refused_and_nothing_shows_the_key() {
        assert_eq!(Cipher::new(&Secret::new("short")).err(), Some(CipherError::KeyTooShort { num_chars: 5 }));
        let key = "correct horse battery staple, twice";
        assert!(!format!("{:?}", cipher(key)).contains("horse"));
    }
}
