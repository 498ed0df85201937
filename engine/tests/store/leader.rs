//! Jobs that one node does at a time, with two nodes on one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use sluse_engine::store::leader::{Attempt, Job, JobError};
use sluse_engine::store::{Store, StoreConfig};
use tokio::sync::Notify;

use crate::fixture::{Database, NUM_PARTITIONS, cipher, private_server};

const DAILY: Job = Job { name: "test", every: Duration::from_secs(24 * 3600) };

async fn another_node(database: &Database) -> Arc<Store> {
    Store::connect(StoreConfig::new(database.url.clone()), cipher(), NUM_PARTITIONS).await.unwrap()
}

async fn never() -> Result<(), String> {
    panic!("two nodes at once, or before its time")
}

#[tokio::test]
async fn a_job_is_done_by_one_node_at_a_time_and_once_per_period() {
    let database = Database::new().await;
    let (a, b) = (Arc::clone(&database.store), another_node(&database).await);
    let (is_running, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (running, end) = (Arc::clone(&is_running), Arc::clone(&may_end));
    let doing = tokio::spawn(async move {
        let work = async {
            running.notify_one();
            end.notified().await;
            Ok(())
        };
        a.attempt_job(DAILY, work).await
    });
    is_running.notified().await;
    assert_eq!(b.attempt_job(DAILY, never()).await.unwrap(), Attempt::Elsewhere);
    let other = Job { name: "another", ..DAILY };
    assert_eq!(b.attempt_job(other, async { Ok(()) }).await.unwrap(), Attempt::Done, "jobs do not wait for each other");
    may_end.notify_one();
    assert_eq!(doing.await.unwrap().unwrap(), Attempt::Done);
    assert_eq!(b.attempt_job(DAILY, never()).await.unwrap(), Attempt::NotDue);
    // A period later, by the database's clock.
    database.run("UPDATE setting SET value = value::bigint - 86400001 WHERE name = 'job.test'").await;
    assert_eq!(b.attempt_job(DAILY, async { Ok(()) }).await.unwrap(), Attempt::Done);
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
               WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    assert_eq!(database.number(sql).await, 0);
}

#[tokio::test]
async fn a_failed_job_stays_due_and_one_noted_in_the_future_is_not_believed() {
    let database = Database::new().await;
    let failed = database.store.attempt_job(DAILY, async { Err("no mail server".to_owned()) }).await;
    assert!(matches!(failed, Err(JobError::Failed(reason)) if reason == "no mail server"));
    assert_eq!(database.store.attempt_job(DAILY, async { Ok(()) }).await.unwrap(), Attempt::Done);
    database.run("UPDATE setting SET value = '99999999999999' WHERE name = 'job.test'").await;
    assert_eq!(database.store.attempt_job(DAILY, async { Ok(()) }).await.unwrap(), Attempt::Done);
}

#[tokio::test]
async fn a_node_that_loses_the_database_drops_the_job_and_another_does_it() {
    let server = private_server().await;
    let url = server.postgres.url();
    let connect = || Store::connect(StoreConfig::new(url.clone()), cipher(), NUM_PARTITIONS);
    let (a, b) = (connect().await.unwrap(), connect().await.unwrap());
    let work = async {
        let client = b.pool().get().await.unwrap();
        let holder = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
        assert_eq!(client.query(holder, &[]).await.unwrap().len(), 1);
        std::future::pending().await
    };
    let lost = a.attempt_job(DAILY, work).await;
    assert!(matches!(lost, Err(JobError::Store(_))), "{lost:?}");
    assert_eq!(b.attempt_job(DAILY, async { Ok(()) }).await.unwrap(), Attempt::Done);
}

#[tokio::test]
async fn a_node_that_keeps_at_it_tries_again_after_a_failure() {
    let database = Database::new().await;
    let job = Job { name: "often", every: Duration::from_secs(1) };
    let num_tried = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&num_tried);
    let node = tokio::spawn(Arc::clone(&database.store).keep_doing(job, move || {
        let is_first = counting.fetch_add(1, Relaxed) == 0;
        async move { if is_first { Err("not yet".to_owned()) } else { Ok(()) } }
    }));
    while database.number("SELECT count(*) FROM setting WHERE name = 'job.often'").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.abort();
    assert!(num_tried.load(Relaxed) >= 2);
}
