//! The port's conformance suite on Kafka.

use std::sync::Arc;

use async_trait::async_trait;
use sluse_engine::kafka_log::{KafkaLog, KafkaLogConfig};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::Log;
use sluse_schema::record::{Offset, Topic};
use sluse_schema::testing::log_conformance::{LogFixture, LogMaker};

use crate::fixture::{self, Cluster};

struct Fixture {
    log: Option<Arc<KafkaLog>>,
    config: KafkaLogConfig,
    _cluster: Arc<Cluster>,
}

#[async_trait]
impl LogFixture for Fixture {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(self.log.as_ref().unwrap()) as Arc<dyn Log>
    }

    async fn reopen(&mut self) {
        let log = self.log.take().unwrap();
        log.close().await.unwrap();
        assert_eq!(Arc::strong_count(&log), 1, "somebody still holds the log");
        drop(log);
        self.log = Some(fixture::open(self.config.clone()).await);
    }

    /// Kafka has no incarnations; what its nodes and brokers do when they are killed is in `faults` and `group`.
    async fn reopen_uncleanly(&mut self) -> bool {
        false
    }

    async fn trim(&mut self, topic: Topic, partition: PartitionId, before: Offset) -> bool {
        self.log.as_ref().unwrap().trim_to(topic, partition, before).await.unwrap();
        true
    }
}

struct Maker;

#[async_trait]
impl LogMaker for Maker {
    type Fixture = Fixture;

    async fn make(&self, num_partitions: u32) -> Fixture {
        let cluster = fixture::shared().await;
        let config = fixture::config(&cluster.kafka.bootstrap(), &fixture::fresh_prefix(), "node-1");
        let config = KafkaLogConfig { num_partitions, ..config };
        Fixture { log: Some(fixture::open(config.clone()).await), config, _cluster: cluster }
    }
}

sluse_schema::log_conformance!(Maker);
