//! The target stage on in-memory ports: what stands in the deliveries log, what receivers got, what is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sluse_schema::change::{ChangeEvent, ChangedEntity};
use sluse_schema::delivery::{DeliveryKind, DeliveryMeta};
use sluse_schema::device::DecoderScript;
use sluse_schema::id::{ApplicationId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{DecodeError, DecodeErrorKind, Decoded, Log, TargetRequestKind};
use sluse_schema::record::{Headers, NewRecord, Offset, Step};
use sluse_schema::secret::Secret;
use sluse_schema::target::{HttpTarget, TargetConfig, TargetKind, TargetPolicy, TargetStatus};
use sluse_schema::testing::MemoryLog;

use crate::target::{Clock, TargetPorts, TargetStage, TargetStageConfig, TargetStageHandle};
use crate::testing::{FnDecoder, MemoryTargetStore, Reply, ScriptedSenders};

pub(super) const P0: PartitionId = PartitionId(0);
/// Where the tests' wall clock starts, Unix milliseconds.
pub(super) const START_MS: i64 = 1_780_000_000_000;
pub(super) const ORGANIZATION: OrganizationId = OrganizationId(3);

pub(super) struct Rig {
    pub(super) log: Arc<MemoryLog>,
    pub(super) store: Arc<MemoryTargetStore>,
    pub(super) senders: ScriptedSenders,
    pub(super) clock: Clock,
    pub(super) stage: TargetStageHandle,
    config: TargetStageConfig,
    num_uplinks: AtomicU64,
    num_events: AtomicU64,
}

pub(super) fn config_of(target: i64) -> TargetConfig {
    TargetConfig {
        target: TargetId(target),
        application: ApplicationId(2),
        organization: ORGANIZATION,
        name: format!("target {target}"),
        kind: TargetKind::HttpPush(HttpTarget {
            url: "http://receiver.test/".into(),
            timeout_ms: 30_000,
            authorization: Secret::default(),
            ca_certificates: None,
        }),
        policy: TargetPolicy::default(),
        version: 1,
    }
}

pub(super) fn meta_of(target: i64, device: i64, event: u64, received_at_ms: i64) -> DeliveryMeta {
    DeliveryMeta {
        target: TargetId(target),
        device: DeviceId(device),
        application: ApplicationId(2),
        organization: ORGANIZATION,
        decoder: Some(DecoderId(9)),
        kind: DeliveryKind::Body,
        event_key: u128::from(event),
        received_at_ms,
        content_type: "application/json".into(),
        error: None,
    }
}

impl Rig {
    /// One partition, these targets, receivers that answer by `script`. Time must be paused.
    pub(super) async fn start(
        targets: &[i64],
        config: TargetStageConfig,
        script: impl Fn(&DeliveryMeta, &Bytes) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let store = MemoryTargetStore::new(1);
        for target in targets {
            store.put_target(config_of(*target));
        }
        let (log, senders, clock) =
            (MemoryLog::with_gaps(1), ScriptedSenders::new(script), Clock::following_tokio(START_MS));
        store.put_decoder(DecoderScript::new(DecoderId(9), "good", None));
        let stage = Self::start_stage(&log, &store, &senders, &clock, config).await;
        Self {
            log,
            store,
            senders,
            clock,
            stage,
            config,
            num_uplinks: AtomicU64::new(0),
            num_events: AtomicU64::new(0),
        }
    }

    async fn start_stage(
        log: &Arc<MemoryLog>,
        store: &Arc<MemoryTargetStore>,
        senders: &ScriptedSenders,
        clock: &Clock,
        config: TargetStageConfig,
    ) -> TargetStageHandle {
        let decoder = FnDecoder::new(|job| match &*job.script.source {
            "good" => {
                Ok(Decoded::Value { json: Bytes::from([b"decoded ", &job.payload[..]].concat()), num_warnings: 0 })
            }
            "silent" => Ok(Decoded::Nothing),
            other => Err(DecodeError { kind: DecodeErrorKind::Thrown, message: format!("{other} is not defined") }),
        });
        let ports = TargetPorts {
            log: Arc::clone(log) as Arc<dyn Log>,
            store: Arc::clone(store) as _,
            senders: Arc::new(senders.clone()),
            decoder: Arc::new(decoder),
            clock: clock.clone(),
        };
        let stage = TargetStage::start(config, &ports, &[actix_rt::Arbiter::current()]);
        stage.assign(&[P0]).await.unwrap();
        stage
    }

    /// Drops everything and starts again from what is stored, as after a crash.
    pub(super) async fn crash(&mut self) {
        self.stage.abandon().await;
        self.stage = Self::start_stage(&self.log, &self.store, &self.senders, &self.clock, self.config).await;
    }

    /// Writes deliveries to the log, in one step.
    pub(super) async fn put(&self, deliveries: Vec<(DeliveryMeta, Bytes)>) {
        let from = Offset(self.num_uplinks.load(Ordering::Relaxed));
        let uplink = NewRecord { key: 1, timestamp_ms: 0, headers: Headers::default(), value: Bytes::new() };
        self.log.append(P0, vec![uplink]).await.unwrap();
        // The log leaves an offset free after every append.
        let next = Offset(from.0 + 2);
        let outputs = deliveries
            .into_iter()
            .map(|(meta, body)| (partition_of_target(meta.target, 1), meta.into_record(body)))
            .collect();
        self.log.commit_step(Step { partition: P0, from, next, outputs }).await.unwrap();
        self.num_uplinks.store(next.0, Ordering::Relaxed);
    }

    /// One delivery per pair of target and device, each with a body of its own: `target/device/number`.
    pub(super) async fn put_bodies(&self, pairs: impl IntoIterator<Item = (i64, i64)>) {
        let received_at_ms = self.clock.now().unix_ms;
        let deliveries = pairs
            .into_iter()
            .map(|(target, device)| {
                let event = self.num_events.fetch_add(1, Ordering::Relaxed);
                (meta_of(target, device, event, received_at_ms), Bytes::from(format!("{target}/{device}/{event:06}")))
            })
            .collect();
        self.put(deliveries).await;
    }

    /// One raw uplink whose decoder failed.
    pub(super) async fn put_undecoded(&self, target: i64, device: i64, payload: &str) {
        let event = self.num_events.fetch_add(1, Ordering::Relaxed);
        let meta = DeliveryMeta {
            kind: DeliveryKind::Undecoded,
            error: Some("x is not defined".into()),
            ..meta_of(target, device, event, self.clock.now().unix_ms)
        };
        self.put(vec![(meta, Bytes::from(payload.to_owned()))]).await;
    }

    pub(super) async fn wait(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    pub(super) async fn changed(&self, entity: ChangedEntity, entity_id: i64) {
        self.stage.changed(&[ChangeEvent { id: 1, entity, entity_id }]).await;
    }

    pub(super) async fn ask(&self, target: i64, kind: TargetRequestKind) {
        let id = self.store.ask(TargetId(target), kind);
        self.changed(ChangedEntity::TargetRequest, id).await;
    }

    pub(super) async fn status(&self, target: i64) -> TargetStatus {
        let statuses = self.stage.statuses().await;
        statuses.into_iter().find(|status| status.target_id == TargetId(target)).expect("the target has a status")
    }

    /// Every record of the log for this target arrived, the first arrivals of a device in log order.
    pub(super) fn assert_all_arrived(&self, target: i64) {
        let in_log: Vec<String> = self
            .log
            .records(sluse_schema::record::Topic::Deliveries, P0)
            .into_iter()
            .filter(|record| record.key == target)
            .map(|record| String::from_utf8(record.value.to_vec()).unwrap())
            .collect();
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut last_of_device: HashMap<DeviceId, String> = HashMap::new();
        for (i, arrived) in self.senders.delivered_to(TargetId(target)).into_iter().enumerate() {
            let body = String::from_utf8(arrived.body.to_vec()).unwrap();
            if first.insert(body.clone(), i).is_none() {
                let before = last_of_device.insert(arrived.device, body.clone());
                assert!(before.as_ref().is_none_or(|before| *before < body), "{body} came after {before:?}");
            }
        }
        let missing: Vec<&String> = in_log.iter().filter(|body| !first.contains_key(*body)).collect();
        assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), in_log.len());
    }

    /// What is stored of a target adds up, and nothing is pending.
    pub(super) async fn assert_settled(&self, target: i64, num_accepted: u64) {
        let status = self.status(target).await;
        let row = self.store.cursor(TargetId(target)).expect("the target has a row");
        assert_eq!(row.counters, status.counters);
        assert_eq!((status.pending, row.holes.len()), (0, 0), "{status:?}");
        assert_eq!(row.counters.pending_by_balance(), 0, "{row:?}");
        assert_eq!(row.counters.accepted, num_accepted, "{row:?}");
    }
}
