//! What the stage does when nothing is broken inside: live and lagging, outcomes, limits, order, other tenants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sluse_schema::delivery::DeadReason;
use sluse_schema::id::{OrganizationId, TargetId};
use sluse_schema::target::{BreakerState, Feed, HttpTarget, TargetKind, TargetPolicy};

use super::rig::{Rig, START_MS, config_of, meta_of};
use crate::target::TargetStageConfig;
use crate::testing::Reply;

#[actix::test]
async fn deliveries_arrive_and_a_quiet_target_follows_its_partition() {
    tokio::time::pause();
    let rig = Rig::start(&[1, 2], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.wait(1.0).await;
    rig.put_bodies((0..100).map(|i| (1 + i % 2, i % 7))).await;
    rig.wait(3.0).await;
    for target in [1, 2] {
        rig.assert_all_arrived(target);
        rig.assert_settled(target, 50).await;
        assert_eq!(rig.status(target).await.feed, Feed::Live);
        assert_eq!(rig.store.cursor(TargetId(target)).unwrap().position, None);
    }
    assert_eq!(rig.senders.arrived().len(), 100);
    assert!(rig.stage.drain(Duration::from_secs(5)).await);
}

#[actix::test]
async fn a_target_that_answers_401_for_an_hour_loses_nothing_and_keeps_its_order() {
    tokio::time::pause();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let rig = Rig::start(&[1, 2], TargetStageConfig::default(), move |meta, _| {
        if meta.target == TargetId(1) && !mended.load(Ordering::Relaxed) { Reply::status(401) } else { Reply::ok() }
    })
    .await;
    for _ in 0..360 {
        rig.put_bodies((0..10).flat_map(|device| [(1, device), (2, device)])).await;
        rig.wait(10.0).await;
    }
    let status = rig.status(1).await;
    assert_eq!((status.breaker, status.feed), (BreakerState::Open, Feed::Lagging));
    assert!(status.breaker_reason.unwrap().contains("401"));
    assert_eq!((status.counters.accepted, status.pending, status.counters.dead), (3_600, 3_600, 0));
    assert!(status.lag_seconds > 3_500.0);
    let num_tried = rig.senders.arrived().iter().filter(|a| a.target == TargetId(1)).count();
    assert!(num_tried < 150, "{num_tried} tries of a target whose configuration is wrong");
    rig.assert_settled(2, 3_600).await;
    is_mended.store(true, Ordering::Relaxed);
    rig.wait(300.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 3_600).await;
    assert_eq!(rig.status(1).await.feed, Feed::Live);
}

#[actix::test]
async fn a_hanging_target_delays_nobody_else() {
    tokio::time::pause();
    let rig = Rig::start(&[1, 2, 3], TargetStageConfig::default(), |meta, _| {
        if meta.target == TargetId(1) { Reply::hang(Duration::from_secs(30)) } else { Reply::ok() }
    })
    .await;
    for _ in 0..600 {
        rig.put_bodies((0..20).flat_map(|device| [(1, device), (2, device), (3, device)])).await;
        rig.wait(0.1).await;
    }
    rig.wait(2.0).await;
    for target in [2, 3] {
        rig.assert_settled(target, 12_000).await;
        assert_eq!(rig.status(target).await.feed, Feed::Live);
        let arrived = rig.senders.delivered_to(TargetId(target));
        let slowest = arrived.iter().map(|a| a.answered_at - a.started_at).max().unwrap();
        assert!(slowest < Duration::from_millis(50), "{slowest:?}");
    }
    let status = rig.status(1).await;
    assert_eq!((status.feed, status.counters.accepted), (Feed::Lagging, 12_000));
    assert_eq!(status.counters.pending_by_balance(), i128::from(status.pending));
}

#[actix::test]
async fn one_delivery_of_a_device_is_in_flight_at_a_time_and_retries_keep_its_order() {
    tokio::time::pause();
    let num_tries = AtomicU32::new(0);
    let rig = Rig::start(&[1], TargetStageConfig::default(), move |_, _| {
        // Two of three fail.
        if num_tries.fetch_add(1, Ordering::Relaxed) % 3 != 2 { Reply::status(503) } else { Reply::ok() }
    })
    .await;
    rig.put_bodies((0..30).map(|i| (1, i % 3))).await;
    rig.wait(3_000.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 30).await;
    let mut arrived = rig.senders.arrived();
    arrived.sort_by_key(|a| (a.device, a.started_at));
    for pair in arrived.windows(2).filter(|pair| pair[0].device == pair[1].device) {
        assert!(pair[0].answered_at <= pair[1].started_at);
        assert!(pair[0].body <= pair[1].body);
    }
}

#[actix::test]
async fn refused_messages_become_dead_letters_with_the_answer_and_hold_up_nothing() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, body| {
        if !body.ends_with(b"3") {
            return Reply::ok();
        }
        let mut reply = Reply::status(422);
        reply.attempt.answer = bytes::Bytes::from(vec![b'x'; 5_000]);
        reply
    })
    .await;
    rig.put_bodies((0..20).map(|i| (1, i % 4))).await;
    rig.wait(3.0).await;
    let letters = rig.store.letters(TargetId(1));
    assert_eq!(letters.len(), 2);
    let letter = &letters[0].1;
    assert_eq!((letter.reason, letter.status_code, letter.num_attempts), (DeadReason::Refused, Some(422), 1));
    assert_eq!((letter.answer.len(), &letter.body[..]), (1_024, &b"1/3/000003"[..]));
    rig.assert_settled(1, 20).await;
    assert_eq!(rig.status(1).await.counters.dead, 2);
    // The reference's rule: every error, and the first success after one.
    let lines = rig.store.log_lines();
    assert_eq!(lines.iter().filter(|line| line.is_error).count(), 2);
    assert!(lines.len() <= 4);
}

