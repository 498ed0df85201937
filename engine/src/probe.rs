//! Trying a data target out: a real sender, made for this one attempt, under the rules of deliveries (timeout, credentials, egress).
//! The attempt stands in the target's log and in its date of the last message, as a delivery's does; it is no delivery: no
//! counter of the target's moves.

use std::sync::Arc;

use async_trait::async_trait;
use sluse_schema::delivery::{Attempt, AttemptClass, DeliveryKind, DeliveryMeta};
use sluse_schema::id::DeviceId;
use sluse_schema::partition::partition_of_target;
use sluse_schema::port::probe::{Probe, TargetProbe};
use sluse_schema::port::{SenderFactory as _, StoreError, TargetLogEntry, TargetStore as _};
use sluse_schema::target::{TargetConfig, TargetKind};

use crate::send::Senders;
use crate::store::Store;

/// Makes attempts.
#[derive(Clone, Debug)]
pub struct Probes {
    store: Arc<Store>,
    senders: Arc<Senders>,
}

impl Probes {
    /// With the senders that deliveries use.
    pub fn new(store: &Arc<Store>, senders: &Arc<Senders>) -> Self {
        Self { store: Arc::clone(store), senders: Arc::clone(senders) }
    }

    async fn attempt(&self, config: &TargetConfig, probe: &Probe) -> Attempt {
        let Some(body) = &probe.body else { return self.senders.check(config).await };
        let sender = match self.senders.make(config) {
            Ok(sender) => sender,
            Err(error) => return Attempt::failed(AttemptClass::Misconfigured, error.to_string()),
        };
        let now_ms = chrono::Utc::now().timestamp_millis();
        let meta = DeliveryMeta {
            target: config.target,
            device: probe.device.unwrap_or(DeviceId(0)),
            application: config.application,
            organization: config.organization,
            decoder: probe.decoder,
            kind: DeliveryKind::Body,
            // Another one every time: a receiver that drops repeats takes each.
            event_key: uuid::Uuid::new_v4().as_u128(),
            received_at_ms: now_ms,
            content_type: "application/json".to_owned(),
            error: None,
        };
        sender.send(&meta, body.clone()).await
    }
}

#[async_trait]
impl TargetProbe for Probes {
    async fn probe(&self, probe: Probe) -> Result<Option<Attempt>, StoreError> {
        let partition = partition_of_target(probe.target, self.store.num_partitions());
        let found = self.store.load_targets(partition, Some(&[probe.target])).await?;
        let Some(config) = found.first() else { return Ok(None) };
        if config.kind == TargetKind::OpenDataDk {
            return Ok(None);
        }
        let attempt = self.attempt(config, &probe).await;
        let entry = TargetLogEntry {
            target: probe.target,
            device: probe.device,
            decoder: probe.decoder,
            is_error: attempt.class != AttemptClass::Delivered,
            status_code: attempt.status_code,
            message: attempt.message.clone(),
            logged_at_ms: chrono::Utc::now().timestamp_millis(),
        };
        self.store.log_probe(&entry).await?;
        Ok(Some(attempt))
    }
}
