//! What a node wrote itself is read without being fetched: with others writing to the same partitions between, nothing is missing,
//! doubled or out of order, and what they write is seen while the reader rests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluse_engine::kafka_log::KafkaLog;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Log, ReadLimit};
use sluse_schema::record::{Offset, Step, Topic};
use tokio::task::JoinHandle;

use crate::fixture::{
    P0, append, commit, config, deliveries, fresh_prefix, open, record, shared, texts, until, uplinks,
};
use crate::group::{Node, are_shared};

/// Reads along at the end of partition 0 until it is told to stop at the end of then.
struct Following {
    is_over: Arc<AtomicBool>,
    reading: JoinHandle<Vec<String>>,
}

impl Following {
    fn start(log: &Arc<KafkaLog>, topic: Topic) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let reading = tokio::spawn({
            let (log, is_over) = (Arc::clone(log), Arc::clone(&is_over));
            async move {
                let limit = ReadLimit { num_records_max: 7, num_bytes_max: 1 << 20 };
                let (mut at, mut read) = (Offset::ZERO, Vec::new());
                loop {
                    let was_over = is_over.load(Ordering::Acquire);
                    let batch = log.read(topic, P0, at, limit).await.unwrap();
                    read.extend(texts(&batch.records));
                    if batch.next > at {
                        at = batch.next;
                    } else if was_over && at >= log.bounds(topic, P0).await.unwrap().1 {
                        return read;
                    } else {
                        log.wait_for(topic, P0, at).await;
                    }
                }
            }
        });
        Self { is_over, reading }
    }

    /// Everything up to the end of now.
    async fn end(self) -> Vec<String> {
        self.is_over.store(true, Ordering::Release);
        self.reading.await.unwrap()
    }
}

/// Appends to a partition and hands each uplink on to partition 0, as the device stage does.
async fn work(log: Arc<KafkaLog>, partition: PartitionId, name: &'static str) {
    let mut at = log.committed(partition).await.unwrap().unwrap_or_default();
    for i in 0..60 {
        let text = format!("{name}{i}");
        let to_p0 = log.append(P0, append(format!("{text} to 0"))).await.unwrap();
        let next = match partition {
            P0 => at.max(to_p0.next()),
            _ => log.append(partition, append(text.clone())).await.unwrap().next(),
        };
        let outputs = (0..3).map(|k| (P0, record(1, 1_000, format!("{text}.{k}")))).collect();
        assert!(commit(&*log, Step { partition, from: at, next, outputs }).await);
        at = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_write_between_each_other_read_the_same() {
    let cluster = shared().await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let (a, b) = (Node::start(&brokers, &prefix, "a").await, Node::start(&brokers, &prefix, "b").await);
    are_shared(&a, &b).await;
    let following = [&a.log, &a.log, &b.log, &b.log]
        .into_iter()
        .zip([Topic::Uplinks, Topic::Deliveries].into_iter().cycle())
        .map(|(log, topic)| Following::start(log, topic));
    let following: Vec<Following> = following.collect();
    let working = [(&a, "a"), (&b, "b")].map(|(node, name)| {
        let partition = node.owned().into_iter().next().unwrap();
        tokio::spawn(work(Arc::clone(&node.log), partition, name))
    });
    for working in working {
        working.await.unwrap();
    }
    let stranger = open(config(&brokers, &prefix, "c")).await;
    let in_log = [uplinks(&*stranger, P0).await, deliveries(&*stranger, P0).await];
    assert_eq!(in_log.each_ref().map(Vec::len), [120, 360]);
    for (following, expected) in following.into_iter().zip(in_log.iter().cycle()) {
        assert_eq!(&following.end().await, expected);
    }
    for node in [a, b] {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_rests_while_only_its_node_writes_and_misses_nothing_of_others() {
    let cluster = shared().await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let log = open(config(&brokers, &prefix, "a")).await;
    let other = open(config(&brokers, &prefix, "b")).await;
    let following = Following::start(&log, Topic::Uplinks);
    let mut expected = Vec::new();
    for round in 0..3 {
        // Alone.
        let began_at = Instant::now();
        while !log.is_reader_resting(Topic::Uplinks, P0) {
            assert!(began_at.elapsed() < Duration::from_secs(60), "the reader never rests");
            expected.push(format!("{round} own {}", expected.len()));
            log.append(P0, append(expected.last().unwrap())).await.unwrap();
        }
        // Somebody else, while this node is silent (the reader has to look by itself) or goes on (its own next record shows the gap).
        expected.push(format!("{round} foreign"));
        other.append(P0, append(expected.last().unwrap())).await.unwrap();
        if round == 1 {
            expected.push(format!("{round} after it"));
            log.append(P0, append(expected.last().unwrap())).await.unwrap();
        }
        until("the reader goes on", async || !log.is_reader_resting(Topic::Uplinks, P0)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(following.end().await, expected);
    assert_eq!(uplinks(&*other, P0).await, expected);
}
