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

/// Hashes that no password is known to, of both kinds.
#[derive(Debug)]
struct Dummies {
    argon2: String,
    bcrypt: String,
}

/// As expensive as OS2iot's.
const BCRYPT_COST: u32 = 10;

impl Dummies {
    fn make() -> Result<Self, PasswordError> {
        let nobodys = uuid::Uuid::new_v4().to_string();
        let bcrypt = bcrypt::hash(&nobodys, BCRYPT_COST).map_err(|e| PasswordError::Hash(e.to_string()))?;
        Ok(Self { argon2: hash(&nobodys)?.reveal().to_owned(), bcrypt })
    }

    /// What a password is held against, first what decides: a wrong one always against one hash of either kind, so that the time
    /// tells neither whether there is such a user nor whether he came over from OS2iot and has not logged in yet.
    fn in_turn<'s>(&'s self, stored: Option<&'s str>) -> [&'s str; 2] {
        match stored {
            Some(old) if old.starts_with("$2") => [old, &self.argon2],
            Some(new) => [new, &self.bcrypt],
            None => [&self.argon2, &self.bcrypt],
        }
    }
}

/// Does the same off the request's thread, with a bound.
#[derive(Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    dummies: Arc<std::sync::OnceLock<Dummies>>,
}

impl Passwords {
    /// With the bound of two at once.
    pub fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(NUM_CONCURRENT_MAX)), dummies: Arc::default() }
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

    /// Checks a password. A wrong one takes as long whatever is stored, and if nothing is.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn verify(&self, password: String, stored: Option<Secret>) -> Result<Verdict, PasswordError> {
        let dummies = Arc::clone(&self.dummies);
        self.run(move || {
            let dummies = match dummies.get() {
                Some(dummies) => dummies,
                None => {
                    let made = Dummies::make()?;
                    dummies.get_or_init(|| made)
                }
            };
            let [deciding, other] = dummies.in_turn(stored.as_ref().map(Secret::reveal));
            let verdict = verify(&password, deciding);
            if verdict == Verdict::Wrong {
                std::hint::black_box(verify(&password, other));
            }
            Ok(verdict)
        })
        .await?
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

    #[actix_web::test]
    async fn a_wrong_password_is_held_against_one_hash_of_either_kind() {
        let dummies = Dummies::make().unwrap();
        let (old, new) = (bcrypt::hash("hunter2", 4).unwrap(), hash("hunter2").unwrap());
        for stored in [None, Some(old.as_str()), Some(new.reveal())] {
            let hashes = dummies.in_turn(stored);
            assert!(stored.is_none_or(|stored| hashes[0] == stored));
            let num_of = |kind: &str| hashes.iter().filter(|hash| hash.starts_with(kind)).count();
            assert_eq!((num_of("$argon2id$"), num_of("$2")), (1, 1), "{hashes:?}");
        }
        let passwords = Passwords::new();
        let check =
            |password: &str, stored: Option<&str>| passwords.verify(password.to_owned(), stored.map(Secret::new));
        assert_eq!(check("hunter2", Some(new.reveal())).await.unwrap(), Verdict::Right);
        assert!(matches!(check("hunter2", Some(&old)).await.unwrap(), Verdict::RightRehashed(_)));
        for stored in [None, Some(old.as_str()), Some(new.reveal()), Some("rubbish")] {
            assert_eq!(check("hunter3", stored).await.unwrap(), Verdict::Wrong);
        }
    }
}
