//! Targets and deliveries for the senders' tests.

use std::sync::Arc;

use sluse_engine::send::{EgressPolicy, Senders};
use sluse_schema::delivery::{DeliveryKind, DeliveryMeta};
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId, TargetId};
use sluse_schema::port::{SenderError, SenderFactory, TargetSender};
use sluse_schema::secret::Secret;
use sluse_schema::target::{HttpTarget, MqttTarget, TargetConfig, TargetKind, TargetPolicy};

pub const USER_AGENT: &str = "sluse/test";

pub fn senders(allowed: &str) -> Arc<Senders> {
    Senders::new(EgressPolicy::from_setting(allowed).unwrap(), None, USER_AGENT).unwrap()
}

pub fn config(kind: TargetKind) -> TargetConfig {
    TargetConfig {
        target: TargetId(5),
        application: ApplicationId(2),
        organization: OrganizationId(3),
        name: "a target".into(),
        kind,
        policy: TargetPolicy::default(),
        version: 1,
    }
}

pub fn http(url: impl Into<String>) -> HttpTarget {
    HttpTarget { url: url.into(), timeout_ms: 2000, authorization: Secret::default(), ca_certificates: None }
}

pub fn mqtt(port: u16, qos: u8) -> MqttTarget {
    MqttTarget {
        url: "mqtt://localhost".into(),
        port,
        topic: "out/city".into(),
        qos,
        username: String::new(),
        password: Secret::default(),
        timeout_ms: 5000,
        ca_certificates: None,
    }
}

pub fn try_sender(allowed: &str, kind: TargetKind) -> Result<Arc<dyn TargetSender>, SenderError> {
    senders(allowed).make(&config(kind))
}

pub fn http_sender(allowed: &str, target: HttpTarget) -> Arc<dyn TargetSender> {
    try_sender(allowed, TargetKind::HttpPush(target)).unwrap()
}

pub fn mqtt_sender(allowed: &str, target: MqttTarget) -> Arc<dyn TargetSender> {
    try_sender(allowed, TargetKind::Mqtt(target)).unwrap()
}

pub fn delivery(event: u128) -> DeliveryMeta {
    DeliveryMeta {
        target: TargetId(5),
        device: DeviceId(12),
        application: ApplicationId(2),
        organization: OrganizationId(3),
        decoder: None,
        kind: DeliveryKind::Body,
        event_key: event,
        received_at_ms: 1_780_000_000_000,
        content_type: "application/json".into(),
        error: None,
    }
}
