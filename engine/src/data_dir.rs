//! The data directory: one process at a time, and the keys that a node on its own makes up.
//!
//! `sluse.lock` is held while the process lives. `secret-key`, `jwt-secret` and `node-id` are made at the first start that was
//! not given them, readable by their owner only, and never changed afterwards.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::RngCore;
use sluse_schema::secret::Secret;

use crate::config::Config;

/// The file with the key that encrypts secrets.
pub const SECRET_KEY_FILE: &str = "secret-key";
/// The file with the key that signs tokens.
pub const JWT_SECRET_FILE: &str = "jwt-secret";
const NODE_ID_FILE: &str = "node-id";
const LOCK_FILE: &str = "sluse.lock";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("the data directory {} cannot be used: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("another sluse (pid {pid}) uses the data directory {}: stop it, or give this one a SLUSE_DATA_DIR of its own", path.display())]
    InUse { path: PathBuf, pid: String },
    #[error("{} is empty: it held a key, restore it from a backup", .0.display())]
    EmptyKey(PathBuf),
}

/// A data directory that is ours while this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// The three things that name and protect a node.
#[derive(Clone, Debug)]
pub struct Keys {
    pub secret_key: Secret,
    pub jwt_secret: Secret,
    pub node_id: String,
}

impl DataDir {
    /// Makes the directory if it is not there, and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] when another process holds it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_path_buf(), source };
        // Another user may pass through (the private PostgreSQL does when we are root), nobody may look around.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                return Err(DataDirError::InUse { path, pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was configured, or what is kept here, or something new that is kept from now on.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn keys(&self, config: &Config) -> Result<Keys, DataDirError> {
        Ok(Keys {
            secret_key: match &config.secret_key {
                Some(key) => key.clone(),
                None => self.kept(SECRET_KEY_FILE, random_hex)?,
            },
            jwt_secret: match &config.http.jwt_secret {
                Some(key) => key.clone(),
                None => self.kept(JWT_SECRET_FILE, random_hex)?,
            },
            node_id: match &config.node_id {
                Some(id) => id.clone(),
                None => self.kept(NODE_ID_FILE, || uuid::Uuid::new_v4().to_string())?.reveal().to_owned(),
            },
        })
    }

    fn kept(&self, name: &str, make: impl FnOnce() -> String) -> Result<Secret, DataDirError> {
        let file = self.path.join(name);
        let failed = |source| DataDirError::Io { path: file.clone(), source };
        match fs::read_to_string(&file) {
            Ok(text) if text.trim().is_empty() => Err(DataDirError::EmptyKey(file)),
            Ok(text) => Ok(Secret::new(text.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = make();
                write_private(&file, format!("{text}\n").as_bytes()).map_err(failed)?;
                Ok(Secret::new(text))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Writes a file that only its owner can read, whole or not at all, and on disk when this returns.
///
/// # Errors
/// The operating system's.
pub fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// 256 random bits as 64 hex digits.
fn random_hex() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Said;

    #[test]
    fn keys_are_made_once_readable_by_their_owner_only_and_configured_ones_win() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("new")).unwrap();
        let config = Config::of_said(Said::default(), None).unwrap();
        let first = data.keys(&config).unwrap();
        assert_eq!(first.secret_key, data.keys(&config).unwrap().secret_key);
        assert!(first.secret_key.reveal().len() >= 32);
        let mode = fs::metadata(data.path().join(SECRET_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let said = Said { node_id: "node-1".to_owned(), secret_key: "k".repeat(32), ..Said::default() };
        let configured = data.keys(&Config::of_said(said, None).unwrap()).unwrap();
        assert_eq!((configured.node_id.as_str(), configured.secret_key.reveal()), ("node-1", "k".repeat(32).as_str()));
    }

    #[test]
    fn a_data_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn an_emptied_key_file_is_an_error_and_not_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        fs::write(dir.path().join(SECRET_KEY_FILE), "").unwrap();
        let config = Config::of_said(Said::default(), None).unwrap();
        assert!(matches!(data.keys(&config), Err(DataDirError::EmptyKey(_))));
    }
}
