//! What the log drops by itself, and what it never drops.

use std::time::{SystemTime, UNIX_EPOCH};

use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig};
use sluse_schema::id::TargetId;
use sluse_schema::port::log::Log;
use sluse_schema::record::{NewRecord, Offset, Step, Topic};

use crate::common::*;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// 40 uplinks and deliveries: the first 20 are an hour old, the others new. Deliveries go to targets 0 to 3.
async fn fill(log: &EmbeddedLog) {
    let at = |i: i64| if i < 20 { now_ms() - 3_600_000 + i } else { now_ms() };
    let records =
        |text: &str| -> Vec<NewRecord> { (0..40).map(|i| record(i % 4, at(i), format!("{text}{i}"))).collect() };
    log.append(P0, records("u")).await.unwrap();
    let outputs = records("d").into_iter().map(|r| (P0, r)).collect();
    log.commit_step(Step { partition: P0, from: Offset(0), next: Offset(40), outputs }).await.unwrap();
}

async fn start(log: &EmbeddedLog, topic: Topic) -> u64 {
    log.bounds(topic, P0).await.unwrap().0.0
}

#[tokio::test]
async fn old_records_go_but_uplinks_only_below_the_state_position() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(EmbeddedLogConfig { retention_ms: 60_000, ..config(&dir, 1) }).unwrap();
    fill(&log).await;
    until("old deliveries are gone", async || start(&log, Topic::Deliveries).await == 20).await;
    assert_eq!(start(&log, Topic::Uplinks).await, 0, "without a floor, uplinks stay whole");
    log.set_retention_floor(Topic::Uplinks, P0, Offset(7));
    until("uplinks below the floor are gone", async || start(&log, Topic::Uplinks).await == 7).await;
    log.set_retention_floor(Topic::Uplinks, P0, Offset(40));
    until("old uplinks are gone", async || start(&log, Topic::Uplinks).await == 20).await;
    assert_eq!(uplinks(&*log).await[0], "u20");
    let backlog = log.backlog(P0, TargetId(1), Offset(0), Offset(40)).await.unwrap();
    assert_eq!((backlog.num_records, backlog.first.unwrap().0), (5, Offset(21)));
}

#[tokio::test]
async fn too_much_drops_the_oldest_whole_log_over() {
    let dir = tempfile::tempdir().unwrap();
    let num_bytes: u64 = 40 * 100_000;
    let log = EmbeddedLog::open(EmbeddedLogConfig { retention_bytes_max: num_bytes / 4, ..config(&dir, 2) }).unwrap();
    log.set_retention_floor(Topic::Uplinks, P0, Offset(40));
    log.set_retention_floor(Topic::Uplinks, P1, Offset(3));
    let large = "x".repeat(100_000);
    for i in 0..40 {
        log.append(P0, vec![record(1, now_ms(), format!("{i}-{large}"))]).await.unwrap();
        log.append(P1, vec![record(1, now_ms(), "small")]).await.unwrap();
    }
    // Ten large ones and their headers are a little more than a quarter: the tenth goes, too, and then it rests.
    until("less than a quarter is left", async || start(&log, Topic::Uplinks).await >= 31).await;
    let left = uplinks(&*log).await;
    assert_eq!(left.len(), 9);
    assert!(left[0].starts_with(&format!("{}-", 40 - left.len())));
    assert!(log.bounds(Topic::Uplinks, P1).await.unwrap().0 <= Offset(3), "the floor holds against size, too");
}

#[tokio::test]
async fn an_emptied_partition_never_gives_an_offset_twice() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, 1);
    fill(&log).await;
    assert_eq!(log.trim_to(Topic::Deliveries, P0, Offset(40)).await.unwrap(), Offset(40));
    drop(log);
    let log = open(&dir, 1);
    assert_eq!(log.bounds(Topic::Deliveries, P0).await.unwrap(), (Offset(40), Offset(40)));
    log.append(P0, vec![record(1, 1, "u")]).await.unwrap();
    log.commit_step(step(40, 41, "d")).await.unwrap();
    let records = read_all(&*log, Topic::Deliveries, P0).await;
    assert_eq!((records.len(), records[0].offset), (1, Offset(40)));
    let backlog = log.backlog(P0, TargetId(1), Offset(0), Offset(99)).await.unwrap();
    assert_eq!((backlog.num_records, backlog.first), (1, Some((Offset(40), 1_000))));
    assert_eq!(log.read_target(P0, TargetId(1), Offset(40), WIDE).await.unwrap().records.len(), 1);
}
