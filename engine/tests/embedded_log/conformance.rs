//! The port's conformance suite on the embedded log: served from memory, and with everything read from the store.

use std::sync::Arc;

use async_trait::async_trait;
use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::Log;
use sluse_schema::record::{Offset, Topic};
use sluse_schema::testing::log_conformance::{LogFixture, LogMaker};
use tempfile::TempDir;

use crate::common;

struct Fixture {
    log: Option<Arc<EmbeddedLog>>,
    config: EmbeddedLogConfig,
    _dir: TempDir,
}

impl Fixture {
    fn end(&mut self) {
        let log = self.log.take().unwrap();
        assert_eq!(Arc::strong_count(&log), 1, "somebody still holds the log");
    }
}

#[async_trait]
impl LogFixture for Fixture {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(self.log.as_ref().unwrap()) as Arc<dyn Log>
    }

    async fn reopen(&mut self) {
        self.log().close().await.unwrap();
        self.reopen_uncleanly().await;
    }

    async fn reopen_uncleanly(&mut self) -> bool {
        self.end();
        self.log = Some(EmbeddedLog::open(self.config.clone()).unwrap());
        true
    }

    async fn trim(&mut self, topic: Topic, partition: PartitionId, before: Offset) -> bool {
        self.log.as_ref().unwrap().trim_to(topic, partition, before).await.unwrap();
        true
    }
}

struct Maker {
    tail_cache_bytes_max: usize,
}

#[async_trait]
impl LogMaker for Maker {
    type Fixture = Fixture;

    async fn make(&self, num_partitions: u32) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let tail_cache_bytes_max = self.tail_cache_bytes_max;
        let config = EmbeddedLogConfig { tail_cache_bytes_max, ..common::config(&dir, num_partitions) };
        Fixture { log: Some(EmbeddedLog::open(config.clone()).unwrap()), config, _dir: dir }
    }
}

mod from_memory {
    sluse_schema::log_conformance!(super::Maker { tail_cache_bytes_max: 4 << 20 });
}

mod from_the_store {
    sluse_schema::log_conformance!(super::Maker { tail_cache_bytes_max: 0 });
}
