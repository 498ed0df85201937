//! Another log is begun only when the old one is drained, or is given up by its name.

use std::path::Path;
use std::sync::Arc;

use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig};
use sluse_engine::log_switch::{SwitchError, check};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::Log;
use sluse_schema::record::{Offset, Step};
use sluse_schema::testing::log_conformance::record;
use tempfile::TempDir;

use crate::fixture::Database;

const P0: PartitionId = PartitionId(0);

fn config(dir: &Path) -> EmbeddedLogConfig {
    let defaults = EmbeddedLogConfig::new(dir.join("log"), 2);
    EmbeddedLogConfig { free_space_reserve_bytes: 0, retention_ms: u64::MAX, ..defaults }
}

/// A log with so many uplinks, the first `num_handled` of which a step has passed. Closed: a node that is set to another has not opened it.
async fn closed_log(dir: &Path, num_uplinks: usize, num_handled: u64) -> String {
    let log = EmbeddedLog::open(config(dir)).unwrap();
    for i in 0..num_uplinks {
        log.append(P0, vec![record(1, 1_000, i.to_string())]).await.unwrap();
    }
    if num_handled > 0 {
        let step = Step { partition: P0, from: Offset(0), next: Offset(num_handled), outputs: vec![] };
        log.commit_step(step).await.unwrap();
    }
    let store = log.identity().store;
    log.close().await.unwrap();
    store
}

struct Switch {
    database: Database,
    new: Arc<EmbeddedLog>,
    old_dir: TempDir,
    _new_dir: TempDir,
}

impl Switch {
    async fn new() -> Self {
        let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let new = EmbeddedLog::open(config(new_dir.path())).unwrap();
        Self { database: Database::with_targets(1).await, new, old_dir, _new_dir: new_dir }
    }

    /// What a start with the new log says, the old one's directory being the one that the node is set to.
    async fn start(&self, leave: &str) -> Result<(), SwitchError> {
        check(&self.database.store, self.new.as_ref(), leave, &config(self.old_dir.path())).await
    }

    async fn in_use(&self) -> Option<String> {
        self.database.store.log_in_use().await.unwrap()
    }

    fn new_name(&self) -> String {
        self.new.identity().store
    }
}

#[tokio::test]
async fn the_first_log_is_taken_and_the_same_again_is_no_switch() {
    let switch = Switch::new().await;
    assert_eq!(switch.in_use().await, None);
    for _ in 0..2 {
        switch.start("").await.unwrap();
        assert_eq!(switch.in_use().await, Some(switch.new_name()));
    }
}

#[tokio::test]
async fn a_log_with_uplinks_that_no_step_has_passed_is_not_left_behind() {
    let switch = Switch::new().await;
    let old = closed_log(switch.old_dir.path(), 3, 2).await;
    switch.database.store.use_log(&old).await.unwrap();
    let refused = switch.start("").await.unwrap_err();
    let SwitchError::Undrained { old: named, why, .. } = &refused else { panic!("{refused}") };
    assert!(*named == old && why.starts_with("1 uplinks"), "{refused}");
    assert!(refused.to_string().contains(&format!("SLUSE__LOG__LEAVE={old}")), "{refused}");
    // The name of another log leaves nothing.
    assert!(switch.start("embedded:another").await.is_err());
    assert_eq!(switch.in_use().await.as_ref(), Some(&old));

    // Going back is always possible; drained, the new one is begun.
    let log = EmbeddedLog::open(config(switch.old_dir.path())).unwrap();
    check(&switch.database.store, log.as_ref(), "", &config(switch.old_dir.path())).await.unwrap();
    log.commit_step(Step { partition: P0, from: Offset(2), next: Offset(3), outputs: vec![] }).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    switch.start("").await.unwrap();
    assert_eq!(switch.in_use().await, Some(switch.new_name()));
}

#[tokio::test]
async fn a_log_whose_deliveries_are_pending_is_not_left_behind_but_by_its_name() {
    let switch = Switch::new().await;
    let old = closed_log(switch.old_dir.path(), 1, 1).await;
    switch.database.store.use_log(&old).await.unwrap();
    let cursor = "INSERT INTO target_cursor (target_id, partition, log_offset, holes, accepted, delivered, status)
                  VALUES (1, 0, 9, '', 9, 7, '{}')";
    switch.database.run(cursor).await;
    let refused = switch.start("").await.unwrap_err().to_string();
    assert!(refused.contains("2 deliveries are pending"), "{refused}");
    switch.start(&old).await.unwrap();
    assert_eq!(switch.in_use().await, Some(switch.new_name()));
}

#[tokio::test]
async fn deliveries_that_no_stored_position_has_passed_are_not_left_behind() {
    let switch = Switch::new().await;
    // A node that is killed within a second of its step: the uplink is handled, its delivery is in the log, and no row knows of it.
    let log = EmbeddedLog::open(config(switch.old_dir.path())).unwrap();
    log.append(P0, vec![record(1, 1_000, "1")]).await.unwrap();
    let outputs = vec![(P0, record(1, 1_000, "a")), (P0, record(1, 1_000, "b"))];
    log.commit_step(Step { partition: P0, from: Offset(0), next: Offset(1), outputs }).await.unwrap();
    let identity = log.identity();
    log.close().await.unwrap();
    drop(log);
    switch.database.store.use_log(&identity.store).await.unwrap();
    for (stored, expected) in [("", "2 deliveries"), ("1", "1 deliveries"), ("2", "")] {
        if !stored.is_empty() {
            let position = format!(
                "INSERT INTO deliveries_partition (partition, epoch, log_store, log_incarnation, log_offset)
                 VALUES (0, 1, '{}', {}, {stored}) ON CONFLICT (partition) DO UPDATE SET log_offset = excluded.log_offset",
                identity.store, identity.incarnation
            );
            switch.database.run(&position).await;
        }
        match switch.start("").await {
            Ok(()) => assert_eq!(expected, "", "switched"),
            Err(SwitchError::Undrained { why, .. }) => {
                assert!(!expected.is_empty() && why.starts_with(expected), "{stored}: {why}")
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(switch.in_use().await, Some(switch.new_name()));
}

#[tokio::test]
async fn a_log_that_cannot_be_looked_into_is_left_by_its_name_only() {
    let switch = Switch::new().await;
    // A cluster that this node is not set to any more, and a log that lies elsewhere.
    closed_log(switch.old_dir.path(), 0, 0).await;
    for old in ["kafka:4L6g3nShT-eMCtK--X86sw:sluse", "embedded:of-another-directory"] {
        switch.database.store.use_log(old).await.unwrap();
        let refused = switch.start("").await.unwrap_err().to_string();
        assert!(refused.contains("cannot be seen from here"), "{refused}");
        switch.start(old).await.unwrap();
        assert_eq!(switch.in_use().await, Some(switch.new_name()));
    }
}
