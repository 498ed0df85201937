//! The gate on in-memory ports: order, refusals, what is away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use sluse_schema::id::{DevEui, DeviceKey};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Arrival, Intake, Log, RefusedArrival};
use sluse_schema::record::Topic;
use sluse_schema::testing::MemoryLog;
use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};

use super::{Directory, EntranceLimit, Gate, GateConfig, LimitConfig, UnknownLister};
use crate::testing::MemoryDeviceStore;

struct Rig {
    log: Arc<MemoryLog>,
    store: Arc<MemoryDeviceStore>,
    directory: Arc<Directory>,
    gate: Gate,
}

async fn rig() -> Rig {
    let log = MemoryLog::new(2);
    let store = MemoryDeviceStore::with_devices(10, &[]);
    let directory = Arc::new(Directory::new(100));
    let gate = gate(&log, &store, &directory).await;
    Rig { log, store, directory, gate }
}

async fn gate(log: &Arc<MemoryLog>, store: &Arc<MemoryDeviceStore>, directory: &Arc<Directory>) -> Gate {
    let strangers = UnknownLister::default();
    Gate::open(log.clone(), store.clone(), Arc::clone(directory), strangers, GateConfig::default()).await.unwrap()
}

fn arrival(device: u64, n: u64) -> Arrival {
    Arrival {
        sender: DeviceKey::DevEui(DevEui(device)),
        source: SourceKind::Chirpstack,
        event: EventType::Up,
        event_id: None,
        content_type: "application/json".into(),
        figures: None,
        payload: Bytes::from(n.to_string()),
    }
}

impl Rig {
    fn logged(&self, device: i64) -> Vec<u64> {
        let records = (0..2).flat_map(|p| self.log.records(Topic::Uplinks, PartitionId(p)));
        let of_device = records.filter(|r| r.key == device);
        of_device.map(|r| std::str::from_utf8(&r.value).unwrap().parse().unwrap()).collect()
    }
}

#[tokio::test]
async fn i2_arrivals_that_overlap_are_logged_in_the_order_of_hand_over() {
    let rig = rig().await;
    // Known, unknown and mixed senders, all calls under way at once.
    let calls = (0..50).map(|n| {
        let arrivals = vec![arrival(1 + n % 3, n), arrival(1 + (n / 7) % 10, 1_000 + n), arrival(99, n)];
        rig.gate.accept_all(arrivals)
    });
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|a| a[0].is_ok() && a[1].is_ok() && a[2] == Err(RefusedArrival::UnknownSender)));
    for device in 1..=10 {
        let logged = rig.logged(device);
        for series in [0, 1_000] {
            let of_series: Vec<u64> = logged.iter().copied().filter(|n| n / 1_000 * 1_000 == series).collect();
            assert!(of_series.is_sorted(), "device {device}: {of_series:?}");
        }
    }
    let num_logged: usize = (1..=10).map(|device| rig.logged(device).len()).sum();
    assert_eq!(num_logged, 100);
}

#[tokio::test]
async fn with_the_database_away_known_senders_pass_and_others_are_told_later() {
    let rig = rig().await;
    rig.gate.accept(arrival(1, 0)).await.unwrap();
    rig.store.set_unavailable(true);
    assert!(rig.gate.accept(arrival(1, 1)).await.is_ok());
    assert!(matches!(rig.gate.accept(arrival(2, 0)).await, Err(RefusedArrival::Later { .. })));
    assert!(matches!(rig.gate.accept(arrival(99, 0)).await, Err(RefusedArrival::Later { .. })));
    rig.store.set_unavailable(false);
    assert!(rig.gate.accept(arrival(2, 1)).await.is_ok());
    assert_eq!(rig.gate.accept(arrival(99, 0)).await, Err(RefusedArrival::UnknownSender));
    assert_eq!((rig.logged(1), rig.logged(2)), (vec![0, 1], vec![1]));
}

