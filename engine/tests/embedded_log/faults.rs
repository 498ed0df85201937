//! Writes that fail, a disk that fills up, and two that want the same directory.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluse_engine::log::{Durability, EmbeddedLog, EmbeddedLogConfig, Faults, OpenLogError};
use sluse_schema::port::log::{Log, LogError};
use sluse_schema::record::{NewRecord, Offset, Topic};

use crate::common::*;

fn open_with_faults(dir: &tempfile::TempDir) -> (Arc<EmbeddedLog>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (EmbeddedLog::open_with_faults(config(dir, 1), Arc::clone(&faults)).unwrap(), faults)
}

async fn append(log: &EmbeddedLog, text: &str) -> Result<Offset, LogError> {
    log.append(P0, vec![record(1, 1_000, text)]).await
}

#[tokio::test]
async fn i1_a_step_whose_write_failed_before_it_was_made_is_unclear_and_then_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_with_faults(&dir);
    append(&log, "u0").await.unwrap();
    let identity = log.identity();
    faults.num_commits_failing_unwritten.store(1, Ordering::Relaxed);
    assert!(matches!(log.commit_step(step(0, 1, "d0")).await, Err(LogError::Unclear(_))));
    assert_eq!(log.committed(P0).await.unwrap(), None);
    log.commit_step(step(0, 1, "d0")).await.unwrap();
    assert_eq!(deliveries(&*log).await, ["d0"]);
    assert_eq!(uplinks(&*log).await, ["u0"]);
    assert_eq!(log.identity(), identity, "nothing that was seen is gone, so positions stay good");
    log.health().await.unwrap();
}

#[tokio::test]
async fn i1_a_step_whose_write_failed_after_it_was_made_is_unclear_and_then_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_with_faults(&dir);
    append(&log, "u0").await.unwrap();
    faults.num_commits_failing_written.store(1, Ordering::Relaxed);
    assert!(matches!(log.commit_step(step(0, 1, "d0")).await, Err(LogError::Unclear(_))));
    assert_eq!(log.committed(P0).await.unwrap(), Some(Offset(1)));
    assert!(matches!(log.commit_step(step(0, 1, "d0")).await, Err(LogError::Fenced { .. })));
    assert_eq!(deliveries(&*log).await, ["d0"]);
    append(&log, "u1").await.unwrap();
    assert_eq!(uplinks(&*log).await, ["u0", "u1"]);
}

#[tokio::test]
async fn an_append_that_failed_is_unclear_and_the_order_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_with_faults(&dir);
    append(&log, "u0").await.unwrap();
    faults.num_commits_failing_unwritten.store(1, Ordering::Relaxed);
    assert!(matches!(append(&log, "lost").await, Err(LogError::Unclear(_))));
    faults.num_commits_failing_written.store(1, Ordering::Relaxed);
    assert!(matches!(append(&log, "u1").await, Err(LogError::Unclear(_))));
    append(&log, "u2").await.unwrap();
    assert_eq!(uplinks(&*log).await, ["u0", "u1", "u2"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_again_takes_nothing_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_with_faults(&dir);
    append(&log, "u0").await.unwrap();
    faults.num_reopens_failing.store(3, Ordering::Relaxed);
    faults.num_commits_failing_unwritten.store(1, Ordering::Relaxed);
    assert!(matches!(append(&log, "lost").await, Err(LogError::Unclear(_))));
    assert!(matches!(append(&log, "later").await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.commit_step(step(0, 1, "later")).await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.committed(P0).await, Err(LogError::Unavailable(_))));
    assert!(log.health().await.is_err());
    until("the store is open again", async || log.health().await.is_ok()).await;
    assert_eq!(log.committed(P0).await.unwrap(), None);
    append(&log, "u1").await.unwrap();
    assert_eq!(uplinks(&*log).await, ["u0", "u1"]);
}

/// A small file system of its own, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(num_megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={num_megabytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").args(["-l"]).arg(self.0.path()).status().ok();
    }
}

