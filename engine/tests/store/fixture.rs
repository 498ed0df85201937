//! A private PostgreSQL shared by the tests that run at the same time, and rows to work with.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use sluse_engine::store::private_postgres::PrivatePostgres;
use sluse_engine::store::{Cipher, Store, StoreConfig};
use sluse_schema::record::{LogIdentity, Offset, Position};
use sluse_schema::secret::Secret;
use tokio::sync::Mutex;

pub const KEY: &str = "0123456789abcdef0123456789abcdef";
pub const NUM_PARTITIONS: u32 = 8;

/// A running server; the last test that uses it stops it.
pub struct Server {
    pub postgres: PrivatePostgres,
    _dir: tempfile::TempDir,
}

impl Server {
    /// CPU time of the server's living processes together, in steps of 10 ms.
    pub fn cpu_seconds(&self) -> f64 {
        let postmaster = self.postgres.pid().unwrap();
        let ticks = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name in parentheses: state, parent, …, user and system time as the 12th and 13th.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let is_ours = fields[1].parse::<i32>() == Ok(postmaster);
            is_ours.then(|| fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap())
        });
        ticks.sum::<f64>() / 100.0
    }
}

/// The server of the tests that run now.
pub async fn server() -> Arc<Server> {
    static SHARED: OnceLock<Mutex<Weak<Server>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(private_server().await);
    *shared = Arc::downgrade(&server);
    server
}

/// A server of its own, for a test that ends it.
pub async fn private_server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    Server { postgres, _dir: dir }
}

pub fn cipher() -> Arc<Cipher> {
    static CIPHER: OnceLock<Arc<Cipher>> = OnceLock::new();
    CIPHER.get_or_init(|| Arc::new(Cipher::new(&Secret::new(KEY)).unwrap())).clone()
}

/// A fresh database with our schema.
pub struct Database {
    pub store: Arc<Store>,
    pub url: Secret,
    /// Keeps the server alive.
    pub _server: Arc<Server>,
}

impl Database {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = server().await;
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let url = server.postgres.url();
        let (client, connection) = tokio_postgres::connect(url.reveal(), tokio_postgres::NoTls).await.unwrap();
        let driving = tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        drop(client);
        driving.await.unwrap().unwrap();
        let url = Secret::new(url.reveal().replace("/sluse?", &format!("/{name}?")));
        let store = Store::connect(StoreConfig::new(url.clone()), cipher(), NUM_PARTITIONS).await.unwrap();
        Self { store, url, _server: server }
    }

    /// Runs statements.
    pub async fn run(&self, sql: &str) {
        self.store.pool().get().await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// The single number that a query gives.
    pub async fn number(&self, sql: &str) -> i64 {
        self.store.pool().get().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }

    /// An organisation (1), an application (1) in it, `num` devices (1 to `num`).
    pub async fn with_devices(num: u32) -> Self {
        let database = Self::new().await;
        database
            .run(&format!(
                "INSERT INTO organization (name) VALUES ('Aarhus');
                 INSERT INTO application (organization_id, name) VALUES (1, 'Water');
                 INSERT INTO iot_device (application_id, type, name, device_eui)
                 SELECT 1, 'LORAWAN', 'Meter ' || i, lpad(to_hex(i), 16, '0') FROM generate_series(1, {num}) i"
            ))
            .await;
        database
    }

    /// As [`Database::with_devices`], with `num` HTTP targets (1 to `num`), all in partition 0.
    pub async fn with_targets(num: u32) -> Self {
        let database = Self::with_devices(1).await;
        database
            .run(&format!(
                "INSERT INTO data_target (application_id, partition, type, name, url)
                 SELECT 1, 0, 'HTTP_PUSH', 'Target ' || i, 'https://example.org/in' FROM generate_series(1, {num}) i"
            ))
            .await;
        database
    }
}

pub fn log() -> LogIdentity {
    LogIdentity { store: "embedded:test".into(), incarnation: 1 }
}

pub fn position(offset: u64) -> Position {
    Position { log: log(), offset: Offset(offset) }
}
