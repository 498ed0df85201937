//! The device stage on in-memory ports: what actors, window, steps and state cost per uplink without disk, network or JavaScript.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluse_actors::partition::config::ConfigCache;
use sluse_actors::partition::{DevicePorts, DeviceStage, DeviceStageConfig};
use sluse_actors::tail::TailHub;
use sluse_actors::testing::{FnDecoder, MemoryDeviceStore};
use sluse_benches::uplink_record;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::Log;
use sluse_schema::record::Topic;
use sluse_schema::testing::MemoryLog;

const NUM_UPLINKS: u64 = 20_000;
const NUM_DEVICES: i64 = 1_000;
const PARTITION: PartitionId = PartitionId(0);

/// From the first read of a full log to the last committed delivery.
async fn run_once() -> Duration {
    let log = MemoryLog::new(1);
    let records = (0..NUM_UPLINKS).map(|n| uplink_record(1 + n as i64 % NUM_DEVICES, n)).collect();
    log.append(PARTITION, records).await.expect("the memory log takes everything");
    let ports = DevicePorts {
        log: log.clone(),
        store: MemoryDeviceStore::with_devices(NUM_DEVICES, &[(1, Some(1))]),
        decoder: Arc::new(FnDecoder::echo()),
        tail: Arc::new(TailHub::default()),
        configs: Arc::new(ConfigCache::new(10_000)),
    };
    let stage = DeviceStage::start(DeviceStageConfig::default(), &ports, &[actix_rt::Arbiter::current()]);
    let started_at = Instant::now();
    stage.assign(&[PARTITION]).await.expect("the stage runs");
    loop {
        let (_, end) = log.bounds(Topic::Deliveries, PARTITION).await.expect("the memory log answers");
        if end.0 >= NUM_UPLINKS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = started_at.elapsed();
    stage.abandon().await;
    elapsed
}

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(NUM_UPLINKS)).sample_size(10);
    group.bench_function("device stage on memory ports, 20 000 uplinks of 1 000 devices", |b| {
        b.iter_custom(|num| {
            actix_rt::System::new().block_on(async move {
                let mut total = Duration::ZERO;
                for _ in 0..num {
                    total += run_once().await;
                }
                total
            })
        });
    });
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
