//! MQTT targets on a real Mosquitto, and on brokers that misbehave on purpose.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use rumqttc::v5::mqttbytes::QoS;
use sluse_schema::delivery::{Attempt, AttemptClass};
use sluse_schema::port::TargetSender;
use sluse_schema::secret::Secret;
use sluse_schema::target::{MqttTarget, TargetKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::broker::{Broker, free_port, listen};
use crate::certificates::certificates;
use crate::targets::{delivery, mqtt, mqtt_sender, try_sender};

const BODY: &[u8] = br#"{"z":1.0}"#;

async fn attempt_on(target: MqttTarget) -> Attempt {
    mqtt_sender("127.0.0.0/8", target).send(&delivery(1), Bytes::from_static(BODY)).await
}

#[tokio::test]
async fn a_delivery_is_published_at_every_qos_with_its_idempotency_key() {
    let broker = Broker::start().await;
    let mut listener = listen(broker.port, "out/#").await;
    for (qos, expected) in [(0, QoS::AtMostOnce), (1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
        let attempt = attempt_on(mqtt(broker.port, qos)).await;
        assert_eq!(attempt.class, AttemptClass::Delivered, "qos {qos}: {}", attempt.message);
        let heard = timeout(Duration::from_secs(5), listener.recv()).await.unwrap().unwrap();
        assert_eq!((heard.topic.as_ref(), heard.payload.as_ref()), (&b"out/city"[..], BODY));
        assert_eq!((heard.qos, heard.retain), (expected, false));
        let properties = heard.properties.unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        let key = ("Idempotency-Key".to_owned(), delivery(1).idempotency_key());
        assert_eq!(properties.user_properties, [key]);
    }
}

#[tokio::test]
async fn many_deliveries_share_one_connection_and_each_arrives_once() {
    let broker = Broker::start().await;
    let mut listener = listen(broker.port, "out/#").await;
    for qos in [1, 2] {
        let sender = mqtt_sender("true", mqtt(broker.port, qos));
        let sends = (0..500u32).map(|n| {
            let sender = Arc::clone(&sender);
            async move { sender.send(&delivery(n.into()), Bytes::from(n.to_string())).await.class }
        });
        assert!(join_all(sends).await.iter().all(|class| *class == AttemptClass::Delivered), "qos {qos}");
        let mut heard = HashSet::new();
        while heard.len() < 500 {
            let publish = timeout(Duration::from_secs(5), listener.recv()).await.unwrap().unwrap();
            assert!(heard.insert(publish.payload.clone()), "qos {qos}: {:?} came twice", publish.payload);
        }
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_is_found_again() {
    let mut broker = Broker::start().await;
    let sender = mqtt_sender("true", mqtt(broker.port, 1));
    let send = async || sender.send(&delivery(1), Bytes::from_static(BODY)).await;
    assert_eq!(send().await.class, AttemptClass::Delivered);
    broker.stop().await;
    sleep(Duration::from_millis(100)).await;
    let away = send().await;
    assert_eq!(away.class, AttemptClass::Transient, "{}", away.message);
    broker.go_on().await;
    let mut back = send().await;
    if back.class != AttemptClass::Delivered {
        back = send().await;
    }
    assert_eq!(back.class, AttemptClass::Delivered, "{}", back.message);
}

#[tokio::test]
async fn wrong_credentials_are_the_targets_configuration() {
    let broker = Broker::start_with(|dir| {
        let passwords = dir.join("passwords");
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&passwords)
            .args(["me", "right"])
            .status();
        assert!(made.unwrap().success());
        std::fs::set_permissions(&passwords, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        format!("allow_anonymous false\npassword_file {}", passwords.display())
    })
    .await;
    let with =
        |password: &str| MqttTarget { username: "me".into(), password: Secret::new(password), ..mqtt(broker.port, 1) };
    assert_eq!(attempt_on(with("right")).await.class, AttemptClass::Delivered);
    let wrong = attempt_on(with("wr0ng")).await;
    assert_eq!(wrong.class, AttemptClass::Misconfigured, "{}", wrong.message);
    assert!(!wrong.message.contains("wr0ng"), "{}", wrong.message);
}

#[tokio::test]
async fn a_topic_that_the_broker_forbids_is_configuration_at_qos_1_and_2_and_the_connection_goes_on() {
    let broker = Broker::start_with(|dir| {
        let rules = dir.join("acl");
        std::fs::write(&rules, "topic readwrite allowed/#\n").unwrap();
        std::fs::set_permissions(&rules, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        format!("acl_file {}", rules.display())
    })
    .await;
    for qos in [1, 2] {
        let sender = mqtt_sender("true", mqtt(broker.port, qos));
        for n in 0..3 {
            let attempt = sender.send(&delivery(n), Bytes::from_static(BODY)).await;
            assert_eq!(
                (attempt.class, attempt.status_code),
                (AttemptClass::Misconfigured, Some(0x87)),
                "qos {qos}, {n}"
            );
        }
    }
    // Several at once: Mosquitto 2.0.11 hangs up at the first denial and resets the connection, so that its reason can be lost,
    // but not a second time.
    let sender = mqtt_sender("true", mqtt(broker.port, 1));
    let send_20 = || join_all((0..20).map(|n| send_one(&sender, n)));
    assert!(!send_20().await.contains(&AttemptClass::Delivered));
    assert_eq!(send_20().await, vec![AttemptClass::Misconfigured; 20]);
    let allowed = attempt_on(MqttTarget { topic: "allowed/x".into(), ..mqtt(broker.port, 1) }).await;
    assert_eq!(allowed.class, AttemptClass::Delivered, "{}", allowed.message);
}

async fn send_one(sender: &Arc<dyn TargetSender>, n: u128) -> AttemptClass {
    sender.send(&delivery(n), Bytes::from_static(BODY)).await.class
}

#[tokio::test]
async fn tls_is_verified_and_a_targets_own_authority_is_trusted() {
    let certificates = certificates();
    let broker = Broker::start_with(|dir| {
        for (name, pem) in [("cert.pem", &certificates.certificate), ("key.pem", &certificates.key)] {
            std::fs::write(dir.join(name), pem).unwrap();
            std::fs::set_permissions(dir.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        }
        format!("certfile {0}/cert.pem\nkeyfile {0}/key.pem", dir.display())
    })
    .await;
    let mut target = MqttTarget { url: "mqtts://localhost".into(), ..mqtt(broker.port, 1) };
    let stranger = attempt_on(target.clone()).await;
    assert_eq!(stranger.class, AttemptClass::Misconfigured, "{}", stranger.message);
    assert!(stranger.message.contains("UnknownIssuer"), "{}", stranger.message);
    target.ca_certificates = Some(certificates.authority.clone());
    let trusting = attempt_on(target).await;
    assert_eq!(trusting.class, AttemptClass::Delivered, "{}", trusting.message);
}

#[tokio::test]
async fn private_brokers_are_refused_by_address_and_by_name_and_never_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0.0.0.0", "169.254.169.254"] {
        let target = MqttTarget { url: format!("mqtt://{host}"), ..mqtt(port, 1) };
        let attempt = mqtt_sender("10.0.0.0/8", target).send(&delivery(1), Bytes::from_static(BODY)).await;
        assert_eq!(attempt.class, AttemptClass::Misconfigured, "{host}: {}", attempt.message);
        assert!(attempt.message.contains("SLUSE_ALLOW_PRIVATE_TARGETS"), "{host}: {}", attempt.message);
    }
    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
}

#[tokio::test]
async fn nobody_listening_is_transient_and_says_where() {
    let port = free_port();
    let attempt = attempt_on(mqtt(port, 1)).await;
    assert_eq!(attempt.class, AttemptClass::Transient);
    assert!(attempt.message.contains(&port.to_string()), "{}", attempt.message);
}

#[test]
fn what_can_never_be_sent_to_is_said_when_the_sender_is_made() {
    let is_refused = |target| try_sender("true", TargetKind::Mqtt(target)).is_err();
    assert!(is_refused(MqttTarget { url: "http://h".into(), ..mqtt(1883, 1) }));
    assert!(is_refused(MqttTarget { topic: "a/#".into(), ..mqtt(1883, 1) }));
    assert!(is_refused(MqttTarget { topic: String::new(), ..mqtt(1883, 1) }));
    assert!(is_refused(mqtt(1883, 3)));
}

/// How a broker of the test's own answers a PUBLISH.
#[derive(Clone, Copy)]
enum Manner {
    /// Accepts the TCP connection and says nothing.
    Mute,
    /// Accepts the session and never acknowledges.
    NeverAcknowledges,
    /// Answers PUBACK, or PUBREC at QoS 2, with this reason.
    Reason(u8),
    /// Ends the connection at the first PUBLISH.
    HangsUp,
    /// Ends it with a DISCONNECT "packet too large" at the first PUBLISH of more than 1 kB; acknowledges no other.
    TakesNothingLarge,
}

/// A broker that speaks just enough MQTT v5; counts the sessions it accepted.
async fn fake_broker(manner: Manner) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let num_sessions = Arc::<std::sync::atomic::AtomicUsize>::default();
    let counter = Arc::clone(&num_sessions);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                loop {
                    let (kind, packet) = read_packet(&mut stream).await?;
                    match (kind >> 4, manner) {
                        (_, Manner::Mute) => {}
                        (1, _) => stream.write_all(&[0x20, 3, 0, 0, 0]).await.ok()?,
                        (3, Manner::HangsUp) => return None::<()>,
                        (3, Manner::TakesNothingLarge) if packet.len() > 1000 => {
                            stream.write_all(&[0xe0, 2, 0x95, 0]).await.ok()?;
                            return None;
                        }
                        (3, Manner::Reason(reason)) => {
                            let topic_len = usize::from(u16::from_be_bytes([packet[0], packet[1]]));
                            let id = [packet[2 + topic_len], packet[3 + topic_len]];
                            let answer = if kind & 0b0110 == 0b0100 { 0x50 } else { 0x40 };
                            stream.write_all(&[answer, 3, id[0], id[1], reason]).await.ok()?;
                        }
                        (12, _) => stream.write_all(&[0xd0, 0]).await.ok()?,
                        _ => {}
                    }
                }
            });
        }
    });
    (port, num_sessions)
}

