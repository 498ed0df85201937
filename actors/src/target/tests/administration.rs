//! Targets that come, change and go while deliveries are under way.

use std::time::Duration;

use sluse_schema::change::ChangedEntity;
use sluse_schema::id::TargetId;

use super::rig::{Rig, config_of};
use crate::target::TargetStageConfig;
use crate::testing::Reply;

#[actix::test]
async fn a_target_deleted_while_deliveries_are_pending_stays_as_a_tombstone_with_its_counters() {
    tokio::time::pause();
    let mut rig = Rig::start(&[1, 2], TargetStageConfig::default(), |meta, _| {
        if meta.target == TargetId(1) { Reply::hang(Duration::from_secs(30)) } else { Reply::ok() }
    })
    .await;
    for _ in 0..40 {
        rig.put_bodies((0..100).flat_map(|device| [(1, device), (2, device)])).await;
        rig.wait(0.2).await;
    }
    rig.store.delete_target(TargetId(1));
    rig.changed(ChangedEntity::Target, 1).await;
    rig.wait(2.0).await;
    // The device stage does not know yet.
    rig.put_bodies([(1, 1), (1, 2)]).await;
    rig.wait(3.0).await;
    rig.assert_settled(1, 4_002).await;
    let row = rig.store.cursor(TargetId(1)).unwrap();
    assert!(row.is_tombstone);
    assert_eq!(row.counters.discarded, 4_002);
    rig.assert_settled(2, 4_000).await;
    // It stays one, and a record that comes later still is counted onto it.
    rig.crash().await;
    rig.put_bodies([(1, 3)]).await;
    rig.wait(3.0).await;
    assert_eq!(rig.store.cursor(TargetId(1)).unwrap().counters.discarded, 4_003);
}

#[actix::test]
async fn a_target_whose_records_come_before_its_configuration_misses_none() {
    tokio::time::pause();
    let rig = Rig::start(&[], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.wait(1.0).await;
    rig.store.put_target(config_of(7));
    // No change event has come; the record names it.
    rig.put_bodies((0..10).map(|i| (7, i))).await;
    rig.wait(3.0).await;
    rig.assert_all_arrived(7);
    rig.assert_settled(7, 10).await;
}

#[actix::test]
async fn while_the_database_is_away_an_unknown_target_waits_and_is_not_gone() {
    tokio::time::pause();
    let rig = Rig::start(&[2], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.wait(1.0).await;
    rig.store.put_target(config_of(7));
    rig.store.set_unavailable(true);
    rig.put_bodies((0..10).flat_map(|i| [(7, i), (2, i)])).await;
    rig.wait(600.0).await;
    assert_eq!(rig.senders.delivered_to(TargetId(2)).len(), 10);
    assert!(rig.senders.delivered_to(TargetId(7)).is_empty());
    rig.store.set_unavailable(false);
    rig.wait(30.0).await;
    rig.assert_all_arrived(7);
    rig.assert_settled(7, 10).await;
}

#[actix::test]
async fn records_of_a_target_nobody_ever_knew_are_discarded_and_counted() {
    tokio::time::pause();
    let rig = Rig::start(&[], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.wait(1.0).await;
    rig.put_bodies((0..10).map(|i| (9, i))).await;
    rig.wait(5.0).await;
    let row = rig.store.cursor(TargetId(9)).unwrap();
    assert_eq!((row.is_tombstone, row.counters.accepted, row.counters.discarded), (true, 10, 10));
}

#[actix::test]
async fn a_mended_configuration_is_tried_at_once() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::status(404)).await;
    rig.put_bodies([(1, 1)]).await;
    rig.wait(300.0).await;
    let num_before = rig.senders.arrived().len();
    let mut config = config_of(1);
    config.version = 2;
    config.name = "mended".into();
    rig.store.put_target(config);
    rig.changed(ChangedEntity::Target, 1).await;
    rig.wait(0.5).await;
    assert!(rig.senders.arrived().len() > num_before);
}
