//! A data target as the data path sees it: where to send, under which limits, and how far its cursor is.

use serde::{Deserialize, Serialize};

use crate::id::{ApplicationId, OrganizationId, TargetId};
use crate::record::{Offset, Position};
use crate::secret::Secret;

/// How deliveries reach a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    HttpPush(HttpTarget),
    Mqtt(MqttTarget),
    /// FIWARE context brokers: their settings are kept, their deliveries wait in the log until a sender for them exists.
    Fiware(HttpTarget),
    /// Pulled by readers, never pushed: devices make no deliveries for it.
    OpenDataDk,
    /// The row cannot be read (its secrets were encrypted with another key, its type is a newer program's): nothing is sent,
    /// nothing is lost, and the status says why.
    Unreadable(UnreadableTarget),
}

/// A target whose configuration is wrong in the database itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableTarget {
    /// The API's text of the type.
    pub kind: &'static str,
    /// What is wrong and what to do, for the target's owner.
    pub reason: String,
}

impl TargetKind {
    /// The API's text of the type, also the metric label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::HttpPush(_) => "HTTP_PUSH",
            Self::Mqtt(_) => "MQTT",
            Self::Fiware(_) => "FIWARE",
            Self::OpenDataDk => "OPENDATADK",
            Self::Unreadable(target) => target.kind,
        }
    }
}

/// `HTTP_PUSH`: the body is posted to `url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    pub url: String,
    pub timeout_ms: u64,
    /// Sent verbatim as `Authorization` when not empty.
    pub authorization: Secret,
    /// PEM of further certificate authorities that this target's certificate may be signed by.
    pub ca_certificates: Option<String>,
}

/// `MQTT`: the body is published to a fixed topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttTarget {
    /// `mqtt://host` or `mqtts://host`; a port in it is overruled by `port`.
    pub url: String,
    pub port: u16,
    pub topic: String,
    /// 0, 1 or 2.
    pub qos: u8,
    pub username: String,
    pub password: Secret,
    pub timeout_ms: u64,
    pub ca_certificates: Option<String>,
}

/// Limits of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetPolicy {
    /// Deliveries per second, at most; `None`: as fast as the receiver takes them.
    pub rate_per_second: Option<u32>,
    /// Deliveries in flight at once, at most; the adaptive limit moves below it.
    pub num_in_flight_max: u32,
    /// A record older than this becomes a dead letter; `None`: the log's retention alone.
    pub age_ms_max: Option<i64>,
}

impl Default for TargetPolicy {
    fn default() -> Self {
        Self { rate_per_second: None, num_in_flight_max: 256, age_ms_max: None }
    }
}

/// A target with everything its actor needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    pub target: TargetId,
    pub application: ApplicationId,
    pub organization: OrganizationId,
    pub name: String,
    pub kind: TargetKind,
    pub policy: TargetPolicy,
    /// Changes whenever anything above does.
    pub version: u64,
}

/// Every way a delivery can go, counted by itself and stored with the cursor.
/// Conservation: `accepted + offered_again = delivered + dead + expired + discarded + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetCounters {
    /// Records of the deliveries log for this target that its cursor has passed or holds.
    pub accepted: u64,
    /// Records put before the target again: rewinds and replayed dead letters.
    pub offered_again: u64,
    pub delivered: u64,
    /// Dead letters made; never falls.
    pub dead: u64,
    /// Records that fell out of the log before they could be sent.
    pub expired: u64,
    /// Records not sent because the target was deleted or belongs to another tenant now.
    pub discarded: u64,
}

impl TargetCounters {
    /// What must still be finished, by the equation of conservation.
    pub fn pending_by_balance(&self) -> i128 {
        i128::from(self.accepted) + i128::from(self.offered_again)
            - i128::from(self.delivered)
            - i128::from(self.dead)
            - i128::from(self.expired)
            - i128::from(self.discarded)
    }
}

/// How far a target is: one row, written together with the others of its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCursor {
    pub target: TargetId,
    /// Everything for this target below it was read; `None` for a target that never had anything to read.
    pub position: Option<Position>,
    /// Offsets below `position` that are not finished, ascending; bounded.
    pub holes: Vec<Offset>,
    pub counters: TargetCounters,
    /// Raised by every rewind; answers of an older epoch are ignored.
    pub rewind_epoch: u64,
    /// The target's row is gone: nothing is sent any more, the counters stay.
    pub is_tombstone: bool,
}

/// How a target is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feed {
    /// By the partition's consumer, as records come.
    Live,
    /// From its own cursor, by the partition's sweep.
    Lagging,
}

/// State of a target's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// What a target looks like right now, for people and metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    pub target_id: TargetId,
    pub feed: Feed,
    pub breaker: BreakerState,
    /// Why the breaker is open, in the receiver's or our words.
    pub breaker_reason: Option<String>,
    /// When the breaker lets the next probe through, Unix milliseconds.
    pub next_probe_at_ms: Option<i64>,
    /// Records for this target that are not finished.
    pub lag_records: u64,
    /// Age of the oldest unfinished record.
    pub lag_seconds: f64,
    pub num_in_flight: u32,
    pub in_flight_limit: u32,
    pub counters: TargetCounters,
    /// Counted by itself from queue, holes and log.
    pub pending: u64,
    pub last_error: Option<String>,
    pub last_delivered_at_ms: Option<i64>,
    /// When these figures were taken; older than a few seconds means that the owner has not written lately.
    pub as_of_ms: i64,
}
