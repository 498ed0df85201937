//! Intake: the one door through which sources hand in what they received. "Accepted" means durable.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::figures::UpFigures;
use crate::id::{DeviceId, DeviceKey};
use crate::uplink::{EventType, SourceKind};

/// Something a source received, checked for shape but not yet for sender.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub sender: DeviceKey,
    pub source: SourceKind,
    pub event: EventType,
    /// The sender's id of this event.
    pub event_id: Option<String>,
    pub content_type: String,
    /// What the source read of the payload already.
    pub figures: Option<UpFigures>,
    /// Byte for byte as it came in.
    pub payload: Bytes,
}

/// An arrival that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub device: DeviceId,
}

/// Why an arrival was not accepted. Nothing of it was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedArrival {
    /// No such device: for good, as far as we know now. Listed as "heard but not registered".
    #[error("no device is registered for this sender")]
    UnknownSender,
    /// Impossible now: the same may go through later (503 with Retry-After, or no PUBACK).
    #[error("not now: {reason}")]
    Later {
        /// What is missing, for the operator's log.
        reason: String,
        /// A sensible wait.
        retry_after_ms: u64,
    },
    /// This sender is heard too often: the same goes through later, and others are not concerned (429 with Retry-After). Not
    /// told to brokers: they hand over in order, so one event that waits would hold up everybody's.
    #[error("heard too often, for {retry_after_ms} ms more")]
    TooOften {
        /// When there is room again.
        retry_after_ms: u64,
    },
}

/// Accepts arrivals. Arrivals of one device that are handed in order are logged in that order.
#[async_trait]
pub trait Intake: Debug + Send + Sync + 'static {
    /// Says of a sender what [`Intake::accept`] would, before its body is read: nobody is listened to for long whom nobody knows.
    ///
    /// # Errors
    /// [`RefusedArrival::UnknownSender`], or [`RefusedArrival::Later`] when it cannot be told now.
    async fn recognise(&self, source: SourceKind, sender: &DeviceKey) -> Result<(), RefusedArrival>;

    /// Accepts one arrival; returns when it is durable.
    async fn accept(&self, arrival: Arrival) -> Result<Accepted, RefusedArrival>;

    /// Accepts a run of arrivals in their order; one answer each, in order. Cheaper per arrival than [`Intake::accept`].
    async fn accept_all(&self, arrivals: Vec<Arrival>) -> Vec<Result<Accepted, RefusedArrival>>;
}
