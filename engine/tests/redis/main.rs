//! What nodes share over Redis, with a real server: limits, the live tail, and what happens when it goes away and comes back.

#[path = "../edges/certificates.rs"]
mod certificates;
mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::{RedisServer, config, eventually};
use futures_util::StreamExt as _;
use sluse_actors::intake::{EntranceLimit, LimitConfig};
use sluse_actors::tail::Tail;
use sluse_engine::redis::{Redis, RedisConfig};
use sluse_http::throttle::LogInThrottle;
use sluse_schema::id::{ApplicationId, DevEui, DeviceId, DeviceKey, OrganizationId};
use sluse_schema::port::{Bucket, LiveTail as _, SharedLimits, TailEvent, TailFilter};

/// Places that come back so slowly that none does within a test.
const HOUR: Duration = Duration::from_secs(3600);

fn bucket(key: &str, burst: u32) -> Bucket {
    Bucket { key: key.to_owned(), interval: HOUR, burst }
}

fn event(device: i64, received_at_ms: i64) -> TailEvent {
    TailEvent {
        device_id: DeviceId(device),
        application_id: ApplicationId(7),
        organization: OrganizationId(3),
        device_name: "Rum 1".into(),
        event: "up".into(),
        received_at_ms,
        payload: None,
        decoded: Vec::new(),
        num_missed: 0,
    }
}

#[tokio::test]
async fn places_are_taken_over_all_nodes_and_from_all_buckets_or_none() {
    let server = RedisServer::start();
    let (a, b) = (server.node(), server.node());
    let small_and_large = [bucket("small", 3), bucket("large", 100)];
    for node in [&a, &b, &a] {
        assert_eq!(node.attempt(&small_and_large).await, Some(Ok(())));
    }
    let refused = b.attempt(&small_and_large).await.unwrap().unwrap_err();
    assert!(refused > HOUR / 2 && refused <= HOUR, "{refused:?}");
    // The refused attempt took nothing from the large one: 97 are left there.
    let mut num_left = 0;
    while a.attempt(&[bucket("large", 100)]).await.unwrap().is_ok() {
        num_left += 1;
    }
    assert_eq!(num_left, 97);
    let keys = server.command("KEYS *");
    assert!(keys.lines().count() == 2 && !keys.contains("small"), "keys are hashes: {keys}");
    for key in keys.lines() {
        assert!(server.command(&format!("PTTL {key}")).trim().parse::<i64>().unwrap() > 0, "keys end by themselves");
    }
}

#[tokio::test]
async fn log_ins_are_throttled_over_all_nodes() {
    let server = RedisServer::start();
    let nodes = [server.node(), server.node()].map(|node| LogInThrottle::new(Some(node as _)));
    let (guesser, owner) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
    let mut num_let_through = 0;
    for i in 0..30 {
        num_let_through += usize::from(nodes[i % 2].attempt(guesser, "rita@example.org").await.is_ok());
    }
    assert_eq!(num_let_through, 10, "and not 10 on each");
    assert!(nodes[0].attempt(owner, "rita@example.org").await.is_ok());
}

#[tokio::test]
async fn a_sender_that_uses_up_its_limit_on_one_node_is_over_it_on_the_other() {
    let server = RedisServer::start();
    let config = LimitConfig { interval: HOUR, burst: 4 };
    let [a, b] = [server.node(), server.node()].map(|node| EntranceLimit::new(config, Some(node as _)));
    let sender = DeviceKey::DevEui(DevEui(1));
    for _ in 0..3 {
        assert!(a.admit(&sender).is_ok());
    }
    assert!(b.admit(&sender).is_ok(), "nothing was exchanged yet");
    a.exchange().await;
    b.exchange().await;
    assert!(b.admit(&sender).is_err(), "three there and one here");
    assert!(b.admit(&DeviceKey::DevEui(DevEui(2))).is_ok());
    // What the other node let in is known here only after the next exchange; a flood is stopped then.
    assert!(a.admit(&sender).is_ok());
    a.exchange().await;
    assert!(a.admit(&sender).is_err());
}

#[tokio::test]
async fn a_watcher_sees_what_another_node_handles_and_nothing_is_sent_without_one() {
    let server = RedisServer::start();
    let [a, b] = [Tail::default(), Tail::default()];
    for (tail, name) in [(&a, "a"), (&b, "b")] {
        tokio::spawn(server.node().join_tails(Arc::clone(&tail.0), name.to_owned()));
    }
    assert!(!a.0.is_watched(DeviceId(1), ApplicationId(7)));
    let mut lines = b.watch(TailFilter::Device(DeviceId(1)));
    eventually("node a hears of the watcher", || a.0.is_watched(DeviceId(1), ApplicationId(7))).await;
    assert!(!a.0.is_watched(DeviceId(2), ApplicationId(7)));
    a.0.publish(event(2, 1));
    a.0.publish(event(1, 2));
    // What is handled here is seen once, not again by way of Redis.
    let line = lines.next().await.unwrap();
    assert_eq!((line.received_at_ms, line.organization), (2, OrganizationId(3)));
    b.0.publish(event(1, 3));
    a.0.publish(event(1, 4));
    assert_eq!(lines.next().await.unwrap().received_at_ms, 3);
    assert_eq!(lines.next().await.unwrap().received_at_ms, 4);
    drop(lines);
    eventually("node a hears that he is gone", || !a.0.is_watched(DeviceId(1), ApplicationId(7))).await;
}

