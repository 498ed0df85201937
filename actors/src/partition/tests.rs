//! The device stage on in-memory ports with paused time: what goes in, what stands in the deliveries log, what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sluse_schema::delivery::{DeliveryKind, DeliveryMeta};
use sluse_schema::id::{DeviceId, OrganizationId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{DecodeError, DecodeErrorKind, Decoded, Decoder, Log};
use sluse_schema::record::{Record, Topic};
use sluse_schema::testing::MemoryLog;
use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};

use super::config::{ConfigCache, DevicePorts, DeviceStageConfig};
use super::stage::DeviceStage;
use crate::tail::TailHub;
use crate::testing::{FnDecoder, MemoryDeviceStore};

const PARTITION: PartitionId = PartitionId(0);

struct Rig {
    log: Arc<MemoryLog>,
    store: Arc<MemoryDeviceStore>,
    ports: DevicePorts,
    stage: DeviceStage,
}

impl Rig {
    async fn new(store: Arc<MemoryDeviceStore>, decoder: impl Decoder) -> Self {
        let log = MemoryLog::with_gaps(1);
        let ports = DevicePorts {
            log: log.clone(),
            store: store.clone(),
            decoder: Arc::new(decoder),
            tail: Arc::new(TailHub::default()),
            configs: Arc::new(ConfigCache::new(1_000)),
        };
        let stage = start(&ports).await;
        Self { log, store, ports, stage }
    }

    /// Appends an `up` of `device` whose payload is `n`.
    async fn send(&self, device: i64, n: u64) {
        self.send_event(device, EventType::Up, None, &n.to_string()).await;
    }

    async fn send_event(&self, device: i64, event: EventType, id: Option<&str>, payload: &str) {
        let meta = UplinkMeta {
            device: DeviceId(device),
            organization: OrganizationId(1),
            source: SourceKind::Http,
            event,
            received_at_ms: 1_000,
            event_id: id.map(str::to_owned),
            content_type: "application/json".into(),
            figures: None,
        };
        let record = meta.into_record(Bytes::from(payload.to_owned()));
        self.log.append(PARTITION, vec![record]).await.unwrap();
    }

    /// What stands in the deliveries log: device, kind, body.
    fn deliveries(&self) -> Vec<(i64, DeliveryKind, String)> {
        let show = |record: Record| {
            let meta = DeliveryMeta::of_record(&record).unwrap();
            (meta.device.0, meta.kind, String::from_utf8(record.value.to_vec()).unwrap())
        };
        self.log.records(Topic::Deliveries, PARTITION).into_iter().map(show).collect()
    }

    fn bodies_of(&self, device: i64) -> Vec<u64> {
        let of_device = self.deliveries().into_iter().filter(|d| d.0 == device);
        of_device.map(|d| d.2.parse().unwrap()).collect()
    }

    /// Everything that happened in memory is lost, as by kill -9; what is in the log and the store stays.
    async fn crash(&mut self) {
        self.stage.abandon().await;
        self.stage = start(&self.ports).await;
    }
}

async fn start(ports: &DevicePorts) -> DeviceStage {
    let arbiter = actix_rt::Arbiter::current();
    let config = DeviceStageConfig { flush_interval: Duration::from_millis(500), ..DeviceStageConfig::default() };
    let stage = DeviceStage::start(config, ports, &[arbiter]);
    stage.assign(&[PARTITION]).await.unwrap();
    stage
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[actix::test]
async fn i2_every_uplink_is_delivered_once_in_order_per_device() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(7, &[(1, Some(1)), (2, None)]), FnDecoder::echo()).await;
    for n in 0..700 {
        rig.send(1 + (n % 7) as i64, n).await;
    }
    settle().await;
    assert_eq!(rig.deliveries().len(), 1_400);
    for device in 1..=7 {
        let bodies = rig.bodies_of(device);
        let expected: Vec<u64> = (0..700).filter(|n| 1 + (n % 7) as i64 == device).flat_map(|n| [n, n]).collect();
        assert_eq!(bodies, expected);
    }
    assert_eq!(rig.store.state(DeviceId(3)).unwrap().counters.num_uplinks, 100);
}

