//! Rewinds and replays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sluse_schema::delivery::DeadReason;
use sluse_schema::device::DecoderScript;
use sluse_schema::id::{DecoderId, TargetId};
use sluse_schema::port::TargetRequestKind;
use sluse_schema::record::Topic;

use super::rig::{P0, Rig};
use crate::target::TargetStageConfig;
use crate::testing::Reply;

#[actix::test]
async fn a_rewind_while_live_offers_exactly_its_range_again() {
    tokio::time::pause();
    let rig = Rig::start(&[1, 2], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    for _ in 0..50 {
        rig.put_bodies((0..4).flat_map(|device| [(1, device), (2, device)])).await;
        rig.wait(1.0).await;
    }
    let records = rig.log.records(Topic::Deliveries, P0);
    let from = records[records.len() / 2].offset;
    let num_in_range = records.iter().filter(|r| r.key == 1 && r.offset >= from).count() as u64;
    rig.ask(1, TargetRequestKind::RewindToOffset(from.0)).await;
    rig.put_bodies((0..4).map(|device| (1, device))).await;
    rig.wait(10.0).await;
    rig.assert_settled(1, 204).await;
    let row = rig.store.cursor(TargetId(1)).unwrap();
    assert_eq!((row.counters.offered_again, row.counters.delivered), (num_in_range, 204 + num_in_range));
    assert_eq!(row.rewind_epoch, 1);
    assert!(rig.store.requests().is_empty());
    rig.assert_settled(2, 200).await;
    assert_eq!(rig.store.cursor(TargetId(2)).unwrap().counters.offered_again, 0);
    let keys: std::collections::HashSet<String> =
        rig.senders.delivered_to(TargetId(1)).into_iter().map(|a| a.key).collect();
    assert_eq!(keys.len(), 204, "a repeat has the key of the first");
}

#[actix::test]
async fn a_rewind_cancels_what_is_in_flight_and_ignores_its_answers() {
    tokio::time::pause();
    let rig =
        Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok().after(Duration::from_millis(700))).await;
    rig.put_bodies((0..40).map(|i| (1, i % 10))).await;
    rig.wait(1.0).await;
    rig.ask(1, TargetRequestKind::RewindToOffset(0)).await;
    rig.wait(60.0).await;
    rig.assert_all_arrived(1);
    rig.assert_settled(1, 40).await;
    let counters = rig.status(1).await.counters;
    // What had ended before is offered again; what was open is only read again.
    assert_eq!(counters.delivered, 40 + counters.offered_again);
    assert!(counters.offered_again > 0 && counters.offered_again < 40, "{counters:?}");
}

#[actix::test]
async fn a_rewind_to_a_time_supersedes_the_dead_letters_of_its_range() {
    tokio::time::pause();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let rig = Rig::start(&[1], TargetStageConfig::default(), move |_, _| {
        if mended.load(Ordering::Relaxed) { Reply::ok() } else { Reply::status(400) }
    })
    .await;
    rig.put_bodies((0..5).map(|i| (1, i))).await;
    rig.wait(60.0).await;
    let middle_ms = rig.clock.now().unix_ms;
    rig.put_bodies((0..5).map(|i| (1, i))).await;
    rig.wait(60.0).await;
    assert_eq!(rig.store.letters(TargetId(1)).len(), 10);
    is_mended.store(true, Ordering::Relaxed);
    rig.ask(1, TargetRequestKind::RewindToTime(middle_ms)).await;
    rig.wait(10.0).await;
    assert_eq!(rig.store.letters(TargetId(1)).len(), 5);
    let counters = rig.status(1).await.counters;
    assert_eq!((counters.offered_again, counters.delivered, counters.dead), (5, 5, 10));
    rig.assert_settled(1, 10).await;
}

