//! The live tail: what people watch while it happens. Lossy by design: a slow watcher misses lines and is told how many.

use std::fmt::Debug;
use std::pin::Pin;

use futures_core::Stream;
use serde::Serialize;

use crate::id::{ApplicationId, DeviceId, OrganizationId};

/// Which events a watcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TailFilter {
    Device(DeviceId),
    Application(ApplicationId),
}

/// One line of the tail.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TailEvent {
    pub device_id: DeviceId,
    pub application_id: ApplicationId,
    #[serde(skip)]
    pub organization: OrganizationId,
    pub device_name: String,
    /// `up`, `join`, `status` …, or `decodeError`.
    pub event: String,
    pub received_at_ms: i64,
    /// The payload as it came in, JSON, at most 16 kB of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<serde_json::value::RawValue>>,
    /// Results of the device's decoders.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decoded: Vec<TailDecoded>,
    /// Lines this watcher missed before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_missed: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What one decoder made of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TailDecoded {
    pub payload_decoder_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<serde_json::value::RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where watchers listen.
pub trait LiveTail: Debug + Send + Sync + 'static {
    /// Events from now on that pass the filter. Ends when the node stops.
    fn watch(&self, filter: TailFilter) -> Pin<Box<dyn Stream<Item = TailEvent> + Send>>;
}
