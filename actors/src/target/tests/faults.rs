//! Crashes, fences, panics, the database away, the log trimmed: nothing is lost, everything is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::TargetId;
use sluse_schema::record::Topic;
use sluse_schema::target::TargetConfig;

use super::rig::{P0, Rig, config_of};
use crate::target::TargetStageConfig;
use crate::testing::Reply;

/// What an attempt is answered with, by chance that depends on the body and on how late it is.
fn unreliable(seed: u64) -> impl Fn(&sluse_schema::delivery::DeliveryMeta, &bytes::Bytes) -> Reply + Send + Sync {
    let rng = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    move |_, _| {
        let mut rng = rng.lock().unwrap();
        let after = Duration::from_millis(rng.random_range(1..40));
        match rng.random_range(0..100) {
            0..15 => Reply::status(503).after(after),
            15..17 => Reply::status(401).after(after),
            17..18 => Reply::hang(Duration::from_secs(5)),
            _ => Reply::ok().after(after),
        }
    }
}

#[actix::test]
async fn ten_thousand_deliveries_through_unreliable_receivers_all_arrive_in_order() {
    tokio::time::pause();
    for seed in [1, 2, 3] {
        let rig = Rig::start(&[1, 2], TargetStageConfig::default(), unreliable(seed)).await;
        for round in 0..50 {
            rig.put_bodies((0..200).map(|i| (1 + i % 2, (i * 7 + round) % 60))).await;
            rig.wait(1.0).await;
        }
        rig.wait(7_200.0).await;
        for target in [1, 2] {
            rig.assert_all_arrived(target);
            rig.assert_settled(target, 5_000).await;
            assert_eq!(rig.senders.delivered_to(TargetId(target)).len(), 5_000, "no fault, no repeat: seed {seed}");
        }
        assert!(rig.stage.drain(Duration::from_secs(10)).await);
    }
}

#[actix::test]
async fn crashes_at_any_moment_lose_nothing_and_conserve() {
    tokio::time::pause();
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rig = Rig::start(&[1, 2, 3], TargetStageConfig::default(), unreliable(seed)).await;
        for round in 0..30 {
            rig.put_bodies((0..60).map(|i| (1 + i % 3, (i + round) % 20))).await;
            rig.wait(rng.random_range(0.0..4.0)).await;
            if rng.random_range(0..3) == 0 {
                rig.crash().await;
            }
            if rng.random_range(0..6) == 0 {
                rig.store.set_unavailable(rng.random_range(0..2) == 0);
            }
        }
        rig.store.set_unavailable(false);
        rig.wait(7_200.0).await;
        for target in [1, 2, 3] {
            rig.assert_all_arrived(target);
            rig.assert_settled(target, 600).await;
            let counters = rig.status(target).await.counters;
            assert_eq!((counters.delivered, counters.offered_again), (600, 0), "seed {seed}");
        }
    }
}

#[actix::test]
async fn an_owner_that_was_fenced_writes_nothing_more_and_starts_anew_from_what_is_stored() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.put_bodies((0..10).map(|i| (1, i))).await;
    rig.wait(3.0).await;
    rig.store.steal(P0);
    rig.put_bodies((0..10).map(|i| (1, i))).await;
    rig.wait(60.0).await;
    rig.put_bodies((0..10).map(|i| (1, i))).await;
    rig.wait(5.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 30).await;
}

#[actix::test]
async fn a_sender_that_panics_is_a_failed_try() {
    tokio::time::pause();
    let is_bad = Arc::new(AtomicBool::new(true));
    let bad = Arc::clone(&is_bad);
    let rig = Rig::start(&[1, 2], TargetStageConfig::default(), move |meta, _| {
        assert!(meta.target != TargetId(1) || !bad.load(Ordering::Relaxed), "the test asked for it");
        Reply::ok()
    })
    .await;
    rig.put_bodies((0..20).flat_map(|i| [(1, i), (2, i)])).await;
    rig.wait(30.0).await;
    rig.assert_settled(2, 20).await;
    is_bad.store(false, Ordering::Relaxed);
    rig.wait(200.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 20).await;
}

#[actix::test]
async fn with_the_database_away_for_hours_deliveries_go_on_and_dead_letters_are_kept_within_their_bound() {
    tokio::time::pause();
    let config = TargetStageConfig { dead_letters_max: 50, ..TargetStageConfig::default() };
    let rig = Rig::start(
        &[1, 2],
        config,
        |meta, _| {
            if meta.target == TargetId(2) { Reply::status(400) } else { Reply::ok() }
        },
    )
    .await;
    rig.wait(2.0).await;
    rig.store.set_unavailable(true);
    for _ in 0..20 {
        rig.put_bodies((0..10).map(|i| (1, i))).await;
        rig.wait(360.0).await;
    }
    assert_eq!(rig.senders.delivered_to(TargetId(1)).len(), 200);
    for _ in 0..100 {
        rig.put_bodies((0..10).map(|i| (2, i))).await;
        rig.wait(30.0).await;
    }
    // At the bound nothing more ends, and nothing is thrown away.
    let num_refused = rig.senders.arrived().iter().filter(|a| a.target == TargetId(2)).count();
    assert!((50..200).contains(&num_refused), "{num_refused}");
    rig.store.set_unavailable(false);
    rig.wait(600.0).await;
    assert_eq!(rig.store.letters(TargetId(2)).len(), 1_000);
    rig.assert_settled(2, 1_000).await;
    rig.assert_settled(1, 200).await;
}

