//! `sluse admin reset-password`, `sluse admin import-api-key`.

use std::io::BufRead;
use std::sync::Arc;

use sluse_schema::secret::Secret;

use super::database::{Database, runtime};
use crate::config::Config;
use crate::data_dir::SECRET_KEY_FILE;
use crate::store::admin::{NewImport, import_api_key as import};
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

/// Takes over an API key, which stands in the first line of standard input.
pub fn import_api_key(
    config: &Config,
    name: &str,
    permissions: Vec<i64>,
    expires_on: Option<&str>,
) -> anyhow::Result<()> {
    let expires_at = match expires_on {
        None => None,
        Some(text) => Some(
            sluse_http::validate::parse_date(text)
                .ok_or_else(|| anyhow::anyhow!("--expires-on must be a date like 2027-01-31"))?,
        ),
    };
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let new = NewImport { name: name.to_owned(), key: Secret::new(line.trim()), permissions, expires_at };
    runtime()?.block_on(async {
        let database = Database::open(config).await?;
        let cipher = Arc::new(Cipher::new(&secret_key(config)?)?);
        let store_config = StoreConfig { url: database.url.clone(), num_connections_max: 2 };
        let store = Store::connect(store_config, cipher, config.log.num_partitions).await?;
        let imported = import(&store, new).await;
        store.close();
        database.close().await;
        println!("imported as API key {}", imported?);
        Ok(())
    })
}

/// The secret key as `serve` uses it.
pub(super) fn secret_key(config: &Config) -> anyhow::Result<Secret> {
    if let Some(key) = &config.secret_key {
        return Ok(key.clone());
    }
    let file = config.data_dir.join(SECRET_KEY_FILE);
    let text = std::fs::read_to_string(&file)
        .map_err(|error| anyhow::anyhow!("the secret key cannot be read from {}: {error}", file.display()))?;
    Ok(Secret::new(text.trim()))
}
