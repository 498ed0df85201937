//! Brokers that are killed, transactions that nobody ends, positions that are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sluse_engine::kafka_log::KafkaLog;
use sluse_schema::port::log::{Assignment, Log, LogError, ReadLimit};
use sluse_schema::record::{Offset, Step, Topic};

use crate::fixture::{
    Cluster, P0, append, commit, config, deliveries, fresh_prefix, open, record, shared, start, step, texts, until,
    uplinks,
};

const WIDE: ReadLimit = ReadLimit { num_records_max: 100, num_bytes_max: 1 << 20 };

/// Appends numbers one after the other until told to stop, each as often as it takes; gives how many were accepted.
async fn append_numbers(log: Arc<KafkaLog>, is_over: Arc<AtomicBool>) -> usize {
    let mut number = 0;
    while !is_over.load(Ordering::Acquire) {
        match log.append(P0, append(number.to_string())).await {
            Ok(_) => number += 1,
            Err(LogError::Unclear(_) | LogError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
    number
}

/// The device stage in small: every uplink becomes one delivery, in steps, until everything below the final end is done.
async fn hand_on(log: Arc<KafkaLog>, is_over: Arc<AtomicBool>) {
    let mut at = Offset::ZERO;
    loop {
        let was_over = is_over.load(Ordering::Acquire);
        let batch = match log.read(Topic::Uplinks, P0, at, WIDE).await {
            Ok(batch) => batch,
            Err(LogError::Unavailable(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        if batch.records.is_empty() && batch.next == at {
            if was_over {
                return;
            }
            log.wait_for(Topic::Uplinks, P0, at).await;
            continue;
        }
        let outputs = texts(&batch.records).into_iter().map(|text| (P0, record(1, 1_000, text))).collect();
        assert!(commit(&*log, Step { partition: P0, from: at, next: batch.next, outputs }).await);
        at = batch.next;
    }
}

/// Kills brokers under appends and steps; then nothing accepted is missing, and no step was lost or made twice.
/// A broker that has just come back does not yet say everything of every partition; whoever asks is told "later".
async fn until_it_says_its_bounds(log: &dyn Log) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    for topic in [Topic::Uplinks, Topic::Deliveries] {
        while let Err(error) = log.bounds(topic, P0).await {
            assert!(matches!(error, LogError::Unavailable(_)), "{error}");
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn kill_under_load(mut cluster: Cluster, kills: impl AsyncFnOnce(&mut Cluster)) {
    let log = open(config(&cluster.kafka.bootstrap(), "", "node-1")).await;
    let is_appended = Arc::new(AtomicBool::new(false));
    let is_over = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn(append_numbers(Arc::clone(&log), Arc::clone(&is_appended)));
    let handing_on = tokio::spawn(hand_on(Arc::clone(&log), Arc::clone(&is_over)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    kills(&mut cluster).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    is_appended.store(true, Ordering::Release);
    let num_accepted = appending.await.unwrap();
    is_over.store(true, Ordering::Release);
    handing_on.await.unwrap();
    assert!(num_accepted > 20, "{num_accepted}");

    until_it_says_its_bounds(&*log).await;
    let uplinks = uplinks(&*log, P0).await;
    // A number may stand twice where an answer stayed out, but none is missing and none comes before its predecessor.
    let mut firsts: Vec<usize> = Vec::new();
    for number in uplinks.iter().map(|text| text.parse::<usize>().unwrap()) {
        if !firsts.contains(&number) {
            firsts.push(number);
        }
    }
    assert!(firsts.len() >= num_accepted && firsts.iter().copied().eq(0..firsts.len()), "{firsts:?}");
    assert_eq!(deliveries(&*log, P0).await, uplinks);
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_loses_nothing_accepted_and_no_step_is_lost_or_doubled() {
    kill_under_load(start(1).await, async |cluster: &mut Cluster| {
        for _ in 0..2 {
            tokio::task::block_in_place(|| {
                cluster.kafka.kill(0);
                cluster.kafka.start_again(0).unwrap();
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_brokers_may_die() {
    kill_under_load(start(3).await, async |cluster: &mut Cluster| {
        tokio::task::block_in_place(|| cluster.kafka.kill(1));
        tokio::time::sleep(Duration::from_secs(8)).await;
        tokio::task::block_in_place(|| cluster.kafka.start_again(1).unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_a_dead_node_left_open_holds_readers_up_only_until_its_timeout() {
    let cluster = shared().await;
    let config = config(&cluster.kafka.bootstrap(), &fresh_prefix(), "node-1");
    let log = open(config.clone()).await;
    let dead: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.kafka.bootstrap())
        .set("transactional.id", format!("{}dead", config.prefix))
        .set("transaction.timeout.ms", "3000")
        .create()
        .unwrap();
    let topic = config.topic(Topic::Deliveries);
    let writing = tokio::task::spawn_blocking(move || {
        dead.init_transactions(Duration::from_secs(20)).unwrap();
        dead.begin_transaction().unwrap();
        dead.send(BaseRecord::<str, str>::to(&topic).partition(0).key("1").payload("never committed"))
            .map_err(|e| e.0)
            .unwrap();
        dead.flush(Duration::from_secs(20)).unwrap();
        dead
    });
    // Nobody ends it: the process is gone.
    std::mem::forget(writing.await.unwrap());
    let first = log.append(P0, append("cause")).await.unwrap();
    assert!(commit(&*log, step(first, first.next(), "good")).await);
    assert_eq!(deliveries(&*log, P0).await, ["good"]);
}

#[tokio::test]
async fn i8_a_node_whose_place_was_taken_writes_nothing() {
    let cluster = shared().await;
    let config = config(&cluster.kafka.bootstrap(), &fresh_prefix(), "node-1");
    let zombie = open(config.clone()).await;
    let first = zombie.append(P0, append("u0")).await.unwrap();
    let end = zombie.append(P0, append("u1")).await.unwrap().next();
    assert!(commit(&*zombie, step(first, first.next(), "by the first")).await);
    // The same node, started again while the first is thought dead.
    let successor = open(config).await;
    assert!(commit(&*successor, step(first.next(), end, "by the second")).await);
    let late = zombie.append(P0, append("u2")).await.unwrap().next();
    until("the zombie knows", async || zombie.health().await.is_err()).await;
    let refused = zombie.commit_step(step(end, late, "by the zombie")).await;
    assert!(matches!(refused, Err(LogError::Fenced { .. })), "{refused:?}");
    assert!(!zombie.lease().is_held(), "it may send nothing either");
    assert!(commit(&*successor, step(end, late, "by the second again")).await);
    // Neither takes the place back: the first says why it stands still, the second works on.
    let mut at = late;
    for i in 0..20 {
        let next = successor.append(P0, append(i.to_string())).await.unwrap().next();
        assert!(commit(&*successor, step(at, next, "and again")).await);
        at = next;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(successor.lease().is_held() && successor.health().await.is_ok());
    }
    let Err(LogError::Unavailable(reason)) = zombie.health().await else { panic!("it took the place back") };
    assert!(reason.contains("SLUSE_NODE_ID"), "{reason}");
    let written = deliveries(&*successor, P0).await;
    assert_eq!(written[..3], ["by the first", "by the second", "by the second again"]);
    assert_eq!(written.len(), 23);
}

#[tokio::test]
async fn a_node_that_is_shut_out_while_nobody_else_bears_its_name_joins_again() {
    let cluster = shared().await;
    let config = config(&cluster.kafka.bootstrap(), &fresh_prefix(), "node-1");
    let log = open(config.clone()).await;
    let first = log.append(P0, append("u0")).await.unwrap();
    assert!(commit(&*log, step(first, first.next(), "before")).await);
    until("it holds its lease", async || log.lease().is_held()).await;
    // A member under the node's name that is no other Sluse: to the group it looks as a join of our own does that was retried too late.
    let ghost = tokio::task::spawn_blocking(move || {
        let ghost: BaseConsumer = config.member().create().unwrap();
        ghost.subscribe(&[&config.topic(Topic::Uplinks)]).unwrap();
        while ghost.assignment().unwrap().count() == 0 {
            drop(ghost.poll(Duration::from_millis(100)));
        }
        ghost
    });
    let ghost = ghost.await.unwrap();
    until("the node is shut out", async || !log.lease().is_held()).await;
    let next = log.append(P0, append("u1")).await.unwrap().next();
    assert!(commit(&*log, step(first.next(), next, "after")).await);
    until("it holds its lease again", async || log.lease().is_held()).await;
    log.health().await.unwrap();
    assert_eq!(deliveries(&*log, P0).await, ["before", "after"]);
    tokio::task::spawn_blocking(move || drop(ghost)).await.unwrap();
}

#[tokio::test]
async fn a_position_that_fell_out_of_the_log_is_an_error_that_says_where_the_log_starts() {
    let cluster = shared().await;
    let prefix = fresh_prefix();
    let log = open(config(&cluster.kafka.bootstrap(), &prefix, "node-1")).await;
    for i in 0..10 {
        log.append(P0, append(i.to_string())).await.unwrap();
    }
    log.bounds(Topic::Uplinks, P0).await.unwrap();
    // Retention, as far as this node knows: somebody else does it.
    let other = open(config(&cluster.kafka.bootstrap(), &prefix, "node-2")).await;
    other.trim_to(Topic::Uplinks, P0, Offset(6)).await.unwrap();
    let refused = log.read(Topic::Uplinks, P0, Offset(2), WIDE).await;
    let Err(LogError::OutOfRange { asked: Offset(2), start: Offset(6), .. }) = refused else { panic!("{refused:?}") };
    let batch = log.read(Topic::Uplinks, P0, Offset(6), WIDE).await.unwrap();
    assert_eq!(texts(&batch.records), ["6", "7", "8", "9"]);
}

/// Two nodes in the middle of a rebalance (what the first has is revoked, and nobody answers) whose broker then goes away: both end.
async fn nodes_end_without(take_away: impl FnOnce(&mut Cluster)) {
    let mut cluster = start(1).await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let a = open(config(&brokers, &prefix, "a")).await;
    let Assignment::Assigned(_) = a.next_assignment().await else { panic!("nothing is revoked yet") };
    let b = open(config(&brokers, &prefix, "b")).await;
    let Assignment::Revoked { done, .. } = a.next_assignment().await else { panic!("b gets its share") };
    take_away(&mut cluster);
    drop(done);
    for log in [a, b] {
        let ended = tokio::task::spawn_blocking(move || drop(log));
        tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends").unwrap();
    }
}

#[tokio::test]
async fn nodes_end_though_their_broker_is_gone() {
    nodes_end_without(|cluster| cluster.kafka.kill(0)).await;
}

#[tokio::test]
async fn nodes_end_though_their_broker_is_frozen() {
    nodes_end_without(|cluster| {
        let pid = cluster.kafka.pid(0).unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    })
    .await;
}
