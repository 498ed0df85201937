//! PostgreSQL away and back, and a node that was killed.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sluse_engine::store::private_postgres::PrivatePostgres;
use sluse_engine::store::{Store, StoreConfig};
use sluse_schema::id::DeviceId;
use sluse_schema::port::{ChangeFeed, DeviceStore, StoreError};
use tokio::time::Instant;

use crate::fixture::{NUM_PARTITIONS, cipher, private_server};

fn kill(signal: &str, pid: i32) {
    assert!(Command::new("kill").arg(signal).arg(pid.to_string()).status().unwrap().success());
}

async fn until_it_answers(store: &Arc<Store>) {
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while let Err(error) = store.check().await {
        assert!(Instant::now() < give_up_at, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn killed_postgres_is_unavailable_within_seconds_and_comes_back_by_itself() {
    let server = private_server().await;
    let store = Store::connect(StoreConfig::new(server.postgres.url()), cipher(), NUM_PARTITIONS).await.unwrap();
    let pid = server.postgres.pid().unwrap();
    kill("-KILL", pid);
    // The backends notice on their own; until then an open connection may still answer.
    let gone_at = Instant::now();
    let mut unavailable = None;
    while gone_at.elapsed() < Duration::from_secs(10) && unavailable.is_none() {
        let called_at = Instant::now();
        if let Err(error) = store.check().await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            unavailable = Some(called_at.elapsed());
        }
    }
    assert!(unavailable.is_some_and(|took| took < Duration::from_secs(8)), "{unavailable:?}");
    until_it_answers(&store).await;
    assert_ne!(server.postgres.pid(), Some(pid));
    assert!(store.activate(&[DeviceId(1)]).await.unwrap().is_empty());
    assert_eq!(store.newest_change().await.unwrap(), 0);
}

#[tokio::test]
async fn a_frozen_postgres_is_unavailable_and_its_connections_are_not_used_again() {
    let server = private_server().await;
    let mut config = StoreConfig::new(server.postgres.url());
    config.num_connections_max = 2;
    let store = Store::connect(config, cipher(), NUM_PARTITIONS).await.unwrap();
    store.check().await.unwrap();
    let pid = server.postgres.pid().unwrap();
    let backends = Command::new("pgrep").args(["-P", &pid.to_string()]).output().unwrap();
    let backends: Vec<i32> =
        String::from_utf8(backends.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    for pid in backends.iter().chain([&pid]) {
        kill("-STOP", *pid);
    }
    let called_at = Instant::now();
    let answer = store.check().await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(called_at.elapsed() < Duration::from_secs(10));
    for pid in backends.iter().chain([&pid]) {
        kill("-CONT", *pid);
    }
    until_it_answers(&store).await;
}

#[tokio::test]
async fn what_a_killed_sluse_left_running_is_stopped_and_its_data_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let first = PrivatePostgres::start(dir.path()).await.unwrap();
    let store = Store::connect(StoreConfig::new(first.url()), cipher(), NUM_PARTITIONS).await.unwrap();
    store.bootstrap("a@b.dk", None).await.unwrap();
    store.close();
    let left = first.pid().unwrap();
    // Neither stopped nor dropped: as when the process that supervised it is gone and the signal of its end got lost.
    std::mem::forget(first);
    let second = PrivatePostgres::start(dir.path()).await.unwrap();
    assert_ne!(second.pid(), Some(left));
    let store = Store::connect(StoreConfig::new(second.url()), cipher(), NUM_PARTITIONS).await.unwrap();
    assert!(store.bootstrap("a@b.dk", None).await.unwrap().is_none(), "the administrator is still there");
    store.close();
    second.stop().await;
}

#[tokio::test]
async fn it_listens_on_no_port_and_as_root_it_runs_as_somebody_else() {
    use std::os::unix::fs::MetadataExt;
    let server = private_server().await;
    let pid = server.postgres.pid().unwrap();
    let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_ne!(owner, 0);
    let (client, connection) =
        tokio_postgres::connect(server.postgres.url().reveal(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SELECT current_setting('listen_addresses')", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "");
}
