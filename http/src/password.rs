//! Passwords: Argon2id for new ones, bcrypt still verified (OS2iot's `$2a$10$`), on blocking threads and never more than two at
//! once: each takes 19 MiB and tens of milliseconds, and log-ins are not what the machine is there for.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use sluse_schema::secret::Secret;
use tokio::sync::Semaphore;

/// Shortest and longest password of the API.
pub const PASSWORD_CHARS: (usize, usize) = (6, 50);
const NUM_CONCURRENT_MAX: usize = 2;

/// Why hashing failed.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The hash function itself.
    #[error("the password could not be hashed: {0}")]
    Hash(String),
    /// The thread is gone.
    #[error("the thread that hashed a password ended")]
    Thread,
}

/// What checking a password showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wrong,
    Right,
    /// Right, by an older kind of hash; this one is to be stored instead.
    RightRehashed(Secret),
}

/// Hashes `password` with Argon2id. Blocking: tens of milliseconds.
///
/// # Errors
/// [`PasswordError::Hash`].
pub fn hash(password: &str) -> Result<Secret, PasswordError> {
    let salt = SaltString::generate(&mut OsRng);
    let hash =
        Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|e| PasswordError::Hash(e.to_string()))?;
    Ok(Secret::new(hash.to_string()))
}

/// Checks `password`. Blocking: tens of milliseconds.
pub fn verify(password: &str, stored: &str) -> Verdict {
    if stored.starts_with("$2") {
        return match bcrypt::verify(password, stored) {
            Ok(true) => hash(password).map_or(Verdict::Right, Verdict::RightRehashed),
            _ => Verdict::Wrong,
        };
    }
    let is_right = PasswordHash::new(stored)
        .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok());
    if is_right { Verdict::Right } else { Verdict::Wrong }
}

/// Does the same off the request's thread, with a bound.
#[derive(Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// Checked when there is no such user, so that the answer takes as long.
    dummy: std::sync::OnceLock<String>,
}

impl Passwords {
    /// With the bound of two at once.
    pub fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(NUM_CONCURRENT_MAX)), dummy: std::sync::OnceLock::new() }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| PasswordError::Thread)?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|_| PasswordError::Thread)
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn hash(&self, password: String) -> Result<Secret, PasswordError> {
        self.run(move || hash(&password)).await?
    }

    /// Checks a password; without a stored hash it takes as long and is wrong.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn verify(&self, password: String, stored: Option<Secret>) -> Result<Verdict, PasswordError> {
        if let Some(stored) = stored {
            return self.run(move || verify(&password, stored.reveal())).await;
        }
        if self.dummy.get().is_none() {
            let made = self.hash("no such user".to_owned()).await?;
            let _ = self.dummy.set(made.reveal().to_owned());
        }
        let dummy = self.dummy.get().cloned().unwrap_or_default();
        self.run(move || verify(&password, &dummy)).await?;
        Ok(Verdict::Wrong)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_verified_by_its_own_hash_only() {
        let stored = hash("hunter2").unwrap();
        assert!(stored.reveal().starts_with("$argon2id$"));
        assert_eq!(verify("hunter2", stored.reveal()), Verdict::Right);
        assert_eq!(verify("hunter3", stored.reveal()), Verdict::Wrong);
        assert_eq!(verify("hunter2", "rubbish"), Verdict::Wrong);
    }

    #[test]
    fn a_bcrypt_hash_of_os2iot_is_verified_and_replaced() {
        let stored = bcrypt::hash("hunter2", 4).unwrap();
        match verify("hunter2", &stored) {
            Verdict::RightRehashed(new) => assert_eq!(verify("hunter2", new.reveal()), Verdict::Right),
            other => panic!("{other:?}"),
        }
        assert_eq!(verify("hunter3", &stored), Verdict::Wrong);
    }
}
