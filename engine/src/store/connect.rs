//! The store: one value that implements every port of the data path over PostgreSQL.
//!
//! What start checks, so that nothing is written under wrong assumptions: the server's version, the fingerprint of the secret
//! key, and the number of partitions, which is fixed by the first start for ever.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use sluse_schema::id::DeviceId;
use sluse_schema::port::{Activation, StoreError};
use sluse_schema::secret::Secret;

use super::changes::Listener;
use super::cipher::Cipher;
use super::database_url::{DatabaseUrl, DatabaseUrlError};
use super::error::{WorkError, describe};
use super::gather::Gather;
use super::metadata::SharedEnds;
use super::migrate::{MigrateError, migrate};
use super::pool::{self, IoThread, Use, lease, within};
use super::scripts::ScriptCache;
use super::tls::TlsError;

/// `SET COMPRESSION lz4` came with PostgreSQL 14.
const SERVER_VERSION_MIN: i32 = 140_000;
/// How long a start waits for the database before it gives up.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the database is and how much of it one node may use.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `postgres://…`, as [`DatabaseUrl`] reads it.
    pub url: Secret,
    pub num_connections_max: usize,
}

impl StoreConfig {
    /// This database with the usual number of connections.
    pub fn new(url: Secret) -> Self {
        Self { url, num_connections_max: 16 }
    }
}

/// Why the store could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Url(#[from] DatabaseUrlError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no thread for database connections: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error("the database server is PostgreSQL {found}, at least 14 is needed")]
    ServerTooOld {
        /// Its version as it says it.
        found: String,
    },
    #[error(
        "the secrets in this database were encrypted with another key (fingerprint {stored}, ours is {ours}): start with \
         the SLUSE_SECRET_KEY that was used then"
    )]
    OtherKey {
        /// Fingerprint in the database.
        stored: String,
        /// Fingerprint of the key given.
        ours: String,
    },
    #[error(
        "this database belongs to a log of {stored} partitions, {ours} are configured: the number is fixed at the first \
         start (see log.num_partitions)"
    )]
    OtherPartitions {
        /// What the first start was configured with.
        stored: String,
        /// What this one is.
        ours: u32,
    },
}

/// PostgreSQL as the data path sees it. Cheap to share as `Arc`.
#[derive(Debug)]
pub struct Store {
    pub(super) pool: Pool,
    /// For looking up devices by their ids.
    pub(super) look_ups: Pool,
    pub(super) cipher: Arc<Cipher>,
    pub(super) num_partitions: u32,
    pub(super) scripts: ScriptCache,
    pub(super) ends: SharedEnds,
    pub(super) activating: Gather<DeviceId, Activation>,
    pub(super) listener: Listener,
    _io: Arc<IoThread>,
}

impl Store {
    /// Connects, brings the schema up to date and checks that key and partitions are the ones this database was made with.
    /// Waits up to 30 s for a server that is still starting.
    ///
    /// # Errors
    /// An [`OpenError`] that says what to do.
    pub async fn connect(
        config: StoreConfig,
        cipher: Arc<Cipher>,
        num_partitions: u32,
    ) -> Result<Arc<Self>, OpenError> {
        let url = DatabaseUrl::parse(&config.url)?;
        let io = IoThread::start()?;
        let num_connections_max = config.num_connections_max.max(2);
        let num_look_ups_max = (num_connections_max / 4).max(1);
        // Two at least: whoever leads the nodes' jobs keeps one, and must not wait for itself.
        let num_general_max = (num_connections_max - num_look_ups_max).max(2);
        let pool = pool::open(&url, io.clone(), num_general_max, Use::General)?;
        let look_ups = pool::open(&url, io.clone(), num_look_ups_max, Use::LookUps)?;
        wait_for_server(&pool).await?;
        check_server(&pool).await?;
        migrate(&pool).await?;
        check_setting(&pool, "secret_key_fingerprint", &cipher.fingerprint())
            .await?
            .map_or(Ok(()), |stored| Err(OpenError::OtherKey { stored, ours: cipher.fingerprint() }))?;
        check_setting(&pool, "num_partitions", &num_partitions.to_string())
            .await?
            .map_or(Ok(()), |stored| Err(OpenError::OtherPartitions { stored, ours: num_partitions }))?;
        let listener = Listener::start(&url, &io)?;
        let (scripts, ends) = (ScriptCache::default(), SharedEnds::default());
        let activating = Gather::default();
        let store =
            Arc::new(Self { pool, look_ups, cipher, num_partitions, scripts, ends, activating, listener, _io: io });
        store.assign_target_partitions().await?;
        Ok(store)
    }

    /// The pool, for the administrative path.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A name for all nodes that share this database: made up at the first start, the same for ever.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database is away.
    pub async fn cluster_id(&self) -> Result<String, StoreError> {
        let new = hex::encode(rand::random::<[u8; 8]>());
        Ok(check_setting(&self.pool, "cluster_id", &new).await?.unwrap_or(new))
    }

    /// The cipher that secrets in this database are encrypted with.
    pub fn cipher(&self) -> &Arc<Cipher> {
        &self.cipher
    }

    /// Partitions of each topic; fixed for ever.
    pub fn num_partitions(&self) -> u32 {
        self.num_partitions
    }

    /// Whether the database answers right now; the text is for `/readyz`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] within a few seconds when it does not.
    pub async fn check(&self) -> Result<(), StoreError> {
        within(Duration::from_secs(4), async {
            let client = lease(&self.pool).await?;
            client.simple_query("SELECT 1").await?;
            client.done();
            Ok(())
        })
        .await
    }

    /// Ends the listener and closes every connection.
    pub fn close(&self) {
        self.listener.stop();
        self.pool.close();
        self.look_ups.close();
    }
}

async fn wait_for_server(pool: &Pool) -> Result<(), StoreError> {
    let give_up_at = tokio::time::Instant::now() + START_TIMEOUT;
    loop {
        match lease(pool).await {
            Ok(client) => {
                client.done();
                return Ok(());
            }
            Err(error) if tokio::time::Instant::now() >= give_up_at => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn check_server(pool: &Pool) -> Result<(), OpenError> {
    let client = lease(pool).await?;
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int,
                    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('timezone')",
            &[],
        )
        .await
        .map_err(|error| StoreError::Unavailable(describe(&error)))?;
    client.done();
    let (version, number): (String, i32) = (row.get(0), row.get(1));
    let (synchronous_commit, fsync, timezone): (String, String, String) = (row.get(2), row.get(3), row.get(4));
    if number < SERVER_VERSION_MIN {
        return Err(OpenError::ServerTooOld { found: version });
    }
    if synchronous_commit == "off" || fsync == "off" {
        tracing::warn!(
            %synchronous_commit,
            %fsync,
            "the database may forget its last transactions in a crash: device state and cursors would then fall behind the log"
        );
    }
    if timezone != "UTC" {
        tracing::warn!(%timezone, "the session's time zone is not UTC although it was set: is there a proxy in between");
    }
    tracing::info!(%version, "connected to PostgreSQL");
    Ok(())
}

/// Keeps `value` when nothing is stored yet; otherwise returns what is stored where it differs.
async fn check_setting(pool: &Pool, name: &str, value: &str) -> Result<Option<String>, StoreError> {
    within(Duration::from_secs(10), async {
        let client = lease(pool).await?;
        client
            .execute(
                "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
                &[&name, &value],
            )
            .await?;
        let row = client.query_one("SELECT value FROM setting WHERE name = $1", &[&name]).await?;
        client.done();
        let stored: String = row.get(0);
        Ok::<_, WorkError>((stored != value).then_some(stored))
    })
    .await
}