#[actix::test]
async fn what_falls_out_of_the_log_is_counted_expired_to_the_last_one() {
    tokio::time::pause();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let rig = Rig::start(&[1, 2], TargetStageConfig::default(), move |meta, _| {
        if meta.target == TargetId(2) || mended.load(Ordering::Relaxed) { Reply::ok() } else { Reply::status(401) }
    })
    .await;
    for _ in 0..60 {
        rig.put_bodies((0..100).flat_map(|i| [(1, i), (2, i)])).await;
        rig.wait(1.0).await;
    }
    rig.wait(5.0).await;
    let records = rig.log.records(Topic::Deliveries, P0);
    let start = records[records.len() * 3 / 4].offset;
    rig.log.trim_past_floor_to(Topic::Deliveries, P0, start);
    let num_left = records.iter().filter(|r| r.key == 1 && r.offset >= start).count() as u64;
    is_mended.store(true, Ordering::Relaxed);
    rig.wait(300.0).await;
    let counters = rig.status(1).await.counters;
    assert_eq!(counters.accepted, 6_000);
    assert_eq!(counters.delivered + counters.expired, 6_000);
    // A few were in memory when they fell out, and were delivered all the same.
    assert!(counters.delivered >= num_left && counters.delivered <= num_left + 40, "{counters:?}, {num_left} left");
    rig.assert_settled(1, 6_000).await;
    rig.assert_settled(2, 6_000).await;
}

#[actix::test]
async fn what_fell_out_of_the_log_while_nobody_ran_is_counted_too() {
    tokio::time::pause();
    let mut rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::status(401)).await;
    rig.put_bodies((0..5_000).map(|i| (1, i % 100))).await;
    rig.wait(10.0).await;
    assert_eq!(rig.status(1).await.counters.accepted, 5_000);
    rig.stage.abandon().await;
    let end = rig.log.records(Topic::Deliveries, P0).last().unwrap().offset;
    rig.log.trim_past_floor_to(Topic::Deliveries, P0, end);
    rig.crash().await;
    rig.wait(10.0).await;
    let counters = rig.status(1).await.counters;
    assert_eq!((counters.accepted, counters.expired), (5_000, 4_999));
}

#[actix::test]
async fn a_new_incarnation_of_the_log_keeps_the_cursors() {
    tokio::time::pause();
    let mut rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.put_bodies((0..100).map(|i| (1, i % 10))).await;
    rig.wait(5.0).await;
    rig.stage.abandon().await;
    rig.log.raise_incarnation();
    rig.crash().await;
    rig.put_bodies((0..100).map(|i| (1, i % 10))).await;
    rig.wait(5.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 200).await;
    assert_eq!(rig.senders.delivered_to(TargetId(1)).len(), 200);
}

#[actix::test]
async fn a_log_that_is_away_for_a_while_costs_only_time() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.put_bodies((0..100).map(|i| (1, i % 10))).await;
    rig.log.set_unavailable(true);
    rig.wait(60.0).await;
    rig.log.set_unavailable(false);
    rig.wait(10.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 100).await;
}

#[actix::test]
async fn a_drain_ends_what_is_in_flight_and_writes_it() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok().after(Duration::from_secs(1))).await;
    rig.put_bodies((0..30).map(|i| (1, i))).await;
    rig.wait(1.5).await;
    assert!(rig.stage.drain(Duration::from_secs(10)).await);
    let row = rig.store.cursor(TargetId(1)).unwrap();
    let num_delivered = rig.senders.arrived().len() as u64;
    assert_eq!(row.counters.delivered, num_delivered);
    assert_eq!(row.counters.pending_by_balance(), i128::from(30 - num_delivered));
}

#[actix::test]
async fn a_target_actor_that_panics_comes_back_alone_and_misses_nothing() {
    tokio::time::pause();
    let rig =
        Rig::start(&[1, 2], TargetStageConfig::default(), |_, _| Reply::ok().after(Duration::from_millis(30))).await;
    rig.put_bodies((0..40).flat_map(|i| [(1, i % 4), (2, i % 4)])).await;
    rig.wait(0.2).await;
    rig.store.put_target(TargetConfig { name: "panics".into(), version: 2, ..config_of(1) });
    rig.changed(ChangedEntity::Target, 1).await;
    for _ in 0..20 {
        rig.put_bodies((0..4).flat_map(|i| [(1, i), (2, i)])).await;
        rig.wait(1.0).await;
    }
    assert_eq!(rig.senders.delivered_to(TargetId(2)).len(), 120);
    assert!(rig.senders.delivered_to(TargetId(1)).len() < 40);
    rig.store.put_target(TargetConfig { version: 3, ..config_of(1) });
    rig.changed(ChangedEntity::Target, 1).await;
    rig.wait(120.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 120).await;
    rig.assert_settled(2, 120).await;
    assert_eq!(rig.senders.delivered_to(TargetId(2)).len(), 120, "the other one did not notice");
}

#[actix::test]
async fn a_partition_that_is_revoked_goes_on_elsewhere_where_it_stopped() {
    tokio::time::pause();
    let mut rig =
        Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok().after(Duration::from_millis(200))).await;
    for _ in 0..6 {
        rig.put_bodies((0..100).map(|i| (1, i % 30))).await;
        rig.wait(0.5).await;
        assert!(rig.stage.revoke(&[P0]).await);
        rig.crash().await;
    }
    rig.wait(30.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 600).await;
    assert_eq!(rig.senders.delivered_to(TargetId(1)).len(), 600, "what was given up cleanly is not sent again");
}
