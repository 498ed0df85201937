//! Names, help texts and units of the senders' metrics. Labels: `kind` (`HTTP_PUSH`, `MQTT`), `class` (an attempt's class),
//! `cause`, `address_class`; never a target, never a device.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use sluse_schema::delivery::AttemptClass;

use super::egress::AddressClass;

/// Attempts finished, by kind of target and class of outcome.
pub const ATTEMPTS: &str = "sluse_send_attempts_total";
/// Time of an attempt, from the first byte to the verdict.
pub const ATTEMPT_SECONDS: &str = "sluse_send_attempt_seconds";
/// Bodies sent, successful attempts only.
pub const DELIVERED_BYTES: &str = "sluse_send_delivered_bytes_total";
/// Connections that the egress rule refused.
pub const EGRESS_REFUSED: &str = "sluse_send_egress_refused_total";
/// MQTT targets that hold a connection.
pub const MQTT_CONNECTIONS: &str = "sluse_send_mqtt_connections";
/// MQTT connections that ended, by cause.
pub const MQTT_ENDED: &str = "sluse_send_mqtt_connections_ended_total";

/// Describes every metric of this module to the installed recorder.
pub fn describe() {
    metrics::describe_counter!(ATTEMPTS, Unit::Count, "Attempts finished, by kind of target and class of outcome");
    metrics::describe_histogram!(ATTEMPT_SECONDS, Unit::Seconds, "Time of an attempt until its verdict");
    metrics::describe_counter!(DELIVERED_BYTES, Unit::Bytes, "Bytes of bodies that receivers took");
    metrics::describe_counter!(
        EGRESS_REFUSED,
        Unit::Count,
        "Connections that the egress rule refused, by class of address"
    );
    metrics::describe_gauge!(MQTT_CONNECTIONS, Unit::Count, "MQTT targets that hold a connection");
    metrics::describe_counter!(MQTT_ENDED, Unit::Count, "MQTT connections to targets that ended, by cause");
}

pub(super) fn egress_refused(class: AddressClass) {
    metrics::counter!(EGRESS_REFUSED, "address_class" => class.as_str()).increment(1);
}

pub(super) fn mqtt_ended(cause: &'static str) {
    metrics::counter!(MQTT_ENDED, "cause" => cause).increment(1);
}

pub(super) fn mqtt_connections() -> Gauge {
    metrics::gauge!(MQTT_CONNECTIONS)
}

/// The handles of one kind of sender, looked up once.
pub(super) struct AttemptMetrics {
    attempts: [Counter; 4],
    seconds: Histogram,
    delivered_bytes: Counter,
}

impl std::fmt::Debug for AttemptMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttemptMetrics")
    }
}

impl AttemptMetrics {
    pub(super) fn of_kind(kind: &'static str) -> Self {
        let attempts = |class: AttemptClass| metrics::counter!(ATTEMPTS, "kind" => kind, "class" => class.as_str());
        Self {
            attempts: [
                attempts(AttemptClass::Delivered),
                attempts(AttemptClass::Refused),
                attempts(AttemptClass::Misconfigured),
                attempts(AttemptClass::Transient),
            ],
            seconds: metrics::histogram!(ATTEMPT_SECONDS, "kind" => kind),
            delivered_bytes: metrics::counter!(DELIVERED_BYTES, "kind" => kind),
        }
    }

    pub(super) fn finished(&self, class: AttemptClass, took: Duration, num_body_bytes: usize) {
        let [delivered, refused, misconfigured, transient] = &self.attempts;
        match class {
            AttemptClass::Delivered => {
                delivered.increment(1);
                self.delivered_bytes.increment(num_body_bytes as u64);
            }
            AttemptClass::Refused => refused.increment(1),
            AttemptClass::Misconfigured => misconfigured.increment(1),
            AttemptClass::Transient => transient.increment(1),
        }
        self.seconds.record(took.as_secs_f64());
    }
}