#[actix::test]
async fn a_replayed_dead_letter_leaves_the_list_when_it_is_delivered_and_is_replaced_when_it_dies_again() {
    tokio::time::pause();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let rig = Rig::start(&[1], TargetStageConfig::default(), move |_, body| {
        if mended.load(Ordering::Relaxed) && !body.ends_with(b"1") { Reply::ok() } else { Reply::status(400) }
    })
    .await;
    rig.put_bodies((0..200).map(|i| (1, i))).await;
    rig.wait(5.0).await;
    let letters = rig.store.letters(TargetId(1));
    assert_eq!(letters.len(), 200);
    is_mended.store(true, Ordering::Relaxed);
    let ids = letters.iter().map(|(id, _)| *id).collect();
    rig.ask(1, TargetRequestKind::Replay(ids)).await;
    rig.wait(10.0).await;
    let left = rig.store.letters(TargetId(1));
    assert_eq!(left.len(), 20);
    assert!(left.iter().all(|(id, _)| letters.iter().all(|(old, _)| old != id)), "the new one replaces the old one");
    let counters = rig.status(1).await.counters;
    assert_eq!((counters.offered_again, counters.delivered, counters.dead), (200, 180, 220));
    rig.assert_settled(1, 200).await;
    assert!(rig.store.requests().is_empty());
}

#[actix::test]
async fn an_undecoded_delivery_is_a_dead_letter_without_a_try_and_is_decoded_when_it_is_replayed() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.store.put_decoder(DecoderScript::new(DecoderId(9), "still bad", None));
    rig.put_undecoded(1, 4, "raw").await;
    rig.wait(3.0).await;
    assert!(rig.senders.arrived().is_empty());
    let letters = rig.store.letters(TargetId(1));
    assert_eq!((letters[0].1.reason, letters[0].1.num_attempts), (DeadReason::Undecoded, 0));
    assert_eq!(letters[0].1.meta.error.as_deref(), Some("x is not defined"));

    rig.ask(1, TargetRequestKind::Replay(vec![letters[0].0])).await;
    rig.wait(3.0).await;
    let letters = rig.store.letters(TargetId(1));
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].1.meta.error.as_deref(), Some("still bad is not defined"));
    assert_eq!(&letters[0].1.body[..], b"raw");

    rig.store.put_decoder(DecoderScript::new(DecoderId(9), "good", None));
    rig.ask(1, TargetRequestKind::Replay(vec![letters[0].0])).await;
    rig.wait(3.0).await;
    assert!(rig.store.letters(TargetId(1)).is_empty());
    assert_eq!(&rig.senders.delivered_to(TargetId(1))[0].body[..], b"decoded raw");
    let counters = rig.status(1).await.counters;
    assert_eq!((counters.accepted, counters.offered_again, counters.delivered, counters.dead), (1, 2, 1, 2));
    rig.assert_settled(1, 1).await;
}

#[actix::test]
async fn a_rewind_over_an_undecoded_delivery_decodes_it_first() {
    tokio::time::pause();
    let rig = Rig::start(&[1], TargetStageConfig::default(), |_, _| Reply::ok()).await;
    rig.put_undecoded(1, 4, "raw").await;
    rig.wait(3.0).await;
    rig.ask(1, TargetRequestKind::RewindToOffset(0)).await;
    rig.wait(3.0).await;
    assert_eq!(&rig.senders.delivered_to(TargetId(1))[0].body[..], b"decoded raw");
    assert!(rig.store.letters(TargetId(1)).is_empty());
    rig.assert_settled(1, 1).await;
}

#[actix::test]
async fn a_replay_cut_off_by_a_crash_is_worked_off_again_and_conserves() {
    tokio::time::pause();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let mut rig = Rig::start(&[1], TargetStageConfig::default(), move |_, _| {
        if mended.load(Ordering::Relaxed) { Reply::ok().after(Duration::from_millis(300)) } else { Reply::status(400) }
    })
    .await;
    rig.put_bodies((0..300).map(|i| (1, i % 5))).await;
    rig.wait(30.0).await;
    let ids: Vec<_> = rig.store.letters(TargetId(1)).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 300);
    is_mended.store(true, Ordering::Relaxed);
    rig.ask(1, TargetRequestKind::Replay(ids)).await;
    for _ in 0..4 {
        rig.wait(2.3).await;
        rig.crash().await;
    }
    rig.wait(60.0).await;
    assert!(rig.store.letters(TargetId(1)).is_empty());
    assert!(rig.store.requests().is_empty());
    let counters = rig.status(1).await.counters;
    assert_eq!((counters.offered_again, counters.delivered), (300, 300));
    rig.assert_settled(1, 300).await;
}