#[actix::test]
async fn many_changed_devices_are_stored_without_waiting_for_more_of_them() {
    tokio::time::pause();
    let config = DeviceStageConfig::default();
    let num_devices = config.num_flush_waiting_max as i64 + 200;
    let rig = Rig::new(MemoryDeviceStore::with_devices(num_devices, &[(1, None)]), FnDecoder::echo()).await;
    // Three rounds within the time that a few devices would wait once.
    for round in 1..=3 {
        for device in 1..=num_devices {
            rig.send(device, round).await;
        }
        settle().await;
        let is_stored =
            |device: &i64| rig.store.state(DeviceId(*device)).is_some_and(|s| s.counters.num_uplinks >= round);
        let num_stored = (1..=num_devices).filter(is_stored).count();
        assert!(num_stored >= config.num_flush_waiting_max, "{num_stored} stored in round {round}");
    }
}

#[actix::test]
async fn a_repeat_is_counted_and_not_delivered_and_a_join_is_for_the_record() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, None)]), FnDecoder::echo()).await;
    rig.send_event(1, EventType::Up, Some("a"), "1").await;
    rig.send_event(1, EventType::Status, Some("a"), r#"{"margin":10}"#).await;
    rig.send_event(1, EventType::Up, Some("a"), "1").await;
    rig.send_event(1, EventType::Up, Some("b"), "2").await;
    settle().await;
    assert_eq!(rig.bodies_of(1), [1, 2]);
    let state = rig.store.state(DeviceId(1)).unwrap();
    assert_eq!((state.counters.num_uplinks, state.counters.num_repeats), (2, 1));
    assert_eq!(state.link.as_ref().and_then(|link| link.margin_db), Some(10));
    assert_eq!(state.latest.unwrap().payload, Some(Bytes::from_static(b"2")));
}

#[actix::test]
async fn i4_a_failed_decode_becomes_an_undecoded_delivery_and_a_listed_failure() {
    tokio::time::pause();
    let decoder = FnDecoder::new(|job| match job.payload.as_ref() {
        b"13" => Err(DecodeError { kind: DecodeErrorKind::Thrown, message: "no thirteen".into() }),
        b"14" => Ok(Decoded::Nothing),
        _ => Ok(Decoded::Value { json: job.payload.clone(), num_warnings: 0 }),
    });
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, Some(1))]), decoder).await;
    for n in 12..=15 {
        rig.send(1, n).await;
    }
    settle().await;
    let expected = [
        (1, DeliveryKind::Body, "12".to_owned()),
        (1, DeliveryKind::Undecoded, "13".to_owned()),
        (1, DeliveryKind::Body, "15".to_owned()),
    ];
    assert_eq!(rig.deliveries(), expected);
    let failures = rig.store.failures();
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].message.as_str(), failures[0].sample.as_ref()), ("no thirteen", b"13".as_slice()));
    assert_eq!(rig.store.state(DeviceId(1)).unwrap().counters.num_decode_failures, 1);
}

#[actix::test]
async fn a_panicking_device_comes_back_with_its_state_and_its_uplink_is_processed() {
    tokio::time::pause();
    let num_left = Arc::new(AtomicU32::new(2));
    let left = Arc::clone(&num_left);
    let decoder = FnDecoder::new(move |job| {
        if job.payload.as_ref() == b"5"
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        {
            panic!("a bug of ours");
        }
        Ok(Decoded::Value { json: job.payload.clone(), num_warnings: 0 })
    });
    let rig = Rig::new(MemoryDeviceStore::with_devices(2, &[(1, Some(1))]), decoder).await;
    for n in 0..10 {
        rig.send(1, n).await;
        rig.send(2, n).await;
        if n == 3 {
            settle().await;
        }
    }
    settle().await;
    assert_eq!(num_left.load(Ordering::Relaxed), 0);
    assert_eq!(rig.bodies_of(1), (0..10).collect::<Vec<_>>());
    assert_eq!(rig.bodies_of(2), (0..10).collect::<Vec<_>>());
    let state = rig.store.state(DeviceId(1)).unwrap();
    assert_eq!((state.counters.num_uplinks, state.window.len()), (10, 10));
}

