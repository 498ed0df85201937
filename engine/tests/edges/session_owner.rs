//! One node holds the session with ChirpStack's broker, here on a real Mosquitto: the owner of uplinks partition 0. What waits in the session
//! goes to the next owner, in order, and none of it to the last.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;
use sluse_engine::source::{ChirpstackConfig, SessionOwner};
use sluse_schema::partition::PartitionId;
use tokio::time::{Instant, sleep};

use crate::broker::{Broker, Publisher};
use crate::intake::{RecordingGateways, RecordingIntake};

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);
const STOP: Duration = Duration::from_secs(10);

struct Node {
    owner: SessionOwner,
    intake: Arc<RecordingIntake>,
}

impl Node {
    fn new(broker: &Broker) -> Self {
        let intake = RecordingIntake::new();
        let config = ChirpstackConfig::new(broker.url(), "sluse-of-all-nodes");
        let gateways = Arc::new(RecordingGateways::default());
        let owner = SessionOwner::new(Arbiter::current(), config, intake.clone(), gateways).unwrap();
        Self { owner, intake }
    }

    fn holds_it(&self) -> bool {
        self.owner.health().get().is_some()
    }

    async fn until_connected(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.owner.health().get().is_some_and(|health| health.is_connected) {
            assert!(Instant::now() < deadline, "not connected: {:?}", self.owner.health().get());
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn event_ids(&self) -> Vec<String> {
        self.intake.accepted.lock().unwrap().iter().map(|arrival| arrival.event_id.clone().unwrap()).collect()
    }
}

/// Uplinks of one device, numbered.
fn uplinks(numbers: std::ops::Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    let topic = "application/13785ea4-2e62-4887-a9ea-9e6fd7b3de82/device/a81758ff00000001/event/up";
    numbers.map(move |n| {
        let body = format!(
            r#"{{"deduplicationId":"{n}","deviceInfo":{{"devEui":"a81758ff00000001"}},"fPort":2,"data":"AQI="}}"#
        );
        (topic.to_owned(), body.into_bytes())
    })
}

fn ids(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

#[actix_rt::test]
async fn the_session_goes_with_partition_0_and_what_waits_in_it_goes_to_the_next_owner() {
    let broker = Broker::start().await;
    let (a, b) = (Node::new(&broker), Node::new(&broker));
    a.owner.assigned(&[P1]).await;
    assert!(!a.holds_it() && !b.holds_it(), "nobody owns partition 0");
    a.owner.assigned(&[P1, P0]).await;
    a.until_connected().await;
    b.owner.assigned(&[P1]).await;
    assert!(!b.holds_it());
    let mut publisher = Publisher::connect(broker.port).await;
    publisher.publish_all(uplinks(0..50)).await;
    a.intake.wait_for(50).await;

    // Another partition is no reason to let go.
    assert!(a.owner.revoked(&[P1], STOP).await);
    assert!(a.holds_it());
    // Given up while uplinks come, and for a while nobody has it: the broker keeps them.
    let publishing = tokio::spawn(async move {
        publisher.publish_all(uplinks(50..400)).await;
        publisher
    });
    assert!(a.owner.revoked(&[P0], STOP).await);
    assert!(!a.holds_it());
    let by_a = a.event_ids();
    let mut publisher = publishing.await.unwrap();
    publisher.publish_all(uplinks(400..450)).await;
    assert_eq!(a.event_ids(), by_a, "nothing comes any more");
    b.owner.assigned(&[P0]).await;
    b.until_connected().await;
    b.intake.wait_for(450 - by_a.len()).await;
    assert_eq!([by_a.clone(), b.event_ids()].concat(), ids(0..450));

    // And back again, as often as it moves.
    assert!(b.owner.revoked(&[P0], STOP).await);
    publisher.publish_all(uplinks(450..460)).await;
    a.owner.assigned(&[P0]).await;
    a.intake.wait_for(by_a.len() + 10).await;
    assert_eq!(a.event_ids()[by_a.len()..], ids(450..460));
}

#[actix_rt::test]
async fn a_node_that_stops_takes_the_session_no_more() {
    let broker = Broker::start().await;
    let (a, b) = (Node::new(&broker), Node::new(&broker));
    a.owner.assigned(&[P0]).await;
    a.until_connected().await;
    assert!(a.owner.stop(STOP).await);
    a.owner.assigned(&[P0]).await;
    assert!(!a.holds_it());
    assert!(a.owner.revoked(&[P0], STOP).await);
    b.owner.assigned(&[P0]).await;
    b.until_connected().await;
    let mut publisher = Publisher::connect(broker.port).await;
    publisher.publish_all(uplinks(0..10)).await;
    b.intake.wait_for(10).await;
    assert_eq!((a.intake.num_accepted(), b.event_ids()), (0, ids(0..10)));
}

#[actix_rt::test]
async fn a_configuration_that_cannot_work_is_told_at_the_start() {
    let config = ChirpstackConfig::new("http://127.0.0.1:1883", "sluse-of-all-nodes");
    let gateways = Arc::new(RecordingGateways::default());
    let refused = SessionOwner::new(Arbiter::current(), config, RecordingIntake::new(), gateways);
    assert!(refused.is_err());
}
