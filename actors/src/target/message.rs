//! Messages of the target stage. All are answered, so that whoever sends one waits for room (I3).

use std::sync::Arc;

use actix::{Addr, Message};
use sluse_schema::change::ChangeEvent;
use sluse_schema::id::TargetId;
use sluse_schema::port::TargetRequest;
use sluse_schema::record::{Offset, Record};
use sluse_schema::target::{TargetConfig, TargetCursor, TargetStatus};

use super::actor::TargetActor;
use super::input::Outbox;

/// Records of a live target, from the consumer.
#[derive(Debug, Message)]
#[rtype(result = "Fed")]
pub(super) struct Offer {
    pub(super) feed: u64,
    /// Where this feed began.
    pub(super) since: Offset,
    pub(super) records: Vec<Record>,
    pub(super) next: Offset,
}

/// What a target says to an offer.
#[derive(Clone, Copy, Debug, actix::MessageResponse)]
pub(super) struct Fed {
    /// Go on feeding; otherwise it reads from its cursor now.
    pub(super) go_on: bool,
    pub(super) num_loaded: usize,
    pub(super) num_bytes: usize,
}

/// What the sweep read for a target.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Swept {
    pub(super) demand: u64,
    pub(super) from: Offset,
    pub(super) outcome: SweepOutcome,
}

#[derive(Debug)]
pub(super) enum SweepOutcome {
    Read {
        records: Vec<Record>,
        next: Offset,
        end: Offset,
    },
    /// The log starts at `start` now, beyond what was asked for.
    FellOut {
        start: Offset,
    },
    Failed,
}

/// The partition's window is full and this target holds most of it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Evict;

/// What is to be written of a target when the partition's position is written as `partition_next`.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Snapshot")]
pub(super) struct Collect {
    pub(super) partition_next: Offset,
}

/// What is written of one target in one transaction.
#[derive(Debug, actix::MessageResponse)]
pub(super) struct Snapshot {
    pub(super) cursor: TargetCursor,
    pub(super) status: TargetStatus,
    pub(super) outbox: Outbox,
    pub(super) requests_done: Vec<i64>,
}

/// What administration says of a target now.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Configure(pub(super) Known);

/// What is known of a target's configuration.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// Nothing yet: its deliveries wait.
    NotYet,
    Config(Arc<TargetConfig>),
    /// The database, read after a record of it came, has no such row.
    Gone,
}

/// What people asked of this target, oldest first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Asked(pub(super) Vec<TargetRequest>);

/// Try nothing more; answered when nothing is in flight.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct DrainTarget;

/// End the actor.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

/// To the consumer: feed this target, or stop feeding it. Answered with the consumer's next offset; with nothing when it had
/// stopped by itself before, since then there is more below that offset than was offered.
#[derive(Debug, Message)]
#[rtype(result = "Option<Offset>")]
pub(super) struct Switch {
    pub(super) target: TargetId,
    pub(super) feed: u64,
    /// `None`: stop.
    pub(super) to: Option<Addr<TargetActor>>,
}

/// To the consumer: where are you? Everything below was taken or refused by its live targets.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "NextOffset")]
pub(super) struct WhereNext;

/// The consumer's next offset.
#[derive(Clone, Copy, Debug, actix::MessageResponse)]
pub(super) struct NextOffset(pub(super) Offset);

/// To the consumer: read no further.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct StopReading;

/// To the sweep: read for this target.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Demanded {
    pub(super) target: TargetId,
    pub(super) to: Addr<TargetActor>,
    pub(super) demand: u64,
    pub(super) from: Offset,
    pub(super) num_records_max: usize,
    pub(super) num_bytes_max: usize,
}

/// To the partition: records of targets nobody knows yet stand in the log, the first of each at this offset.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct FoundUnknown(pub(super) Vec<(TargetId, Offset)>);

/// To the partition: this target was made anew and has lost what people asked of it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AskAgain;

/// To the partition: a part of it ended, or somebody else owns the partition now: start from what is stored.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PartFailed(pub(super) String);

/// To the writer: enough has happened, write now.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct FlushSoon;

/// To the writer: write everything that happened until now; `true` when it is stored.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct FlushNow;

/// To a partition: what administration changed.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Changed(pub(super) Arc<[ChangeEvent]>);

/// To a partition: read every configuration and request again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct FullScan;

/// To a partition: end what is in flight, write everything, stop; `true` when all of it went well.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct DrainPartition {
    /// In flight may end until then.
    pub(super) deadline: tokio::time::Instant,
}

/// To a partition: how do your targets look?
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<TargetStatus>")]
pub(super) struct Statuses;