#[actix::test]
async fn i7_an_uplink_that_always_panics_is_handed_on_undecoded_and_the_device_goes_on() {
    tokio::time::pause();
    let decoder = FnDecoder::new(|job| {
        assert!(job.payload.as_ref() != b"5", "a bug of ours");
        Ok(Decoded::Value { json: job.payload.clone(), num_warnings: 0 })
    });
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, Some(1))]), decoder).await;
    for n in 0..10 {
        rig.send(1, n).await;
    }
    settle().await;
    let undecoded: Vec<String> =
        rig.deliveries().into_iter().filter(|d| d.1 == DeliveryKind::Undecoded).map(|d| d.2).collect();
    assert_eq!(undecoded, ["5"]);
    assert_eq!(rig.bodies_of(1), (0..10).collect::<Vec<_>>());
}

#[actix::test]
async fn i1_after_a_crash_each_delivery_stands_once_and_states_are_rebuilt() {
    tokio::time::pause();
    let mut rig = Rig::new(MemoryDeviceStore::with_devices(3, &[(1, Some(1))]), FnDecoder::echo()).await;
    for round in 0..20u64 {
        for n in 0..30 {
            rig.send(1 + (n % 3) as i64, round * 30 + n).await;
        }
        // Anything between nothing read and everything stored.
        tokio::time::sleep(Duration::from_millis(round * 41 % 700)).await;
        rig.crash().await;
    }
    settle().await;
    for device in 1..=3 {
        let expected: Vec<u64> = (0..600).filter(|n| 1 + (n % 3) as i64 == device).collect();
        assert_eq!(rig.bodies_of(device), expected);
        let state = rig.store.state(DeviceId(device)).unwrap();
        assert_eq!(state.counters.num_uplinks, 200);
        assert_eq!(state.window.len(), 20);
    }
}

#[actix::test]
async fn i1_a_step_with_an_unclear_outcome_is_settled_and_nothing_comes_twice() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, None)]), FnDecoder::echo()).await;
    for (n, applied) in [true, false, true, false].into_iter().enumerate() {
        rig.log.fail_next_step_unclear(applied);
        rig.send(1, n as u64).await;
        settle().await;
    }
    assert_eq!(rig.bodies_of(1), [0, 1, 2, 3]);
}

#[actix::test]
async fn i8_a_fenced_partition_is_taken_again_and_its_old_owner_writes_nothing() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, None)]), FnDecoder::echo()).await;
    rig.send(1, 0).await;
    settle().await;
    rig.store.raise_epoch(PARTITION);
    let before = rig.store.state_position(PARTITION);
    rig.send(1, 1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(rig.store.state_position(PARTITION), before);
    settle().await;
    rig.send(1, 2).await;
    settle().await;
    assert_eq!(rig.bodies_of(1), [0, 1, 2]);
    assert_eq!(rig.store.state(DeviceId(1)).unwrap().counters.num_uplinks, 3);
}

#[actix::test]
async fn with_the_database_away_known_devices_go_on_and_their_rows_follow() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(2, &[(1, None)]), FnDecoder::echo()).await;
    rig.send(1, 0).await;
    settle().await;
    rig.store.set_unavailable(true);
    for n in 1..50 {
        rig.send(1, n).await;
    }
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(rig.bodies_of(1).len(), 50);
    assert_eq!(rig.store.state(DeviceId(1)).unwrap().counters.num_uplinks, 1);
    rig.store.set_unavailable(false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.store.state(DeviceId(1)).unwrap().counters.num_uplinks, 50);
}

#[actix::test]
async fn an_unknown_device_waits_for_the_database_and_a_deleted_one_is_counted_gone() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(2, &[(1, None)]), FnDecoder::echo()).await;
    rig.store.set_unavailable(true);
    rig.send(2, 7).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.deliveries().is_empty());
    rig.store.set_unavailable(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.bodies_of(2), [7]);
    rig.store.remove_device(DeviceId(1));
    rig.send(1, 8).await;
    rig.send(2, 9).await;
    settle().await;
    assert!(rig.bodies_of(1).is_empty());
    assert_eq!(rig.bodies_of(2), [7, 9]);
}

