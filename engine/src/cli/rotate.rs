//! `sluse admin rotate-secret-key`.
//!
//! A key that is kept in the data directory is replaced there: the new one is written beside it (`secret-key.next`) before the
//! database changes, and takes its place afterwards. Cut off in between, the command can simply be given again.

use std::fs;
use std::path::{Path, PathBuf};

use rand::RngCore;
use sluse_schema::secret::Secret;

use super::admin::secret_key;
use super::database::{Database, runtime};
use crate::config::Config;
use crate::data_dir::{SECRET_KEY_FILE, write_private};
use crate::store::Cipher;
use crate::store::rotate::{Rotation, rotate_secret_key as rotate};

/// Rotates the key.
pub fn rotate_secret_key(config: &Config, new_key_file: Option<&Path>) -> anyhow::Result<()> {
    let own_file = config.data_dir.join(SECRET_KEY_FILE);
    let is_kept_here = config.secret_key.is_none();
    let new_file: PathBuf = match new_key_file {
        Some(file) => file.to_path_buf(),
        None if is_kept_here => config.data_dir.join(format!("{SECRET_KEY_FILE}.next")),
        None => {
            anyhow::bail!("the key is given as SLUSE_SECRET_KEY: say with --new-key-file where the new one is to stand")
        }
    };
    runtime()?.block_on(async {
        // Holds the data directory, unless a node does: then the database says so.
        let database = Database::open(config).await?;
        let done = async {
            let old = Cipher::new(&secret_key(config)?)?;
            let new_key = read_or_make(&new_file)?;
            let new = Cipher::new(&new_key)?;
            Ok::<_, anyhow::Error>((rotate(&database.url, &old, &new).await?, new_key))
        }
        .await;
        database.close().await;
        let (rotation, new_key) = done?;
        if is_kept_here {
            write_private(&own_file, format!("{}\n", new_key.reveal()).as_bytes())?;
            if new_key_file.is_none() {
                fs::remove_file(&new_file)?;
            }
        }
        match rotation {
            Rotation::Done { num_secrets } => println!("{num_secrets} secrets are encrypted with the new key"),
            Rotation::AlreadyDone => println!("all secrets were encrypted with the new key already"),
        }
        if is_kept_here {
            println!("the new key is kept in {}; old backups need the old one", own_file.display());
        } else {
            println!("start every node with the key in {} as SLUSE_SECRET_KEY", new_file.display());
        }
        Ok(())
    })
}

fn read_or_make(file: &Path) -> anyhow::Result<Secret> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Secret::new(text.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0u8; 32];
            rand::rng().fill_bytes(&mut bytes);
            let key = Secret::new(hex::encode(bytes));
            write_private(file, format!("{}\n", key.reveal()).as_bytes())
                .map_err(|error| anyhow::anyhow!("the new key cannot be written to {}: {error}", file.display()))?;
            Ok(key)
        }
        Err(error) => Err(anyhow::anyhow!("the new key cannot be read from {}: {error}", file.display())),
    }
}
