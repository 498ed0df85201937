//! The words of the target's machine: what it is told, what it asks for, and what it hands to the cursor writer.

use std::sync::Arc;

use bytes::Bytes;
use sluse_schema::delivery::{Attempt, AttemptClass, DeadLetter, DeadReason, DeliveryMeta};
use sluse_schema::id::{DeadLetterId, OrganizationId, TargetId};
use sluse_schema::port::TargetLogEntry;
use sluse_schema::record::{Offset, Record};
use sluse_schema::target::TargetPolicy;

/// Two clocks: one that never jumps for waits, and the wall's for ages and what people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since any fixed instant; never goes back.
    pub at_ms: i64,
    /// Unix milliseconds; may jump.
    pub unix_ms: i64,
}

/// What administration says of a target, as far as the machine looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub organization: OrganizationId,
    pub policy: TargetPolicy,
    /// Why nothing can be sent with this configuration: deliveries wait.
    pub trouble: Option<String>,
}

/// How much of one target may be in memory or unfinished at once (I3). When it is full, the target reads on later.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Unfinished records, whether in memory or not.
    pub num_holes_max: usize,
    /// Records in memory while the target is live.
    pub num_loaded_max: usize,
    /// The same while it is lagging.
    pub num_lagging_max: usize,
    /// Bytes in memory.
    pub num_bytes_max: usize,
    /// A live target whose oldest record, retries aside, is unfinished for this long becomes lagging.
    pub lag_after_ms: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            num_holes_max: 2048,
            num_loaded_max: 2048,
            num_lagging_max: 512,
            num_bytes_max: 4 << 20,
            lag_after_ms: 2_000,
        }
    }
}

/// What decoding an `undecoded` delivery again came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodedAgain {
    /// JSON text to send.
    Body(Bytes),
    /// The script has nothing to send for it.
    Nothing,
    /// It failed again, with these words for the decoder's owner.
    Failed(String),
    /// The decoder could not be loaded now.
    Later,
}

/// What the machine is told.
#[derive(Debug)]
pub enum Input {
    /// The consumer's records for this target, up to `next`. `since` is where this feed began.
    Offer { feed: u64, since: Offset, records: Vec<Record>, next: Offset },
    /// The consumer feeds this target from `next` on.
    Joined { feed: u64, next: Offset },
    /// The consumer fed this target up to `next` and stopped.
    Left { feed: u64, next: Offset },
    /// The consumer could not be asked, or it had stopped this feed before by itself.
    AskFailed { feed: u64 },
    /// What the sweep read from `from` on. `end`: one past the last record of the partition.
    Swept { demand: u64, from: Offset, records: Vec<Record>, next: Offset, end: Offset },
    /// The sweep could not read now.
    DemandFailed { demand: u64 },
    /// The log starts at `start` now; `num_left` records of this target stand in `[start, counted until)`.
    FellOut { start: Offset, num_left: u64 },
    /// `num` records stand in `[from, until)`, the first of them received at `first_at_ms`.
    Counted { from: Offset, until: Offset, num: u64, first_at_ms: Option<i64> },
    /// A delivery was tried.
    Attempted { ticket: u64, attempt: Attempt },
    /// An `undecoded` delivery was decoded again.
    Decoded { ticket: u64, outcome: DecodedAgain },
    /// Time went by.
    Tick,
    /// Administration changed the target, or it is known for the first time.
    Configured(Settings),
    /// The target's row is gone.
    Deleted,
    /// Stop reading: a rewind is being prepared.
    PrepareRewind,
    /// Go back to `to`; `num_in_range` records stand in `[to, position)`.
    Rewind { to: Offset, num_in_range: u64 },
    /// The rewind could not be prepared; read on.
    AbandonRewind,
    /// Offer these dead letters again.
    Replay(Vec<(DeadLetterId, DeadLetter)>),
    /// The partition's window is full, and this target holds most of it.
    Evict,
    /// Try nothing more; what is in flight may end.
    Drain,
}

/// What the machine asks for.
#[derive(Debug)]
pub enum Effect {
    /// Try this delivery and answer [`Input::Attempted`].
    Send { ticket: u64, meta: Arc<DeliveryMeta>, body: Bytes },
    /// Decode this raw uplink and answer [`Input::Decoded`].
    Decode { ticket: u64, meta: Arc<DeliveryMeta>, payload: Bytes },
    /// Drop the try or decode of this ticket; its answer would be ignored.
    Cancel { ticket: u64 },
    /// Ask the consumer to feed this target; answer [`Input::Joined`].
    AskLive { feed: u64 },
    /// Tell the consumer to stop; answer [`Input::Left`].
    GoLagging { feed: u64 },
    /// Ask the sweep to read; answer [`Input::Swept`].
    Demand { demand: u64, from: Offset, num_records_max: usize, num_bytes_max: usize },
    /// A replayed dead letter ended, or was superseded.
    ReplayEnded { letter: DeadLetterId },
    /// A try ended, for metrics.
    Tried { class: AttemptClass, latency_ms: i64 },
    /// Something ended, for metrics.
    Ended(Ended),
    /// A record of the log cannot be read; it was counted discarded. A bug of ours: a human is needed.
    Malformed { offset: Offset, error: String },
}

/// How something ended, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// From receipt at the edge to the receiver's answer.
    Delivered {
        /// Milliseconds.
        latency_ms: i64,
    },
    Dead(DeadReason),
    Discarded,
    Expired {
        /// How many.
        num: u64,
    },
}

/// What waits to be written with the cursor, in one transaction.
#[derive(Debug, Default)]
pub struct Outbox {
    pub dead_letters: Vec<DeadLetter>,
    pub dead_letters_gone: Vec<DeadLetterId>,
    /// Dead letters at or beyond this offset, made before those in `dead_letters`, are superseded by a rewind.
    pub superseded_from: Option<u64>,
    pub log: Vec<TargetLogEntry>,
    /// Unix milliseconds of the last try.
    pub last_message_at_ms: Option<i64>,
}

impl Outbox {
    /// Lines of the target's log that are kept until the next flush; further ones are dropped, the newest are for people.
    pub const NUM_LOG_LINES_MAX: usize = 100;

    /// Adds a line for people.
    pub fn log_line(&mut self, entry: TargetLogEntry) {
        if self.log.len() < Self::NUM_LOG_LINES_MAX {
            self.log.push(entry);
        }
    }

    /// Everything of `later` happened after everything here.
    pub fn append(&mut self, mut later: Self) {
        if let Some(from) = later.superseded_from {
            self.dead_letters.retain(|letter| letter.offset < from);
            self.superseded_from = Some(self.superseded_from.map_or(from, |earlier| earlier.min(from)));
        }
        self.dead_letters.append(&mut later.dead_letters);
        self.dead_letters_gone.append(&mut later.dead_letters_gone);
        self.log.append(&mut later.log);
        self.last_message_at_ms = later.last_message_at_ms.or(self.last_message_at_ms);
    }

    /// Bytes of the dead letters, which are bounded by them.
    pub fn num_bytes(&self) -> usize {
        self.dead_letters.iter().map(|letter| letter.body.len() + letter.answer.len() + 512).sum()
    }
}

/// A line for the target's log.
pub(super) fn log_line_of(target: TargetId, meta: &DeliveryMeta, attempt: &Attempt, now: Now) -> TargetLogEntry {
    TargetLogEntry {
        target,
        device: Some(meta.device),
        decoder: meta.decoder,
        is_error: attempt.class != AttemptClass::Delivered,
        status_code: attempt.status_code,
        message: attempt.message.clone(),
        logged_at_ms: now.unix_ms,
    }
}