/// The real thing: the file system gives ENOSPC in the middle of a batch, fjall is poisoned, and there is room later.
#[tokio::test]
async fn a_disk_that_ran_full_loses_nothing_that_was_acknowledged_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(40) else {
        eprintln!("left out: mounting a small tmpfs needs privileges that are not here");
        return;
    };
    let log = EmbeddedLog::open(config(&disk.0, 1)).unwrap();
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0u8; 24 << 20]).unwrap();
    let (mut acknowledged, mut failed) = (Vec::new(), Vec::new());
    while failed.len() < 3 {
        let num = acknowledged.len() + failed.len();
        let text = format!("{num}-{}", noise(num as u64, 300_000));
        match append(&log, &text).await {
            Ok(_) => acknowledged.push(text),
            Err(LogError::Unclear(_) | LogError::Unavailable(_)) => failed.push(text),
            Err(other) => panic!("{other}"),
        }
        assert!(acknowledged.len() < 1_000, "the disk never ran full");
    }
    std::fs::remove_file(&ballast).unwrap();
    until("the log takes appends again", async || append(&log, "after").await.is_ok()).await;
    let mut present = uplinks(&*log).await;
    assert_eq!(present.pop().unwrap(), "after");
    let mut acknowledged = acknowledged.into_iter().peekable();
    for text in present {
        if acknowledged.next_if_eq(&text).is_none() {
            assert!(text == "after" || failed.contains(&text), "what stands there was appended");
        }
    }
    assert_eq!(acknowledged.next(), None, "everything acknowledged is there, in order");
}

#[tokio::test]
async fn below_the_reserve_appends_are_refused_steps_go_on_and_room_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    faults.free_bytes.store(5_000, Ordering::Relaxed);
    let config = EmbeddedLogConfig { free_space_reserve_bytes: 1_600, ..config(&dir, 1) };
    let log = EmbeddedLog::open_with_faults(config, Arc::clone(&faults)).unwrap();
    append(&log, "u0").await.unwrap();
    faults.free_bytes.store(1_599, Ordering::Relaxed);
    until("the log is full", async || log.health().await.is_err()).await;
    let refused = append(&log, "u1").await;
    assert!(matches!(refused, Err(LogError::Full { free_bytes: 1_599, reserve_bytes: 1_600 })), "{refused:?}");
    log.commit_step(step(0, 1, "d0")).await.unwrap();
    faults.free_bytes.store(1_800, Ordering::Relaxed);
    until("there is room", async || log.health().await.is_ok()).await;
    append(&log, "u1").await.unwrap();
    assert_eq!(
        (uplinks(&*log).await, deliveries(&*log).await),
        (vec!["u0".into(), "u1".into()], vec!["d0".to_owned()])
    );
}

#[tokio::test]
async fn the_real_free_disk_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedLogConfig { free_space_reserve_bytes: 1 << 60, ..config(&dir, 1) };
    let log = EmbeddedLog::open(config).unwrap();
    assert!(matches!(append(&log, "u0").await, Err(LogError::Full { .. })));
}

#[tokio::test]
async fn a_full_queue_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(EmbeddedLogConfig { queue_bytes_max: 1, ..config(&dir, 1) }).unwrap();
    // Polled in one go, so that the writer cannot have taken them all: some find the queue taken.
    let appends = (0..500).map(|i| {
        let log = Arc::clone(&log);
        async move { append(&log, &i.to_string()).await.is_ok() }
    });
    let results = futures_util::future::join_all(appends).await;
    let num_taken = results.iter().filter(|ok| **ok).count();
    assert!((1..500).contains(&num_taken), "{num_taken}");
    let taken = results.iter().enumerate().filter(|(_, ok)| **ok).map(|(i, _)| i.to_string()).collect::<Vec<_>>();
    assert_eq!(uplinks(&*log).await, taken);
}

