//! The ChirpStack source on a real Mosquitto: what is taken in, what is refused, and that nothing is lost or overtaken whatever stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};
use sluse_engine::source::{ChirpstackConfig, ChirpstackSource};
use sluse_schema::beat::Beat;
use sluse_schema::id::{DevEui, DeviceKey, GatewayId};
use sluse_schema::uplink::{EventType, SourceKind};
use sluse_schema::wire::chirpstack::ConnState;
use tokio::time::{Instant, sleep};

use crate::broker::{Broker, Publisher};
use crate::certificates::certificates;
use crate::intake::{RecordingGateways, RecordingIntake};

const STOP: Duration = Duration::from_secs(10);

async fn start(config: ChirpstackConfig, intake: &Arc<RecordingIntake>) -> ChirpstackSource {
    let source = ChirpstackSource::start(config, intake.clone(), Arc::new(RecordingGateways::default())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !source.health().is_connected {
        assert!(Instant::now() < deadline, "not connected: {:?}", source.health());
        sleep(Duration::from_millis(20)).await;
    }
    source
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what} within 30 s");
        sleep(Duration::from_millis(20)).await;
    }
}

fn config(broker: &Broker) -> ChirpstackConfig {
    ChirpstackConfig::new(broker.url(), "sluse-test")
}

fn eui(device: u64) -> String {
    format!("a81758ff{device:08x}")
}

fn topic(device: u64, event: &str) -> String {
    format!("application/13785ea4-2e62-4887-a9ea-9e6fd7b3de82/device/{}/event/{event}", eui(device))
}

/// The nth uplink of a device; its event id tells both.
fn uplink(device: u64, n: usize) -> (String, Vec<u8>) {
    let body = format!(
        r#"{{"deduplicationId":"{device}-{n}","deviceInfo":{{"devEui":"{}"}},"fCnt":{n},"fPort":2,"data":"AQI="}}"#,
        eui(device)
    );
    (topic(device, "up"), body.into_bytes())
}

/// `num_each` uplinks of each of `num_devices` devices, taking turns.
fn uplinks(num_devices: u64, num_each: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..num_each).flat_map(move |n| (0..num_devices).map(move |device| uplink(device, n)))
}

/// Every uplink of every device is there, each device's in order.
fn assert_complete_and_in_order(intake: &RecordingIntake, num_devices: u64, num_each: usize) {
    let ids = intake.first_ids_by_device();
    assert_eq!(ids.len(), num_devices as usize);
    for device in 0..num_devices {
        let key = DeviceKey::DevEui(eui(device).parse::<DevEui>().unwrap());
        let expected: Vec<String> = (0..num_each).map(|n| format!("{device}-{n}")).collect();
        assert!(
            ids[&key] == expected,
            "device {device}: {:?} …",
            ids[&key].iter().zip(&expected).find(|(a, b)| a != b)
        );
    }
}

