//! State rows that follow the log.

use bytes::Bytes;
use sluse_schema::device::{DeviceCounters, DeviceState, DownlinkOutcome, Latest, LinkState, SeenEvent, Transmission};
use sluse_schema::id::DeviceId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{DeviceStore, StateBatch, StoreError};
use sluse_schema::record::LogIdentity;

use crate::fixture::{Database, log, position};

const AT_MS: i64 = 1_780_000_000_000;
/// A time that Rust can say and PostgreSQL cannot (158 000 years ago).
const REFUSED_AT_MS: i64 = -5_000_000_000_000_000;

fn state(device: i64, offset: u64) -> DeviceState {
    let transmission = Transmission {
        event_at_ms: AT_MS,
        offset,
        rssi_dbm: Some(-91),
        snr_db: Some(-1.5),
        num_gateways: 2,
        dr: Some(5),
        f_cnt: Some(7),
        f_cnt_gap: 0,
    };
    DeviceState {
        device: DeviceId(device),
        applied: Some((log().into(), offset)),
        latest: Some(Latest {
            event_at_ms: AT_MS,
            received_at_ms: AT_MS + 40,
            offset,
            rssi_dbm: Some(-60),
            snr_db: Some(9.5),
            payload: Some(Bytes::from(format!("{{\"n\":{offset},\"nul\":\"\0\"}}"))),
        }),
        window: [transmission].into(),
        seen: [SeenEvent { repeat_key: u64::MAX, offset, received_at_ms: AT_MS }].into(),
        link: Some(Box::new(LinkState {
            dev_addr: Some("0102\x000304".into()),
            margin_db: Some(7),
            ..LinkState::default()
        })),
        downlinks: Vec::new(),
        f_cnt: Some(7),
        counters: DeviceCounters { num_uplinks: 3, num_repeats: 2, num_decode_failures: 1, num_f_cnt_missing: 4 },
    }
}

fn batch(epoch: i64, states: Vec<DeviceState>, offset: u64) -> StateBatch {
    StateBatch { partition: PartitionId(0), epoch, states, position: position(offset) }
}

async fn take(database: &Database) -> i64 {
    let store: &dyn DeviceStore = &*database.store;
    store.take_partition(PartitionId(0)).await.unwrap().0
}

async fn stored(database: &Database, device: i64) -> Option<DeviceState> {
    database.store.activate(&[DeviceId(device)]).await.unwrap().remove(0).state
}

#[tokio::test]
async fn a_state_comes_back_as_it_was_without_its_payload_nul_bytes_and_all() {
    let database = Database::with_devices(1).await;
    let epoch = take(&database).await;
    assert_eq!(stored(&database, 1).await, None);
    database.store.store_states(&batch(epoch, vec![state(1, 5)], 5)).await.unwrap();
    let mut expected = state(1, 5);
    expected.latest.as_mut().unwrap().payload = None;
    assert_eq!(stored(&database, 1).await, Some(expected));
    let num = database.number("SELECT length(latest_payload)::bigint FROM device_state").await;
    assert_eq!(num as usize, state(1, 5).latest.unwrap().payload.unwrap().len());
}

#[tokio::test]
async fn whoever_lost_the_partition_writes_nothing() {
    let database = Database::with_devices(1).await;
    let ours = take(&database).await;
    database.store.store_states(&batch(ours, vec![state(1, 5)], 5)).await.unwrap();
    let theirs = take(&database).await;
    assert_eq!(theirs, ours + 1);
    let refused = database.store.store_states(&batch(ours, vec![state(1, 9)], 9)).await;
    assert!(
        matches!(refused, Err(StoreError::Fenced { partition: 0, current, ours: o }) if (current, o) == (theirs, ours))
    );
    assert_eq!(stored(&database, 1).await.unwrap().applied, Some((log().into(), 5)));
    let store: &dyn DeviceStore = &*database.store;
    assert_eq!(store.take_partition(PartitionId(0)).await.unwrap(), (theirs + 1, Some(position(5))));
}

#[tokio::test]
async fn a_partition_that_nobody_took_cannot_be_written() {
    let database = Database::with_devices(1).await;
    let refused = database.store.store_states(&batch(1, vec![state(1, 5)], 5)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { current: 0, .. })));
}

#[tokio::test]
async fn a_row_that_is_not_behind_is_left_alone() {
    let database = Database::with_devices(1).await;
    let epoch = take(&database).await;
    let with = |incarnation: u64, store: &str, offset: u64, num_uplinks: u64| {
        let mut state = state(1, offset);
        state.applied = Some((LogIdentity { store: store.into(), incarnation }.into(), offset));
        state.counters.num_uplinks = num_uplinks;
        batch(epoch, vec![state], offset)
    };
    // Incarnation, store, offset, and whether this row is written over the ones before.
    let steps = [
        (1, "embedded:a", 10, true),
        (1, "embedded:a", 9, false),
        (1, "embedded:a", 10, false),
        (1, "embedded:a", 11, true),
        (2, "embedded:a", 3, true),
        (1, "embedded:a", 99, false),
        (0, "kafka:b", 1, true),
    ];
    let mut expected = 0;
    for (place, (incarnation, store, offset, is_written)) in steps.into_iter().enumerate() {
        let num_uplinks = 100 + place as u64;
        database.store.store_states(&with(incarnation, store, offset, num_uplinks)).await.unwrap();
        expected = if is_written { num_uplinks } else { expected };
        let counters = stored(&database, 1).await.unwrap().counters;
        assert_eq!(counters.num_uplinks, expected, "step {place}");
    }
}