#[tokio::test]
async fn a_second_user_of_the_directory_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir, 1);
    let error = EmbeddedLog::open(config(&dir, 1)).unwrap_err();
    assert!(matches!(error, OpenLogError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another process uses the log"), "{error}");
    drop(first);
    open(&dir, 1);
}

#[tokio::test]
async fn another_number_of_partitions_is_a_clear_error_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, 2);
    append(&log, "u0").await.unwrap();
    log.close().await.unwrap();
    drop(log);
    for asked in [1, 3] {
        let error = EmbeddedLog::open(config(&dir, asked)).unwrap_err();
        assert!(matches!(error, OpenLogError::PartitionCount { stored: 2, .. }), "{error}");
    }
    assert!(matches!(EmbeddedLog::open(config(&dir, 0)), Err(OpenLogError::InvalidPartitionCount { .. })));
    let log = open(&dir, 2);
    assert_eq!(uplinks(&*log).await, ["u0"]);
    assert_eq!(log.identity().incarnation, 1, "refusing was no unclean start");
}

#[tokio::test]
async fn a_log_that_was_half_made_when_the_power_went_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let half_made = dir.path().join("log/store.new");
    std::fs::create_dir_all(&half_made).unwrap();
    std::fs::write(half_made.join("0.jnl"), b"").unwrap();
    append(&open(&dir, 1), "u0").await.unwrap();
}

#[tokio::test]
async fn with_a_sync_every_so_often_an_append_is_acknowledged_first_and_seen_later() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedLogConfig { durability: Durability::FsyncEveryMs(300), ..config(&dir, 1) };
    let log = EmbeddedLog::open(config.clone()).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    for i in 0..3 {
        append(&log, &i.to_string()).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(20), log.wait_for(Topic::Uplinks, P0, Offset(2))).await.unwrap();
    assert_eq!(uplinks(&*log).await, ["0", "1", "2"]);
    log.commit_step(step(0, 3, "d")).await.unwrap();
    append(&log, "3").await.unwrap();
    log.close().await.unwrap();
    drop(log);
    let log = EmbeddedLog::open(config).unwrap();
    assert_eq!((uplinks(&*log).await.len(), deliveries(&*log).await), (4, vec!["d".to_owned()]));
}

#[tokio::test]
async fn a_caller_that_gave_up_waiting_changes_nothing_in_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, 1);
    for i in 0..20 {
        let text = i.to_string();
        let mut append = Box::pin(append(&log, &text));
        let polled = futures_util::poll!(append.as_mut());
        drop((polled, append)); // given up after its first poll: it is queued all the same
    }
    append(&log, "last").await.unwrap();
    let expected: Vec<String> = (0..20).map(|i| i.to_string()).chain(["last".to_owned()]).collect();
    assert_eq!(uplinks(&*log).await, expected);
    // `committed` is stable: it waits for a step whose caller gave up.
    let mut given_up = Box::pin(log.commit_step(step(0, 5, "d")));
    assert!(futures_util::poll!(given_up.as_mut()).is_pending());
    drop(given_up);
    assert_eq!(log.committed(P0).await.unwrap(), Some(Offset(5)));
}

#[tokio::test]
async fn partitions_that_do_not_exist_are_errors_not_panics() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, 1);
    let records = |text: &str| -> Vec<NewRecord> { vec![record(1, 1, text)] };
    assert!(log.append(P1, records("x")).await.is_err());
    assert!(log.committed(P1).await.is_err());
    assert!(log.bounds(Topic::Deliveries, P1).await.is_err());
    append(&log, "u0").await.unwrap();
    let mut wrong = step(0, 1, "d");
    wrong.outputs.push((P1, record(1, 1, "x")));
    assert!(matches!(log.commit_step(wrong).await, Err(LogError::Fenced { .. })));
    assert!(deliveries(&*log).await.is_empty(), "I1: nothing of a refused step is there");
}