#[tokio::test]
async fn every_recorded_event_of_a_real_chirpstack_is_accepted_byte_for_byte() {
    let events: Vec<(String, String)> = include_str!("chirpstack-events.jsonl")
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            (event["topic"].as_str().unwrap().to_owned(), event["payload"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(events.len(), 13);
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let source = start(config(&broker), &intake).await;
    let mut publisher = Publisher::connect(broker.port).await;
    publisher.publish_all(events.iter().map(|(topic, payload)| (topic.clone(), payload.clone().into_bytes()))).await;
    intake.wait_for(events.len()).await;
    assert!(source.stop(STOP).await);
    for (topic, payload) in &events {
        let event = EventType::of_topic(topic.rsplit('/').next().unwrap());
        let accepted = intake.accepted.lock().unwrap();
        let arrival = accepted
            .iter()
            .find(|arrival| arrival.payload.as_ref() == payload.as_bytes())
            .unwrap_or_else(|| panic!("{topic} did not come out as it went in"));
        assert_eq!((arrival.event, arrival.source), (event, SourceKind::Chirpstack));
        assert_eq!(arrival.content_type, "application/json");
        let has_id = !matches!(event, EventType::TxAck | EventType::Log);
        assert_eq!(arrival.event_id.is_some(), has_id, "{topic}");
        assert!(topic.contains(&arrival_eui(&arrival.sender)), "{topic}");
    }
}

fn arrival_eui(sender: &DeviceKey) -> String {
    match sender {
        DeviceKey::DevEui(eui) => eui.to_string(),
        DeviceKey::ApiKey(_) => panic!("an API key from MQTT"),
    }
}

#[tokio::test]
async fn bad_events_are_refused_and_acknowledged_and_disturb_nothing() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let unknown = DeviceKey::DevEui(eui(99).parse().unwrap());
    intake.unknown.lock().unwrap().insert(unknown);
    // A Receive Maximum that the bad ones would use up if they were not acknowledged.
    let source = start(ChirpstackConfig { receive_max: 5, ..config(&broker) }, &intake).await;
    let mut publisher = Publisher::connect(broker.port).await;
    let bad: [&[u8]; 8] = [
        b"nope",
        b"",
        b"[1]",
        b"{}",
        b"{\"deviceInfo\":{\"devEui\":\"a1\"}}",
        b"{\"deviceInfo\":{\"devEui\":\"ffffffffffffffff\"}}",
        b"{\"deviceInfo\":{\"devEui\":\"a81758ff00000001\"},\"x\":\"\xff\"}",
        b"\x0a\x24df0eae92-3b6e-442c-ad58-7afe2bcdb858",
    ];
    for payload in bad {
        publisher.publish(&topic(1, "up"), payload).await;
    }
    publisher.publish_all((0..10).map(|n| uplink(99, n))).await;
    publisher.publish_all((0..10).map(|n| uplink(1, n))).await;
    intake.wait_for(10).await;
    wait_until("acknowledged", || source.health().num_unacknowledged == 0).await;
    assert_eq!(intake.num_accepted(), 10);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn capitals_f_port_0_and_uplinks_of_30_kb_are_accepted() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let source = start(config(&broker), &intake).await;
    let mut publisher = Publisher::connect(broker.port).await;
    let rx = r#"{"gatewayId":"0016c001f1510002","rssi":-91,"context":"6GN6kA==","crcStatus":"CRC_OK"}"#;
    let big = format!(r#"{{"deviceInfo":{{"devEui":"{}"}},"rxInfo":[{}]}}"#, eui(1), vec![rx; 350].join(","));
    assert!(big.len() > 30_000);
    let capitals = format!(r#"{{"deviceInfo":{{"devEui":"{}"}},"fPort":0,"data":""}}"#, eui(1).to_uppercase());
    publisher.publish(&topic(1, "up"), big.clone()).await;
    publisher.publish(&topic(1, "up"), capitals.clone()).await;
    intake.wait_for(2).await;
    let payloads: Vec<Vec<u8>> = intake.accepted.lock().unwrap().iter().map(|a| a.payload.to_vec()).collect();
    assert_eq!(payloads, [big.into_bytes(), capitals.into_bytes()]);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn ten_thousand_events_with_a_slow_log_are_complete_in_order_and_bounded() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::slow(Duration::from_millis(15)));
    let source = start(ChirpstackConfig { receive_max: 300, ..config(&broker) }, &intake).await;
    let mut publisher = Publisher::connect(broker.port).await;
    publisher.publish_all(uplinks(100, 100)).await;
    intake.wait_for(10_000).await;
    assert_complete_and_in_order(&intake, 100, 100);
    // Mosquitto 2.0.11 itself goes beyond the Receive Maximum (863 unacknowledged of 300 seen); reading stops at twice as much.
    assert!(intake.num_open_max.load(Ordering::SeqCst) <= 600, "{:?}", intake.num_open_max);
    assert!(intake.num_calls.load(Ordering::SeqCst) < 3000, "not gathered: {:?} calls", intake.num_calls);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn between_moments_events_wait_together_but_for_the_first_after_a_pause() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let moments = Some(Beat::new(std::time::Instant::now(), Duration::from_secs(600)));
    let source = start(ChirpstackConfig { moments, ..config(&broker) }, &intake).await;
    let mut publisher = Publisher::connect(broker.port).await;
    let mut events = uplinks(20, 10);
    publisher.publish_all(events.by_ref().take(1)).await;
    intake.wait_for(1).await;
    wait_until("acknowledged", || source.health().num_unacknowledged == 0).await;
    publisher.publish_all(events).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(intake.num_accepted(), 1);
    // What was read by now is taken in, in one batch of each lane; the rest, if there is any, is the next connection's.
    assert!(source.stop(STOP).await);
    let num_calls = intake.num_calls.load(Ordering::SeqCst);
    assert!(num_calls <= 1 + config(&broker).num_batches_max, "{num_calls} calls");
    let source = start(config(&broker), &intake).await;
    wait_until("complete", || intake.first_ids_by_device().values().map(Vec::len).sum::<usize>() == 200).await;
    assert_complete_and_in_order(&intake, 20, 10);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn a_restarted_source_inherits_the_session_and_loses_nothing() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::slow(Duration::from_millis(5)));
    let mut publisher = Publisher::connect(broker.port).await;
    let source = start(config(&broker), &intake).await;
    publisher.publish_all(uplinks(10, 100)).await;
    // In the middle of it, cleanly.
    assert!(source.stop(STOP).await);
    publisher.publish_all((100..200).flat_map(|n| (0..10).map(move |device| uplink(device, n)))).await;
    let source = start(config(&broker), &intake).await;
    sleep(Duration::from_millis(20)).await;
    // And by the way of a crash: nothing is finished, nothing acknowledged.
    drop(source);
    publisher.publish_all((200..300).flat_map(|n| (0..10).map(move |device| uplink(device, n)))).await;
    let source = start(config(&broker), &intake).await;
    wait_until("complete", || intake.first_ids_by_device().values().map(Vec::len).sum::<usize>() == 3000).await;
    assert_complete_and_in_order(&intake, 10, 300);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn a_broker_that_stops_and_starts_again_loses_nothing() {
    let (mut broker, intake) = (Broker::start().await, RecordingIntake::slow(Duration::from_millis(50)));
    let source = start(ChirpstackConfig { receive_max: 50, ..config(&broker) }, &intake).await;
    Publisher::connect(broker.port).await.publish_all(uplinks(10, 200)).await;
    broker.stop().await;
    wait_until("disconnected", || !source.health().is_connected).await;
    assert!(intake.num_accepted() < 2000, "the broker was to stop in the middle of it");
    broker.go_on().await;
    wait_until("complete", || intake.first_ids_by_device().values().map(Vec::len).sum::<usize>() == 2000).await;
    assert_complete_and_in_order(&intake, 10, 200);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn while_the_log_says_later_nothing_is_acknowledged_and_nothing_overtakes() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let source = start(config(&broker), &intake).await;
    let mut publisher = Publisher::connect(broker.port).await;
    publisher.publish_all(uplinks(5, 20)).await;
    intake.wait_for(100).await;
    intake.is_away.store(true, Ordering::SeqCst);
    publisher.publish_all((20..60).flat_map(|n| (0..5).map(move |device| uplink(device, n)))).await;
    wait_until("refused twice", || intake.num_later.load(Ordering::SeqCst) > 250).await;
    assert_eq!(intake.num_accepted(), 100);
    assert!(source.health().message.contains("the disk is full"), "{:?}", source.health());
    // Back for a moment, away again, back for good, while more comes in.
    for is_away in [false, true, false] {
        intake.is_away.store(is_away, Ordering::SeqCst);
        sleep(Duration::from_millis(if is_away { 700 } else { 330 })).await;
    }
    publisher.publish_all((60..80).flat_map(|n| (0..5).map(move |device| uplink(device, n)))).await;
    wait_until("complete", || intake.first_ids_by_device().values().map(Vec::len).sum::<usize>() == 400).await;
    assert_complete_and_in_order(&intake, 5, 80);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn a_stop_finishes_and_acknowledges_what_was_taken_in() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::slow(Duration::from_millis(100)));
    let source = start(config(&broker), &intake).await;
    Publisher::connect(broker.port).await.publish_all(uplinks(5, 20)).await;
    wait_until("under way", || intake.num_calls.load(Ordering::SeqCst) > 0).await;
    assert!(source.stop(STOP).await);
    let num_accepted = intake.num_accepted();
    let source = start(config(&broker), &intake).await;
    intake.wait_for(100).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(intake.num_accepted(), 100, "what was accepted before the stop ({num_accepted}) did not come again");
    assert_complete_and_in_order(&intake, 5, 20);
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn a_retained_event_is_not_taken_for_a_new_one() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let (topic, body) = uplink(1, 0);
    Publisher::connect(broker.port).await.publish_retained(&topic, body).await;
    let source = start(config(&broker), &intake).await;
    Publisher::connect(broker.port).await.publish_all([uplink(1, 1)]).await;
    intake.wait_for(1).await;
    assert_eq!(intake.accepted.lock().unwrap()[0].event_id.as_deref(), Some("1-1"));
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn events_at_qos_0_are_accepted_too() {
    let (broker, intake) = (Broker::start().await, RecordingIntake::new());
    let source = start(config(&broker), &intake).await;
    let (client, mut event_loop) = AsyncClient::new(MqttOptions::new("qos0", "127.0.0.1", broker.port), 10);
    tokio::spawn(async move { while event_loop.poll().await.is_ok() {} });
    for n in 0..5 {
        let (topic, body) = uplink(1, n);
        client.publish(topic, QoS::AtMostOnce, false, body).await.unwrap();
    }
    intake.wait_for(5).await;
    assert!(source.stop(STOP).await);
}

#[tokio::test]
async fn gateway_states_are_stored_with_and_without_a_region_in_either_encoding() {
    let broker = Broker::start().await;
    let mut publisher = Publisher::connect(broker.port).await;
    let online = |gateway: &str| {
        prost::Message::encode_to_vec(&ConnState {
            gateway_id_legacy: Vec::new(),
            state: 1,
            gateway_id: gateway.into(),
        })
    };
    // Before the source is there: states are retained.
    publisher.publish_retained("gateway/0016c001f1510001/state/conn", online("0016c001f1510001")).await;
    let offline = br#"{"gatewayId":"0016c001f1510002"}"#.to_vec();
    publisher.publish_retained("eu868/gateway/0016c001f1510002/state/conn", offline).await;
    // Another's state under its own topic, and rubbish: refused.
    publisher.publish_retained("gateway/0016c001f1510003/state/conn", online("0016c001f1510004")).await;
    publisher.publish_retained("gateway/0016c001f1510005/state/conn", b"\xff\xff".to_vec()).await;

    let gateways = Arc::new(RecordingGateways::default());
    gateways.is_away.store(true, Ordering::SeqCst);
    let source = ChirpstackSource::start(config(&broker), RecordingIntake::new(), gateways.clone()).unwrap();
    wait_until("connected", || source.health().is_connected).await;
    sleep(Duration::from_millis(500)).await;
    gateways.is_away.store(false, Ordering::SeqCst);
    publisher.publish("gateway/0016c001f1510001/state/conn", br#"{"gatewayId":"0016c001f1510001"}"#.to_vec()).await;
    wait_until("stored", || gateways.states.lock().unwrap().len() >= 2).await;
    assert!(source.stop(STOP).await);
    let mut states: Vec<(GatewayId, bool)> =
        gateways.states.lock().unwrap().iter().map(|state| (state.gateway, state.is_online)).collect();
    states.sort();
    let offline = |id| (GatewayId(id), false);
    assert_eq!(states, [offline(0x0016_c001_f151_0001), offline(0x0016_c001_f151_0002)], "the newest per gateway");
}

#[tokio::test]
async fn tls_with_a_client_certificate_works_and_is_verified() {
    let certificates = certificates();
    let broker = Broker::start_with(|dir| {
        for (name, pem) in [
            ("ca.pem", &certificates.authority),
            ("cert.pem", &certificates.certificate),
            ("key.pem", &certificates.key),
        ] {
            std::fs::write(dir.join(name), pem).unwrap();
            std::fs::set_permissions(dir.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        }
        format!(
            "cafile {0}/ca.pem\ncertfile {0}/cert.pem\nkeyfile {0}/key.pem\nrequire_certificate true",
            dir.display()
        )
    })
    .await;
    let dir = tempfile::TempDir::new().unwrap();
    let write = |name: &str, pem: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let trusting = ChirpstackConfig {
        ca_file: Some(write("ca.pem", &certificates.authority)),
        client_certificate: Some((write("cert.pem", &certificates.certificate), write("key.pem", &certificates.key))),
        ..ChirpstackConfig::new(format!("mqtts://localhost:{}", broker.port), "sluse-test")
    };
    let intake = RecordingIntake::new();
    let source = start(trusting.clone(), &intake).await;
    assert!(source.stop(STOP).await);

    let stranger = ChirpstackConfig { ca_file: None, ..trusting };
    let source = ChirpstackSource::start(stranger, intake, Arc::new(RecordingGateways::default())).unwrap();
    wait_until("refused", || source.health().message.contains("UnknownIssuer")).await;
    assert!(!source.health().is_connected);
    assert!(source.stop(STOP).await);
}
