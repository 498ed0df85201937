//! `sluse admin reset-password`.

use std::sync::Arc;

use sluse_schema::secret::Secret;

use super::database::{Database, runtime};
use crate::config::Config;
use crate::data_dir::SECRET_KEY_FILE;
use crate::store::{Cipher, Store, StoreConfig};

/// Gives a user a new password and prints it.
pub fn reset_password(config: &Config, email: Option<&str>) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let database = Database::open(config).await?;
        let cipher = Arc::new(Cipher::new(&secret_key(config)?)?);
        let store = Store::connect(
            StoreConfig { url: database.url.clone(), num_connections_max: 2 },
            cipher,
            config.log.num_partitions,
        )
        .await?;
        let credentials = store.reset_password(email).await;
        store.close();
        database.close().await;
        let credentials = credentials?;
        let password = credentials.generated_password.as_ref().map_or("", Secret::reveal);
        println!("e-mail:   {}\npassword: {password}", credentials.email);
        Ok(())
    })
}

/// The secret key as `serve` uses it.
fn secret_key(config: &Config) -> anyhow::Result<Secret> {
    if let Some(key) = &config.secret_key {
        return Ok(key.clone());
    }
    let file = config.data_dir.join(SECRET_KEY_FILE);
    let text = std::fs::read_to_string(&file)
        .map_err(|error| anyhow::anyhow!("the secret key cannot be read from {}: {error}", file.display()))?;
    Ok(Secret::new(text.trim()))
}
