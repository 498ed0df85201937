//! A broker shared by the tests that run at the same time, and logs on it that do not see each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use sluse_engine::kafka_log::{KafkaLog, KafkaLogConfig};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Log, LogError};
use sluse_schema::record::{NewRecord, Offset, Record, Step, Topic};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::certificates::Certificates;
use crate::kafka_process::{Extras, Kafka};

pub use sluse_schema::testing::log_conformance::{read_all, record};

pub const P0: PartitionId = PartitionId(0);

/// Running brokers, and their directory.
pub struct Cluster {
    pub kafka: Kafka,
    _dir: TempDir,
}

/// Brokers of a test's own.
pub async fn start(num_brokers: usize) -> Cluster {
    let start = move || {
        let mut dir = tempfile::tempdir().unwrap();
        dir.disable_cleanup(std::env::var_os("KEEP").is_some());
        Cluster { kafka: Kafka::start(dir.path(), num_brokers).unwrap(), _dir: dir }
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// A broker of a test's own whose SASL listener speaks TLS.
pub async fn start_with_tls(certificates: &Certificates) -> Cluster {
    let tls_pem = Some(format!("{}{}", certificates.key, certificates.certificate));
    let extras = Extras { tls_pem, ..Extras::default() };
    let start = move || {
        let dir = tempfile::tempdir().unwrap();
        Cluster { kafka: Kafka::start_with(dir.path(), 1, extras).unwrap(), _dir: dir }
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// The broker of the tests that run now; the last one stops it.
pub async fn shared() -> Arc<Cluster> {
    static SHARED: OnceLock<Mutex<Weak<Cluster>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock().await;
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(start(1).await);
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// A prefix that no other test uses.
pub fn fresh_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Four partitions below a prefix of the test's own; records from 1970 are kept. Sessions are as short as Kafka allows.
pub fn config(brokers: &str, prefix: &str, node_id: &str) -> KafkaLogConfig {
    KafkaLogConfig {
        prefix: prefix.to_owned(),
        retention_ms: None,
        session_timeout: Duration::from_secs(6),
        revoke_within: Duration::from_secs(4),
        ..KafkaLogConfig::new(brokers, node_id, 4)
    }
}

pub async fn open(config: KafkaLogConfig) -> Arc<KafkaLog> {
    if let Ok(filter) = std::env::var("TEST_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
    KafkaLog::open(config).await.unwrap()
}

pub fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value.to_vec()).unwrap()).collect()
}

pub async fn uplinks(log: &dyn Log, partition: PartitionId) -> Vec<String> {
    texts(&read_all(log, Topic::Uplinks, partition).await)
}

pub async fn deliveries(log: &dyn Log, partition: PartitionId) -> Vec<String> {
    texts(&read_all(log, Topic::Deliveries, partition).await)
}

/// A step of partition 0 with one delivery of this text to partition 0.
pub fn step(from: Offset, next: Offset, text: &str) -> Step {
    Step { partition: P0, from, next, outputs: vec![(P0, record(1, 1_000, text))] }
}

pub fn append(text: impl Into<String>) -> Vec<NewRecord> {
    vec![record(1, 1_000, text)]
}

/// Waits for what happens by itself within a minute.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started_at = Instant::now();
    while !is_so().await {
        assert!(started_at.elapsed() < Duration::from_secs(60), "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Commits a step the way the device stage does: however long it takes, and an unclear outcome is settled first. `false` when the
/// partition is lost.
pub async fn commit(log: &dyn Log, step: Step) -> bool {
    loop {
        match log.commit_step(step.clone()).await {
            Ok(()) => return true,
            Err(LogError::Unclear(_) | LogError::Fenced { .. }) => match log.committed(step.partition).await {
                Ok(position) if position == Some(step.next) => return true,
                Ok(position) if position.unwrap_or_default() == step.from => {}
                other @ (Ok(_) | Err(LogError::Fenced { .. })) => {
                    eprintln!("{} [{}, {}): {other:?}", step.partition, step.from, step.next);
                    return false;
                }
                Err(error) => eprintln!("{} [{}, {}): {error}", step.partition, step.from, step.next),
            },
            Err(error) => eprintln!("{} [{}, {}): {error}", step.partition, step.from, step.next),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