async fn read_packet(stream: &mut tokio::net::TcpStream) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await.ok()?;
    Some((kind, packet))
}

fn impatient(port: u16, qos: u8) -> Arc<dyn TargetSender> {
    mqtt_sender("true", MqttTarget { timeout_ms: 400, ..mqtt(port, qos) })
}

#[tokio::test]
async fn brokers_that_hang_cost_the_timeout_and_no_more() {
    for manner in [Manner::Mute, Manner::NeverAcknowledges] {
        let (port, num_sessions) = fake_broker(manner).await;
        let sender = impatient(port, 1);
        for _ in 0..2 {
            let started_at = Instant::now();
            let attempt = sender.send(&delivery(1), Bytes::from_static(BODY)).await;
            assert_eq!(attempt.class, AttemptClass::Transient, "{}", attempt.message);
            assert!(started_at.elapsed() < Duration::from_secs(2));
            sleep(Duration::from_millis(200)).await;
        }
        // What was not acknowledged in time is not waited for for ever: each attempt had a connection of its own.
        assert_eq!(num_sessions.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn reasons_of_the_broker_decide_the_class_and_refused_slots_are_not_used_up() {
    use AttemptClass::{Delivered, Misconfigured, Refused, Transient};
    for (reason, class) in
        [(0x10, Delivered), (0x87, Misconfigured), (0x97, Transient), (0x90, Refused), (0x99, Refused)]
    {
        let (port, _) = fake_broker(Manner::Reason(reason)).await;
        let sender = impatient(port, 1);
        for n in 0..5 {
            let attempt = sender.send(&delivery(n), Bytes::from_static(BODY)).await;
            assert_eq!(attempt.class, class, "0x{reason:02x}: {}", attempt.message);
        }
    }
    for (reason, class) in [(0x97, Transient), (0x99, Refused)] {
        let (port, num_sessions) = fake_broker(Manner::Reason(reason)).await;
        let sender = impatient(port, 2);
        for n in 0..3 {
            let attempt = sender.send(&delivery(n), Bytes::from_static(BODY)).await;
            assert_eq!(attempt.class, class, "PUBREC 0x{reason:02x}: {}", attempt.message);
        }
        assert_eq!(num_sessions.load(std::sync::atomic::Ordering::SeqCst), 3, "renewed after each refused PUBREC");
    }
}

#[tokio::test]
async fn a_session_that_is_lost_fails_what_was_in_flight_at_once() {
    let (port, _) = fake_broker(Manner::HangsUp).await;
    let sender = mqtt_sender("true", MqttTarget { timeout_ms: 20_000, ..mqtt(port, 1) });
    let started_at = Instant::now();
    let sends = (0..10).map(|n| {
        let sender = Arc::clone(&sender);
        async move { sender.send(&delivery(n), Bytes::from_static(BODY)).await.class }
    });
    assert_eq!(join_all(sends).await, vec![AttemptClass::Transient; 10]);
    assert!(started_at.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_broker_dies_and_takes_no_other_with_it() {
    let (port, _) = fake_broker(Manner::TakesNothingLarge).await;
    let sender = mqtt_sender("true", mqtt(port, 1));
    let [small, large] = [100, 2000].map(|num_bytes| Bytes::from(vec![b'x'; num_bytes]));
    let deliveries = [1, 2, 3].map(delivery);
    let (first, large, last) = tokio::join!(
        sender.send(&deliveries[0], small.clone()),
        sender.send(&deliveries[1], large),
        sender.send(&deliveries[2], small),
    );
    assert_eq!((large.class, large.status_code), (AttemptClass::Refused, Some(0x95)), "{}", large.message);
    assert_eq!([first.class, last.class], [AttemptClass::Transient; 2]);
}

#[tokio::test]
async fn a_sender_that_is_dropped_closes_its_connection() {
    let broker = Broker::start_with(|_| "sys_interval 1".into()).await;
    let mut listener = listen(broker.port, "$SYS/broker/clients/connected").await;
    let connected = async |listener: &mut tokio::sync::mpsc::UnboundedReceiver<rumqttc::v5::mqttbytes::v5::Publish>| {
        let heard = timeout(Duration::from_secs(15), listener.recv()).await.unwrap().unwrap();
        String::from_utf8(heard.payload.to_vec()).unwrap().parse::<usize>().unwrap()
    };
    let _ = connected(&mut listener).await;
    let sender = mqtt_sender("true", mqtt(broker.port, 1));
    assert_eq!(sender.send(&delivery(1), Bytes::from_static(BODY)).await.class, AttemptClass::Delivered);
    assert_eq!(connected(&mut listener).await, 2);
    drop(sender);
    assert_eq!(connected(&mut listener).await, 1);
}