#[actix::test]
async fn a_new_connection_takes_effect_without_a_restart() {
    use sluse_schema::change::{ChangeEvent, ChangedEntity};
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[]), FnDecoder::echo()).await;
    rig.send(1, 0).await;
    settle().await;
    rig.store.put_device(DeviceId(1), &[(1, None)]);
    let change = ChangeEvent { id: 1, entity: ChangedEntity::Device, entity_id: 1 };
    rig.stage.changed(Arc::new([change])).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.send(1, 1).await;
    settle().await;
    assert_eq!(rig.bodies_of(1), [1]);
}

#[actix::test]
async fn silent_devices_leave_memory_and_come_back_with_their_state() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, None)]), FnDecoder::echo()).await;
    rig.send_event(1, EventType::Up, Some("a"), "1").await;
    tokio::time::sleep(Duration::from_secs(2_000)).await;
    assert_eq!(rig.store.num_activations(), 1);
    rig.send_event(1, EventType::Up, Some("a"), "1").await;
    rig.send_event(1, EventType::Up, Some("b"), "2").await;
    settle().await;
    assert_eq!(rig.store.num_activations(), 2);
    assert_eq!(rig.bodies_of(1), [1, 2]);
}

#[actix::test]
async fn what_comes_between_two_moments_is_one_step_and_what_comes_after_a_pause_does_not_wait() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(5, &[(1, None)]), FnDecoder::echo()).await;
    for device in 1..=5 {
        rig.send(device, 0).await;
    }
    settle().await;
    let began_at = tokio::time::Instant::now();
    let mut steps = vec![rig.log.committed(PARTITION).await.unwrap()];
    for n in 0..200 {
        rig.send(1 + n % 5, n as u64).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        steps.push(rig.log.committed(PARTITION).await.unwrap());
    }
    assert!(steps[3] > steps[0], "the first uplink after a pause waited for those behind it: {steps:?}");
    let num_moments = began_at.elapsed().as_millis() / DeviceStageConfig::default().read_interval.as_millis();
    settle().await;
    assert_eq!(rig.deliveries().len(), 205);
    steps.dedup();
    let num_steps = (steps.len() - 1) as u128;
    assert!(num_steps <= num_moments + 2, "{num_steps} steps between {num_moments} moments: {steps:?}");
}

#[actix::test]
async fn draining_leaves_nothing_open_and_everything_stored() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(5, &[(1, Some(1))]), FnDecoder::echo()).await;
    for n in 0..500 {
        rig.send(1 + (n % 5) as i64, n).await;
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(rig.stage.drain(Duration::from_secs(10)).await);
    let committed = rig.log.committed(PARTITION).await.unwrap().unwrap();
    assert_eq!(rig.store.state_position(PARTITION).unwrap().offset, committed);
    let num_stored: u64 = (1..=5).filter_map(|d| rig.store.state(DeviceId(d))).map(|s| s.counters.num_uplinks).sum();
    assert_eq!(num_stored, rig.deliveries().len() as u64);
}

#[actix::test]
async fn a_partition_that_is_taken_back_while_the_node_stops_is_given_up_once_and_not_before_it_is_done() {
    tokio::time::pause();
    let rig = Rig::new(MemoryDeviceStore::with_devices(1, &[(1, None)]), FnDecoder::echo()).await;
    rig.send(1, 0).await;
    settle().await;
    rig.store.set_unavailable(true);
    rig.send(1, 1).await;
    let stopping = actix_rt::spawn({
        let stage = rig.stage.clone();
        async move { stage.drain(Duration::from_secs(10)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let revoked = rig.stage.revoke(&[PARTITION]);
    tokio::pin!(revoked);
    let early = tokio::time::timeout(Duration::from_secs(1), &mut revoked).await;
    assert!(early.is_err(), "the row of the device is not written yet: {early:?}");
    rig.store.set_unavailable(false);
    assert_eq!((revoked.await, stopping.await.unwrap()), (true, true));
    assert_eq!(rig.store.state(DeviceId(1)).unwrap().counters.num_uplinks, 2);
}
