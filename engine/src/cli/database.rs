//! The database for commands beside `serve`: the configured one, the private one of a running `sluse`, or the private one
//! started for the while.

use sluse_schema::secret::Secret;

use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::store::private_postgres::{Binaries, PrivatePostgres, find_binaries};

/// A database that can be reached.
#[derive(Debug)]
pub struct Database {
    pub url: Secret,
    started: Option<(PrivatePostgres, DataDir)>,
}

impl Database {
    /// Reaches it.
    ///
    /// # Errors
    /// When the private one cannot be started.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(url) = &config.database.url {
            return Ok(Self { url: url.clone(), started: None });
        }
        match DataDir::open(&config.data_dir) {
            Ok(data_dir) => {
                let postgres = PrivatePostgres::start(data_dir.path()).await?;
                Ok(Self { url: postgres.url(), started: Some((postgres, data_dir)) })
            }
            // `sluse serve` runs: its PostgreSQL serves us too.
            Err(DataDirError::InUse { path, .. }) => {
                Ok(Self { url: PrivatePostgres::url_of_running(&path)?, started: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Programs like `pg_dump`, of the private server's version, or the newest here.
    ///
    /// # Errors
    /// When there are none.
    pub fn binaries(&self) -> anyhow::Result<Binaries> {
        match &self.started {
            Some((postgres, _)) => Ok(postgres.binaries().clone()),
            None => find_binaries().into_iter().next().ok_or_else(|| {
                anyhow::anyhow!(
                    "pg_dump and pg_restore are needed: install PostgreSQL (apt-get install postgresql-client)"
                )
            }),
        }
    }

    /// Stops what was started for the while.
    pub async fn close(self) {
        if let Some((postgres, _data_dir)) = self.started {
            postgres.stop().await;
        }
    }
}

/// A runtime for a command that does one thing.
///
/// # Errors
/// When the operating system gives no poller.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// One connection to it.
///
/// # Errors
/// When the URL is not understood.
pub fn pool(url: &Secret) -> anyhow::Result<deadpool_postgres::Pool> {
    let url = crate::store::database_url::DatabaseUrl::parse(url)?;
    Ok(crate::store::pool::open(&url, crate::store::pool::IoThread::start()?, 1, crate::store::pool::Use::General)?)
}
