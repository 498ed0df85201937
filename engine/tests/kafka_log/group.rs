//! Several nodes share the partitions; some restart, some die.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluse_engine::kafka_log::KafkaLog;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Assignment, Log, LogError};
use sluse_schema::record::{Offset, Step};
use tokio::task::JoinHandle;

use crate::fixture::{append, commit, config, deliveries, fresh_prefix, open, record, shared, until};

/// A node's stages in small: they note what they own, and give up what is revoked at once.
pub struct Node {
    pub log: Arc<KafkaLog>,
    owned: Arc<Mutex<BTreeSet<PartitionId>>>,
    /// Assignments, revocations and losses so far.
    num_changes: Arc<Mutex<usize>>,
    following: JoinHandle<()>,
}

impl Node {
    pub async fn start(brokers: &str, prefix: &str, id: &str) -> Self {
        let log = open(config(brokers, prefix, id)).await;
        let (owned, num_changes) = (Arc::<Mutex<BTreeSet<PartitionId>>>::default(), Arc::<Mutex<usize>>::default());
        let following = tokio::spawn({
            let (log, owned, num_changes) = (Arc::clone(&log), Arc::clone(&owned), Arc::clone(&num_changes));
            async move {
                loop {
                    let change = log.next_assignment().await;
                    *num_changes.lock().unwrap() += 1;
                    match change {
                        Assignment::Assigned(partitions) => owned.lock().unwrap().extend(partitions),
                        Assignment::Revoked { partitions, done } => {
                            owned.lock().unwrap().retain(|p| !partitions.contains(p));
                            drop(done);
                        }
                        Assignment::Lost(partitions) => owned.lock().unwrap().retain(|p| !partitions.contains(p)),
                    }
                }
            }
        });
        Self { log, owned, num_changes, following }
    }

    pub fn owned(&self) -> BTreeSet<PartitionId> {
        self.owned.lock().unwrap().clone()
    }

    fn num_changes(&self) -> usize {
        *self.num_changes.lock().unwrap()
    }

    /// Ends as a process does: nothing is given back, the group hears nothing of it.
    pub async fn end(self) {
        self.following.abort();
        self.log.close().await.unwrap();
    }
}

fn all() -> BTreeSet<PartitionId> {
    (0..4).map(PartitionId).collect()
}

pub async fn are_shared(a: &Node, b: &Node) {
    until("two nodes own two partitions each", async || {
        let (a, b) = (a.owned(), b.owned());
        a.len() == 2 && b.len() == 2 && a.union(&b).copied().collect::<BTreeSet<_>>() == all()
    })
    .await;
}

#[tokio::test]
async fn partitions_are_shared_a_quick_restart_moves_nothing_and_a_dead_nodes_go_to_the_other() {
    let cluster = shared().await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let a = Node::start(&brokers, &prefix, "a").await;
    until("one node owns everything", async || a.owned() == all()).await;
    let b = Node::start(&brokers, &prefix, "b").await;
    are_shared(&a, &b).await;
    let (of_a, of_b) = (a.num_changes(), b.owned());

    b.end().await;
    let b = Node::start(&brokers, &prefix, "b").await;
    until("the restarted node has its partitions back", async || b.owned() == of_b).await;
    assert_eq!(a.num_changes(), of_a, "a quick restart moves nothing");

    b.end().await;
    until("the other takes a dead node's partitions", async || a.owned() == all()).await;
    until("and may act for them", async || a.log.lease().is_held()).await;
}

#[tokio::test]
async fn i8_a_partition_that_moved_is_written_by_its_new_owner_only_and_from_where_the_old_one_stopped() {
    let cluster = shared().await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let a = Node::start(&brokers, &prefix, "a").await;
    until("one node owns everything", async || a.owned() == all()).await;
    let step = |partition, from, next, text: &str| Step {
        partition,
        from,
        next,
        outputs: vec![(partition, record(1, 1_000, text))],
    };
    for partition in all() {
        for text in ["u0", "u1"] {
            a.log.append(partition, append(text)).await.unwrap();
        }
        assert!(commit(&*a.log, step(partition, Offset(0), Offset(1), "by a")).await);
    }
    let b = Node::start(&brokers, &prefix, "b").await;
    are_shared(&a, &b).await;
    for partition in b.owned() {
        assert_eq!(b.log.committed(partition).await.unwrap(), Some(Offset(1)));
        let refused = a.log.commit_step(step(partition, Offset(1), Offset(2), "too late")).await;
        assert!(matches!(refused, Err(LogError::Fenced { .. })), "{refused:?}");
        assert!(commit(&*b.log, step(partition, Offset(1), Offset(2), "by b")).await);
        assert_eq!(deliveries(&*b.log, partition).await, ["by a", "by b"]);
    }
    for partition in a.owned() {
        assert!(commit(&*a.log, step(partition, Offset(1), Offset(2), "by a again")).await);
    }
}

#[tokio::test]
async fn a_revocation_waits_for_the_stages_and_steps_go_on_until_they_answer() {
    let cluster = shared().await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let a = open(config(&brokers, &prefix, "a")).await;
    let Assignment::Assigned(_) = a.next_assignment().await else { panic!("nothing is revoked yet") };
    let b = Node::start(&brokers, &prefix, "b").await;
    let Assignment::Revoked { partitions, done } = a.next_assignment().await else { panic!("b gets its share") };
    for partition in &partitions {
        a.append(*partition, append("u0")).await.unwrap();
        let last = Step {
            partition: *partition,
            from: Offset(0),
            next: Offset(1),
            outputs: vec![(*partition, record(1, 1, "last"))],
        };
        assert!(commit(&*a, last).await, "what is being given up is finished first");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(b.owned().is_empty(), "nothing moves before the stages have answered");
    drop(done);
    until("the partitions move", async || b.owned() == partitions.iter().copied().collect()).await;
    for partition in partitions {
        assert_eq!(b.log.committed(partition).await.unwrap(), Some(Offset(1)));
    }
}

#[tokio::test]
async fn partitions_that_a_node_gave_up_and_died_before_it_asked_for_its_new_share_come_to_somebody() {
    let cluster = shared().await;
    let (brokers, prefix) = (cluster.kafka.bootstrap(), fresh_prefix());
    let dead = open(config(&brokers, &prefix, "a")).await;
    let Assignment::Assigned(_) = dead.next_assignment().await else { panic!("nothing is revoked yet") };
    let b = Node::start(&brokers, &prefix, "b").await;
    let Assignment::Revoked { done, .. } = dead.next_assignment().await else { panic!("b gets its share") };
    // It comes back within its session: Kafka gives it the half that it was to keep, and counts nothing as changed.
    let a = Node::start(&brokers, &prefix, "a").await;
    are_shared(&a, &b).await;
    drop(done);
}
