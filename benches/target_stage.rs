//! The target stage on in-memory ports: what reading, order, limits, counters and cursors cost per delivery without a receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluse_actors::target::{Clock, TargetPorts, TargetStage, TargetStageConfig};
use sluse_actors::testing::{FnDecoder, MemoryTargetStore};
use sluse_schema::delivery::{Attempt, DeliveryKind, DeliveryMeta};
use sluse_schema::id::{ApplicationId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Log, SenderError, SenderFactory, TargetSender};
use sluse_schema::record::{Headers, NewRecord, Offset, Step};
use sluse_schema::secret::Secret;
use sluse_schema::target::{HttpTarget, TargetConfig, TargetKind, TargetPolicy};
use sluse_schema::testing::MemoryLog;

const NUM_DELIVERIES: u64 = 20_000;
const NUM_DEVICES: u64 = 1_000;
const NUM_TARGETS: i64 = 4;
const PARTITION: PartitionId = PartitionId(0);

/// Takes everything, after giving way once.
#[derive(Clone, Debug, Default)]
struct Devour(Arc<AtomicU64>);

#[async_trait::async_trait]
impl TargetSender for Devour {
    async fn send(&self, _: &DeliveryMeta, _: Bytes) -> Attempt {
        tokio::task::yield_now().await;
        self.0.fetch_add(1, Ordering::Relaxed);
        Attempt::delivered(Some(200))
    }
}

impl SenderFactory for Devour {
    fn make(&self, _: &TargetConfig) -> Result<Arc<dyn TargetSender>, SenderError> {
        Ok(Arc::new(self.clone()))
    }
}

fn target(id: i64) -> TargetConfig {
    TargetConfig {
        target: TargetId(id),
        application: ApplicationId(1),
        organization: OrganizationId(1),
        name: String::new(),
        kind: TargetKind::HttpPush(HttpTarget {
            url: String::new(),
            timeout_ms: 1_000,
            authorization: Secret::default(),
            ca_certificates: None,
        }),
        policy: TargetPolicy::default(),
        version: 1,
    }
}

fn delivery(n: u64) -> (PartitionId, NewRecord) {
    let meta = DeliveryMeta {
        target: TargetId(1 + n as i64 % NUM_TARGETS),
        device: DeviceId((n % NUM_DEVICES) as i64),
        application: ApplicationId(1),
        organization: OrganizationId(1),
        decoder: Some(DecoderId(1)),
        kind: DeliveryKind::Body,
        event_key: u128::from(n),
        received_at_ms: 1_780_000_000_000,
        content_type: "application/json".to_owned(),
        error: None,
    };
    (PARTITION, meta.into_record(Bytes::from_static(br#"{"temperature":21.5,"humidity":40}"#)))
}

/// Deliveries come in steps of 500 once the targets are live; the time is from the first step to the last answer.
async fn run_once() -> Duration {
    let (log, store, devour) = (MemoryLog::new(1), MemoryTargetStore::new(1), Devour::default());
    for id in 1..=NUM_TARGETS {
        store.put_target(target(id));
    }
    let ports = TargetPorts {
        log: log.clone(),
        store,
        senders: Arc::new(devour.clone()),
        decoder: Arc::new(FnDecoder::echo()),
        clock: Clock::system(),
    };
    let stage = TargetStage::start(TargetStageConfig::default(), &ports, &[actix_rt::Arbiter::current()]);
    stage.assign(&[PARTITION]).await.expect("the stage runs");
    let uplinks = (0..NUM_DELIVERIES)
        .map(|_| NewRecord { key: 1, timestamp_ms: 0, headers: Headers::default(), value: Bytes::new() })
        .collect();
    log.append(PARTITION, uplinks).await.expect("the memory log takes everything");
    let steps: Vec<Step> = (0..NUM_DELIVERIES)
        .step_by(500)
        .map(|from| Step {
            partition: PARTITION,
            from: Offset(from),
            next: Offset(from + 500),
            outputs: (from..from + 500).map(delivery).collect(),
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started_at = Instant::now();
    for step in steps {
        let num_until = step.next.0;
        log.commit_step(step).await.expect("the memory log takes the step");
        while devour.0.load(Ordering::Relaxed) + 1_000 < num_until {
            tokio::task::yield_now().await;
        }
    }
    while devour.0.load(Ordering::Relaxed) < NUM_DELIVERIES {
        tokio::task::yield_now().await;
    }
    let elapsed = started_at.elapsed();
    stage.abandon().await;
    elapsed
}

fn target_stage(c: &mut Criterion) {
    let mut group = c.benchmark_group("target stage");
    group.throughput(Throughput::Elements(NUM_DELIVERIES)).sample_size(10);
    group.bench_function("20 000 deliveries of 1 000 devices to 4 live targets", |b| {
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

criterion_group!(benches, target_stage);
criterion_main!(benches);