#[actix::test]
async fn a_message_that_fails_for_a_quarter_of_an_hour_while_others_succeed_is_exhausted() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, body| {
        if body.ends_with(b"/000000") { Reply::status(500) } else { Reply::ok() }
    })
    .await;
    rig.put_bodies([(1, 1)]).await;
    for _ in 0..1_300 {
        rig.put_bodies([(1, 2)]).await;
        rig.wait(1.0).await;
    }
    let letters = rig.store.letters(TargetId(1));
    assert_eq!(letters.iter().map(|(_, l)| l.reason).collect::<Vec<_>>(), [DeadReason::Exhausted]);
    assert!(letters[0].1.died_at_ms - START_MS >= 15 * 60 * 1_000);
    assert!(letters[0].1.num_attempts >= 10);
    rig.assert_settled(1, 1_301).await;
}

#[actix::test]
async fn another_tenants_and_too_old_deliveries_are_not_sent() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    let mut config = config_of(1);
    config.policy.age_ms_max = Some(60_000);
    config.version = 2;
    rig.store.put_target(config);
    rig.stage.full_scan().await;
    rig.wait(1.0).await;
    let mut foreign = meta_of(1, 5, 900, START_MS);
    foreign.organization = OrganizationId(77);
    let old = meta_of(1, 6, 901, START_MS - 3_600_000);
    rig.put(vec![(foreign, "foreign".into()), (old, "old".into())]).await;
    rig.wait(3.0).await;
    assert!(rig.senders.arrived().is_empty());
    let counters = rig.status(1).await.counters;
    assert_eq!((counters.discarded, counters.dead), (1, 1));
    assert_eq!(rig.store.letters(TargetId(1))[0].1.reason, DeadReason::TooOld);
    rig.assert_settled(1, 2).await;
}

#[actix::test]
async fn a_rate_limit_holds_and_what_is_over_it_waits_in_the_log() {
    tokio::time::pause();
    let rig = Rig::start(&[], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    let mut config = config_of(1);
    config.policy = TargetPolicy { rate_per_second: Some(10), ..TargetPolicy::default() };
    rig.store.put_target(config);
    rig.stage.full_scan().await;
    rig.wait(0.5).await;
    rig.put_bodies((0..300).map(|i| (1, i % 50))).await;
    rig.wait(10.0).await;
    let num_arrived = rig.senders.arrived().len();
    assert!((95..=103).contains(&num_arrived), "{num_arrived}");
    rig.wait(30.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 300).await;
}

#[actix::test]
async fn a_target_without_a_sender_keeps_its_deliveries_and_says_why() {
    tokio::time::pause();
    let rig = Rig::start(&[], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    let http =
        HttpTarget { url: String::new(), timeout_ms: 1, authorization: Default::default(), ca_certificates: None };
    let mut config = config_of(1);
    config.kind = TargetKind::Fiware(http);
    rig.store.put_target(config);
    rig.stage.full_scan().await;
    rig.put_bodies((0..50).map(|i| (1, i))).await;
    rig.wait(100.0).await;
    let status = rig.status(1).await;
    assert_eq!(status.breaker, BreakerState::Open);
    assert_eq!(status.breaker_reason.as_deref(), Some("there is no sender for this kind"));
    assert_eq!((status.pending, status.counters.accepted), (50, 50));
    // It is given a kind that can be sent.
    rig.store.put_target(sluse_schema::target::TargetConfig { version: 2, ..config_of(1) });
    rig.changed(sluse_schema::change::ChangedEntity::Target, 1).await;
    rig.wait(5.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 50).await;
}

#[actix::test]
async fn concurrency_stays_below_its_maximum_and_memory_within_its_window() {
    tokio::time::pause();
    let config = TargetStageConfig { window_records: 64, ..TargetStageConfig::default() };
    let rig = Rig::start(&[1], config, |_, _| Reply::ok().after(Duration::from_millis(20))).await;
    rig.put_bodies((0..2_000).map(|i| (1, i))).await;
    rig.wait(60.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 2_000).await;
    assert!(rig.senders.num_open().1 <= 64);
    assert_eq!(rig.senders.arrived().len(), 2_000, "nothing is sent twice without a fault");
}