#[tokio::test]
async fn a_log_that_cannot_take_it_is_later_and_nothing_is_accepted() {
    let rig = rig().await;
    rig.log.set_full(true);
    assert!(matches!(rig.gate.accept(arrival(1, 0)).await, Err(RefusedArrival::Later { .. })));
    rig.log.set_full(false);
    assert!(rig.gate.accept(arrival(1, 1)).await.is_ok());
    assert_eq!(rig.logged(1), [1]);
}

#[tokio::test]
async fn senders_are_looked_up_once_and_strangers_are_not_asked_for_again_and_again() {
    let rig = rig().await;
    for n in 0..20 {
        let _ = rig.gate.accept_all(vec![arrival(1, n), arrival(99, n)]).await;
    }
    assert_eq!(rig.store.num_lookups(), 1);
    rig.directory.forget_all();
    let _ = rig.gate.accept_all(vec![arrival(1, 0), arrival(99, 0)]).await;
    assert_eq!(rig.store.num_lookups(), 2);
}

#[tokio::test]
async fn a_sender_is_recognised_before_its_body_is_there_with_one_question_for_both() {
    let rig = rig().await;
    let key = |device| DeviceKey::DevEui(DevEui(device));
    for _ in 0..3 {
        assert_eq!(rig.gate.recognise(SourceKind::Http, &key(1)).await, Ok(()));
        assert_eq!(rig.gate.recognise(SourceKind::Http, &key(99)).await, Err(RefusedArrival::UnknownSender));
    }
    rig.gate.accept(arrival(1, 0)).await.unwrap();
    assert_eq!(rig.store.num_lookups(), 2, "one for each sender");
    rig.store.set_unavailable(true);
    assert_eq!(rig.gate.recognise(SourceKind::Http, &key(1)).await, Ok(()));
    assert!(matches!(rig.gate.recognise(SourceKind::Http, &key(2)).await, Err(RefusedArrival::Later { .. })));
}

#[tokio::test]
async fn received_at_goes_on_from_what_the_log_holds_and_never_back() {
    let rig = rig().await;
    rig.gate.accept(arrival(1, 0)).await.unwrap();
    let partition = (0..2).map(PartitionId).find(|p| !rig.log.records(Topic::Uplinks, *p).is_empty()).unwrap();
    let future_ms = crate::clock::now_ms() + 3_600_000;
    let mut meta = UplinkMeta::of_record(&rig.log.records(Topic::Uplinks, partition)[0]).unwrap();
    meta.received_at_ms = future_ms;
    rig.log.append(partition, vec![meta.into_record(Bytes::from_static(b"1"))]).await.unwrap();
    // The clock was stepped back by an hour and the node started again.
    let gate = gate(&rig.log, &rig.store, &rig.directory).await;
    gate.accept(arrival(1, 2)).await.unwrap();
    let newest = rig.log.records(Topic::Uplinks, partition).last().map(|r| r.timestamp_ms);
    assert_eq!(newest, Some(future_ms));
}

#[tokio::test]
async fn who_is_heard_too_often_is_told_so_by_http_and_taken_in_by_mqtt() {
    let mut rig = rig().await;
    let config = LimitConfig { interval: Duration::from_secs(3600), burst: 2 };
    rig.gate = rig.gate.with_limit(Some(Arc::new(EntranceLimit::new(config, None))));
    let by_http = |device, n| Arrival { source: SourceKind::Http, ..arrival(device, n) };
    let answers = rig.gate.accept_all((0..4).map(|n| by_http(1, n)).collect()).await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 2);
    assert!(answers[2..].iter().all(|a| matches!(a, Err(RefusedArrival::TooOften { retry_after_ms: 1.. }))));
    assert!(rig.gate.accept(by_http(2, 0)).await.is_ok(), "others are not concerned");
    assert_eq!(rig.gate.accept(by_http(99, 0)).await, Err(RefusedArrival::UnknownSender));
    assert!(rig.gate.accept_all((4..8).map(|n| arrival(1, n)).collect()).await.iter().all(Result::is_ok));
    assert_eq!(rig.logged(1), [0, 1, 4, 5, 6, 7]);
}
