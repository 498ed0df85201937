//! What goes in and out of a partition's consumer, besides the devices' [`UplinkDone`](crate::device::UplinkDone).

use std::sync::Arc;

use actix::Message;
use sluse_schema::change::ChangeEvent;
use sluse_schema::id::DeviceId;

use crate::supervise::Exit;

/// A device actor ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DeviceExited {
    pub device: DeviceId,
    /// Which actor of this device it was.
    pub incarnation: u64,
    pub exit: Exit,
}

/// Administration changed something: reload what is concerned.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Changed(pub Arc<[ChangeEvent]>);

/// Changes were missed: reload every active device.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct ReloadAll;

/// Finish what is open, commit, store, then answer: `true` when nothing is left.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct Drain;

/// Drop the partition with its devices, at once: it is drained, or not ours any more. What is open is read again by its next owner.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Abandon;