#[tokio::test]
async fn another_installation_on_the_same_redis_shares_neither_limits_nor_lines() {
    let server = RedisServer::start();
    let (ours, theirs) = (server.node(), server.node_of("second"));
    assert_eq!(ours.attempt(&[bucket("one", 1)]).await, Some(Ok(())));
    assert!(matches!(ours.attempt(&[bucket("one", 1)]).await, Some(Err(_))));
    assert_eq!(theirs.attempt(&[bucket("one", 1)]).await, Some(Ok(())));

    let tails = [Tail::default(), Tail::default(), Tail::default()];
    let nodes = [ours, server.node(), theirs];
    for ((tail, node), name) in tails.iter().zip(nodes).zip(["a", "b", "c"]) {
        tokio::spawn(node.join_tails(Arc::clone(&tail.0), name.to_owned()));
    }
    let [a, b, c] = &tails;
    // Ids are those of each installation's own database: theirs means another tenant's device.
    let mut lines = c.watch(TailFilter::Device(DeviceId(1)));
    let mut heard = b.watch(TailFilter::Device(DeviceId(1)));
    eventually("node a hears of the watcher at b", || a.0.is_watched(DeviceId(1), ApplicationId(7))).await;
    a.0.publish(event(1, 1));
    assert_eq!(heard.next().await.unwrap().received_at_ms, 1);
    drop(heard);
    eventually("nobody of ours watches any more", || !a.0.is_watched(DeviceId(1), ApplicationId(7))).await;
    c.0.publish(event(1, 2));
    assert_eq!(lines.next().await.unwrap().received_at_ms, 2, "not what the other installation handled");
}

#[tokio::test]
async fn redis_is_reached_over_tls_and_one_of_another_authority_is_not() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = certificates::certificates();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let authority = write("ca.pem", &certificates.authority);
    let another = write("another.pem", &certificates::certificates().authority);
    let server = RedisServer::start_with_tls(
        &write("certificate.pem", &certificates.certificate),
        &write("key.pem", &certificates.key),
        &authority,
    );
    let url = format!("rediss://localhost:{}/1", server.port);
    let reach = |authority: &std::path::Path| {
        Redis::open(&RedisConfig { ca_certificates: Some(authority.to_owned()), ..config(&url) }, "first").unwrap()
    };
    let node = reach(&authority);
    assert_eq!(node.attempt(&[bucket("x", 1)]).await, Some(Ok(())));
    assert_eq!(reach(&another).attempt(&[bucket("x", 1)]).await, None);
    // The live tail has a connection of its own.
    let [a, b] = [Tail::default(), Tail::default()];
    tokio::spawn(node.join_tails(Arc::clone(&a.0), "a".to_owned()));
    tokio::spawn(reach(&authority).join_tails(Arc::clone(&b.0), "b".to_owned()));
    let mut lines = b.watch(TailFilter::Device(DeviceId(1)));
    eventually("node a hears of the watcher", || a.0.is_watched(DeviceId(1), ApplicationId(7))).await;
    a.0.publish(event(1, 1));
    assert_eq!(lines.next().await.unwrap().received_at_ms, 1);
}

#[tokio::test]
async fn without_redis_each_node_goes_on_alone_says_so_and_joins_again_by_itself() {
    let mut server = RedisServer::start();
    let node = server.node();
    tokio::spawn(Arc::clone(&node).watch());
    let (tail, other) = (Tail::default(), Tail::default());
    tokio::spawn(Arc::clone(&node).join_tails(Arc::clone(&tail.0), "a".to_owned()));
    tokio::spawn(server.node().join_tails(Arc::clone(&other.0), "b".to_owned()));
    eventually("it is connected", || node.trouble().is_none()).await;

    server.kill();
    eventually("it is missed", || node.trouble().is_some_and(|why| why.contains("away"))).await;
    assert_eq!(node.attempt(&[bucket("x", 1)]).await, None);
    let throttle = LogInThrottle::new(Some(Arc::clone(&node) as _));
    let mut num_let_through = 0;
    for _ in 0..12 {
        num_let_through += usize::from(throttle.attempt(None, "rita@example.org").await.is_ok());
    }
    assert_eq!(num_let_through, 10, "this node still counts");
    let mut lines = tail.watch(TailFilter::Device(DeviceId(1)));
    tail.0.publish(event(1, 1));
    assert_eq!(lines.next().await.unwrap().received_at_ms, 1, "and shows what it handles");

    server.start_again();
    eventually("it is back", || node.trouble().is_none()).await;
    assert_eq!(node.attempt(&[bucket("x", 1)]).await, Some(Ok(())));
    eventually("the other node hears of the watcher", || other.0.is_watched(DeviceId(1), ApplicationId(7))).await;
    other.0.publish(event(1, 2));
    assert_eq!(lines.next().await.unwrap().received_at_ms, 2);
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_no_reason_not_to_start_but_a_wrong_url_is() {
    let node = Redis::open(&config("redis://127.0.0.1:1"), "first").unwrap();
    assert_eq!(node.attempt(&[bucket("x", 1)]).await, None);
    assert!(node.trouble().is_some());
    let wrong = Redis::open(&config("https://user:hunter2@h"), "first").unwrap_err().to_string();
    assert!(wrong.contains("REDIS_URL") && !wrong.contains("hunter2"), "{wrong}");
}
