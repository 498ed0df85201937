//! What goes in and out of a device actor. An uplink is shared, not copied: the partition keeps it until it is done, so that
//! a panicked actor's successor can be given it again.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;
use sluse_schema::device::{DeviceConfig, DeviceState};
use sluse_schema::id::DeviceId;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{NewRecord, Offset};
use sluse_schema::uplink::UplinkMeta;

/// A record of the uplinks log, its headers read.
#[derive(Debug)]
pub struct Uplink {
    pub offset: Offset,
    pub meta: UplinkMeta,
    pub value: Bytes,
}

/// What is to be done with an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// State and deliveries.
    Live,
    /// State alone: its deliveries were committed before.
    Replay,
}

/// Handle this uplink; [`UplinkDone`] follows, in log order per device (I2).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HandleUplink {
    pub uplink: Arc<Uplink>,
    pub mode: Mode,
}

/// What became of an uplink; every uplink has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Handed to the targets it is connected with.
    Routed,
    /// Seen before, by device, event type and event id.
    Repeated,
    /// No connection: nobody wants it.
    Unconnected,
    /// Its device was deleted meanwhile.
    DeviceGone,
    /// An event for the device's record alone (`join`, `status` …).
    RecordOnly,
    /// Replayed for state.
    Replayed,
}

impl Outcome {
    /// Every outcome that counts an uplink.
    pub const ALL: [Self; 5] = [Self::Routed, Self::Repeated, Self::Unconnected, Self::DeviceGone, Self::RecordOnly];

    /// Metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Repeated => "repeated",
            Self::Unconnected => "unconnected",
            Self::DeviceGone => "device_gone",
            Self::RecordOnly => "record_only",
            Self::Replayed => "replayed",
        }
    }
}

/// An uplink is done with: its outputs belong into the step that moves the position past it (I1).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct UplinkDone {
    pub device: DeviceId,
    pub offset: Offset,
    pub outcome: Outcome,
    pub outputs: Vec<(PartitionId, NewRecord)>,
}

/// Gives the state for storing; the latest payload moves out, it is in the store's hands now.
#[derive(Debug, Message)]
#[rtype(result = "TakenState")]
pub struct TakeState;

/// The answer to [`TakeState`].
#[derive(Debug, actix::MessageResponse)]
pub struct TakenState(pub Box<DeviceState>);

/// Administration changed the device.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Configure(pub Arc<DeviceConfig>);

/// The stored row of a device that started without it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct MergeState(pub Box<DeviceState>);

/// Leave memory. Only sent when nothing is under way and the state is stored.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Passivate;
