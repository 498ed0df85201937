//! Records stand on disk in batches: what goes wrong at their edges, and stores from before there were any.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig, Faults};
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Log, LogError};
use sluse_schema::record::{NewRecord, Offset, Step, Topic};
use tempfile::TempDir;

use crate::common::*;

fn records(range: std::ops::Range<i64>) -> Vec<NewRecord> {
    range.map(|i| record(i % 3, 1_000 + i, format!("{i}-{}", "x".repeat(500)))).collect()
}

/// Everything that is in memory goes to tables, by way of a failed write.
async fn flush(log: &EmbeddedLog, faults: &Faults) {
    faults.num_commits_failing_unwritten.store(1, Ordering::Release);
    let (start, _) = log.bounds(Topic::Uplinks, P0).await.unwrap();
    let failed = log.append(P0, records(0..1)).await;
    assert!(matches!(failed, Err(LogError::Unclear(_))), "{failed:?}");
    until("the store is open again", async || log.health().await.is_ok()).await;
    assert_eq!(log.bounds(Topic::Uplinks, P0).await.unwrap().0, start);
}

fn open_with(dir: &TempDir, faults: &Arc<Faults>) -> Arc<EmbeddedLog> {
    // Nothing is kept in memory: every read is from the store.
    let config = EmbeddedLogConfig { tail_cache_bytes_max: 0, ..config(dir, 1) };
    EmbeddedLog::open_with_faults(config, Arc::clone(faults)).unwrap()
}

/// The table whose only key lies below the new start holds records beyond it.
#[tokio::test]
async fn a_start_in_the_middle_of_a_batch_leaves_the_rest_of_it() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let log = open_with(&dir, &faults);
    log.append(P0, records(0..50)).await.unwrap();
    let outputs = records(0..50).into_iter().map(|r| (P0, r)).collect();
    log.commit_step(Step { partition: P0, from: Offset(0), next: Offset(50), outputs }).await.unwrap();
    flush(&log, &faults).await;
    log.set_retention_floor(Topic::Uplinks, P0, Offset(50));
    for (topic, start) in [(Topic::Uplinks, 33), (Topic::Deliveries, 20)] {
        assert_eq!(log.trim_to(topic, P0, Offset(start)).await.unwrap(), Offset(start));
    }
    assert_eq!(log.bounds(Topic::Uplinks, P0).await.unwrap(), (Offset(33), Offset(50)));
    let left = uplinks(&*log).await;
    assert_eq!((left.len(), left[0].split_once('-').unwrap().0), (17, "33"));
    assert_eq!(deliveries(&*log).await.len(), 30);
    let of_one = log.read_target(P0, TargetId(1), Offset(20), WIDE).await.unwrap();
    assert_eq!(
        of_one.records.iter().map(|r| r.offset.0).collect::<Vec<_>>(),
        (20..50).filter(|i| i % 3 == 1).collect::<Vec<_>>()
    );
    assert_eq!(log.offset_at(Topic::Deliveries, P0, 1_041).await.unwrap(), Offset(41));
    // With the rest gone, too, the next record follows as if nothing had been.
    assert_eq!(log.trim_to(Topic::Deliveries, P0, Offset(50)).await.unwrap(), Offset(50));
    assert!(deliveries(&*log).await.is_empty());
    log.close().await.unwrap();
    drop(log);
    let log = open_with(&dir, &faults);
    assert_eq!(log.bounds(Topic::Deliveries, P0).await.unwrap(), (Offset(50), Offset(50)));
    assert_eq!(uplinks(&*log).await, left);
}

/// The value of a record as format 1 had it; see `engine/src/log/keys.rs`.
fn flat(new: &NewRecord, max_timestamp_ms: i64, bytes_before: u64) -> Vec<u8> {
    let headers = new.headers.as_bytes();
    let mut flat = Vec::new();
    flat.extend_from_slice(&max_timestamp_ms.to_be_bytes());
    flat.extend_from_slice(&bytes_before.to_be_bytes());
    flat.extend_from_slice(&new.timestamp_ms.to_be_bytes());
    flat.extend_from_slice(&new.key.to_be_bytes());
    flat.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    flat.extend_from_slice(headers);
    flat.extend_from_slice(&new.value);
    flat
}

/// A store as the program before batches left it: an entry for each record, no clean end.
fn write_format_1(dir: &TempDir, uplinks: &[NewRecord]) -> std::path::PathBuf {
    let store = dir.path().join("log/store");
    std::fs::create_dir_all(&store).unwrap();
    let db = Database::builder(&store).open().unwrap();
    let keyspace = |name: &str| db.keyspace(name, KeyspaceCreateOptions::default).unwrap();
    let (meta, of_uplinks) = (keyspace("meta"), keyspace("uplinks-0"));
    for empty in ["deliveries-0", "index"] {
        keyspace(empty);
    }
    meta.insert("incarnation", 1u64.to_be_bytes()).unwrap();
    let mut bytes_before = 0;
    for (offset, new) in uplinks.iter().enumerate() {
        of_uplinks.insert((offset as u64).to_be_bytes(), flat(new, new.timestamp_ms, bytes_before)).unwrap();
        bytes_before += new.num_bytes() as u64;
    }
    db.persist(PersistMode::SyncAll).unwrap();
    let about = store.join("about.json");
    std::fs::write(&about, format!(r#"{{"uuid":"{}","num_partitions":1,"format":1}}"#, uuid::Uuid::nil())).unwrap();
    about
}

#[tokio::test]
async fn a_store_from_before_batches_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let old = records(0..10);
    let about = write_format_1(&dir, &old);
    let log = open(&dir, 1);
    assert!(std::fs::read_to_string(&about).unwrap().contains(r#""format":2"#), "older programs must refuse it now");
    assert_eq!(log.append(P0, records(10..30)).await.unwrap(), Offset(10));
    log.close().await.unwrap();
    drop(log);

    let log = open(&dir, 1);
    let read = read_all(&*log, Topic::Uplinks, PartitionId(0)).await;
    for (at, (read, new)) in read.iter().zip(records(0..30)).enumerate() {
        assert_eq!((read.offset.0, read.key, read.timestamp_ms), (at as u64, new.key, new.timestamp_ms));
        assert_eq!((&read.value, &read.headers), (&new.value, &new.headers));
    }
    assert_eq!(read.len(), 30);
    for at in [3, 9, 10, 11, 29] {
        assert_eq!(log.offset_at(Topic::Uplinks, P0, 1_000 + at).await.unwrap(), Offset(at as u64));
    }
    log.set_retention_floor(Topic::Uplinks, P0, Offset(30));
    for start in [4, 15] {
        assert_eq!(log.trim_to(Topic::Uplinks, P0, Offset(start)).await.unwrap(), Offset(start));
        assert_eq!(uplinks(&*log).await.len(), 30 - start as usize);
    }
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let about = write_format_1(&dir, &[]);
    let newer = std::fs::read_to_string(&about).unwrap().replace(r#""format":1"#, r#""format":3"#);
    std::fs::write(&about, newer).unwrap();
    let refused = EmbeddedLog::open(config(&dir, 1)).unwrap_err().to_string();
    assert!(refused.contains("it has format 3, this program reads format 2"), "{refused}");
}