#[tokio::test]
async fn the_payload_is_kept_when_a_flush_brings_none() {
    let database = Database::with_devices(1).await;
    let epoch = take(&database).await;
    database.store.store_states(&batch(epoch, vec![state(1, 5)], 5)).await.unwrap();
    let mut later = state(1, 6);
    later.latest.as_mut().unwrap().payload = None;
    database.store.store_states(&batch(epoch, vec![later], 6)).await.unwrap();
    assert_eq!(database.number("SELECT position('\"n\":5' in convert_from(replace(latest_payload::text, '00', '20')::bytea, 'UTF8'))::bigint FROM device_state").await, 2);
}

#[tokio::test]
async fn rows_of_deleted_devices_are_skipped_and_the_others_written() {
    let database = Database::with_devices(3).await;
    let epoch = take(&database).await;
    database.run("DELETE FROM iot_device WHERE id = 2").await;
    let states = (1..=3).map(|device| state(device, 5)).collect();
    database.store.store_states(&batch(epoch, states, 5)).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM device_state").await, 2);
}

#[tokio::test]
async fn refused_rows_are_reduced_to_their_counters_and_a_thousand_others_are_whole() {
    let database = Database::with_devices(1200).await;
    let epoch = take(&database).await;
    let bad = [1, 500, 501, 1200];
    let states = (1..=1200)
        .map(|device| {
            let mut state = state(device, 5);
            if bad.contains(&device) {
                state.latest.as_mut().unwrap().event_at_ms = REFUSED_AT_MS;
            }
            state
        })
        .collect();
    database.store.store_states(&batch(epoch, states, 5)).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM device_state WHERE num_uplinks = 3").await, 1200);
    assert_eq!(database.number("SELECT count(*) FROM device_state WHERE latest_payload IS NULL").await, 4);
    for device in bad {
        let state = stored(&database, device).await.unwrap();
        assert_eq!((state.latest, state.applied), (None, Some((log().into(), 5))));
    }
    let store: &dyn DeviceStore = &*database.store;
    assert_eq!(store.take_partition(PartitionId(0)).await.unwrap().1, Some(position(5)));
}

/// Prints what a row costs: `cargo test -p sluse-engine --test store -- --ignored --nocapture what_a_row_costs`.
#[tokio::test]
#[ignore = "prints figures"]
async fn what_a_row_costs() {
    const NUM_DEVICES: i64 = 20_000;
    let database = Database::with_devices(NUM_DEVICES as u32).await;
    let epoch = take(&database).await;
    let payload = Bytes::from(include_str!("payload.json"));
    let rows = |first: i64, round: u64| {
        (first..first + 1000)
            .map(|device| {
                let mut state = state(device, round);
                state.latest.as_mut().unwrap().payload = Some(payload.clone());
                state.window = (0..20)
                    .map(|place| Transmission { offset: place, f_cnt: Some(place as u32), ..state.window[0].clone() })
                    .collect();
                state.seen = (0..20)
                    .map(|place: u64| SeenEvent {
                        repeat_key: place.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                        ..state.seen[0]
                    })
                    .collect();
                state
            })
            .collect()
    };
    for round in 1..=5u64 {
        let server_before = database._server.cpu_seconds();
        let mut wall_seconds = 0.0;
        for first in (1..=NUM_DEVICES).step_by(1000) {
            let batch = batch(epoch, rows(first, round), round);
            let flush_at = std::time::Instant::now();
            database.store.store_states(&batch).await.unwrap();
            wall_seconds += flush_at.elapsed().as_secs_f64();
        }
        let us_per_row = |seconds: f64| seconds * 1e6 / NUM_DEVICES as f64;
        println!(
            "round {round} ({}): {:.1} µs of server time per row, {:.1} µs until the answer (this build is not optimised)",
            if round == 1 { "inserts" } else { "updates" },
            us_per_row(database._server.cpu_seconds() - server_before),
            us_per_row(wall_seconds),
        );
    }
}

#[tokio::test]
async fn what_became_of_a_downlink_is_written_into_its_own_row_with_the_state() {
    let database = Database::with_devices(2).await;
    let epoch = take(&database).await;
    let client = database.store.pool().get().await.unwrap();
    client
        .batch_execute(
            "INSERT INTO downlink (device_id, queue_item_id, payload, port) VALUES (1, 'a', '\\x01', 5), (2, 'b', '\\x01', 5)",
        )
        .await
        .unwrap();
    let outcome = |item: &str, sent: bool| DownlinkOutcome {
        queue_item_id: item.into(),
        f_cnt_down: Some(9),
        sent_at_ms: sent.then_some(AT_MS),
        acknowledged_at_ms: (!sent).then_some(AT_MS + 1000),
        is_acknowledged: (!sent).then_some(true),
    };
    // Device 1 speaks of its own downlink, of device 2's, and of one that nobody made.
    let mut first = state(1, 5);
    first.downlinks = vec![outcome("a", true), outcome("b", true), outcome("nobody's", true)];
    database.store.store_states(&batch(epoch, vec![first], 5)).await.unwrap();
    let sent = "SELECT count(*) FROM downlink WHERE sent_at IS NOT NULL AND f_cnt_down = 9";
    assert_eq!(database.number(sent).await, 1);
    let mut later = state(1, 6);
    later.downlinks = vec![outcome("a", false)];
    database.store.store_states(&batch(epoch, vec![later], 6)).await.unwrap();
    let both =
        "SELECT count(*) FROM downlink WHERE queue_item_id = 'a' AND sent_at < acknowledged_at AND is_acknowledged";
    assert_eq!(database.number(both).await, 1);
}
