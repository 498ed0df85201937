//! One partition as readers see it: where it starts and ends as far as is known, and two stretches of it in memory. The live one follows the
//! end; the other goes back for whoever is behind. Both are filled by the thread in [`reader`](super::reader).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{LogError, ReadBatch, ReadLimit};
use sluse_schema::record::{Offset, Topic};
use tokio::sync::watch;

use super::reel::Reel;

/// The live reader may be put elsewhere when nobody has read from it for this long.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// What Kafka said of start and end holds for this long while the live reader watches the end.
const BOUNDS_HOLD_FOR: Duration = Duration::from_secs(1);
/// The reader that goes back is given up when nobody has read from it for this long.
pub const BACK_IDLE_AFTER: Duration = Duration::from_secs(2);

/// Which of the two readers of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Live,
    Back,
}

impl Side {
    /// Its name on metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Back => "back",
        }
    }
}

/// One reader's stretch.
#[derive(Debug)]
pub struct Stretch {
    pub reel: Reel,
    /// Whether a reader fills it.
    pub is_open: bool,
    /// Where the reader shall be put.
    pub wanted: Option<Offset>,
    /// Why it cannot be filled now.
    pub trouble: Option<String>,
    pub last_read_at: Instant,
}

/// What is known of the partition.
#[derive(Debug)]
pub struct State {
    pub start: Offset,
    /// Grows with what was fetched, appended or asked for; never beyond what is durable.
    pub end: Offset,
    /// When Kafka was asked about start and end; `None`: it has to be asked.
    pub bounds_at: Option<Instant>,
    pub live: Stretch,
    pub back: Stretch,
}

impl State {
    pub fn stretch(&mut self, side: Side) -> &mut Stretch {
        match side {
            Side::Live => &mut self.live,
            Side::Back => &mut self.back,
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct View {
    pub topic: Topic,
    pub partition: PartitionId,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    reel_bytes_max: usize,
    /// One at a time goes back: two would take the reader from each other.
    pub back_turn: tokio::sync::Mutex<()>,
}

/// What a reader is to do.
#[derive(Debug)]
pub enum Attempt {
    /// Here it is.
    Done(Result<ReadBatch, LogError>),
    /// Something was asked of the reading thread: wake it, then wait for a change.
    Wait,
    /// Somebody else reads further on: take your turn to go back.
    GoBack,
    /// Kafka has to be asked for start and end first.
    AskBounds,
}

impl View {
    /// A partition of which nothing is known.
    pub fn new(topic: Topic, partition: PartitionId, reel_bytes_max: usize) -> Self {
        let stretch = || Stretch {
            reel: Reel::new(Offset::ZERO, reel_bytes_max),
            is_open: false,
            wanted: None,
            trouble: None,
            last_read_at: Instant::now(),
        };
        let state = State { start: Offset::ZERO, end: Offset::ZERO, bounds_at: None, live: stretch(), back: stretch() };
        Self {
            topic,
            partition,
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            reel_bytes_max,
            back_turn: tokio::sync::Mutex::default(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone who waits to look again.
    pub fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Ends a wait at every later [`View::notify`].
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A reader begins at `from`, with nothing yet.
    pub fn open(&self, side: Side, from: Offset) {
        let reel = Reel::new(from, self.reel_bytes_max);
        let mut state = self.lock();
        let stretch = state.stretch(side);
        (stretch.reel, stretch.is_open, stretch.trouble) = (reel, true, None);
        stretch.last_read_at = Instant::now();
    }

    /// Records up to and with `offset` are durable.
    pub fn reach(&self, offset: Offset) {
        let mut state = self.lock();
        state.end = state.end.max(offset.next());
        drop(state);
        self.notify();
    }

    /// What Kafka said of start and end.
    pub fn set_bounds(&self, start: Offset, end: Offset) -> (Offset, Offset) {
        let mut state = self.lock();
        state.bounds_at = Some(Instant::now());
        state.start = state.start.max(start);
        state.end = state.end.max(end).max(state.start);
        let bounds = (state.start, state.end);
        state.live.reel.trim(bounds.0);
        state.back.reel.trim(bounds.0);
        drop(state);
        self.notify();
        bounds
    }

    /// Start and end, if they are known well enough: Kafka was asked lately, and the live reader has watched the end since.
    pub fn recent_bounds(&self) -> Option<(Offset, Offset)> {
        let state = self.lock();
        let is_recent = state.bounds_at.is_some_and(|at| at.elapsed() < BOUNDS_HOLD_FOR);
        (is_recent && state.live.is_open).then_some((state.start, state.end))
    }

    /// Tries to read. When neither reader holds `from`, one is put there: the live one if it `may_move_live` and nobody else reads from it,
    /// otherwise the one that goes back, whose turn the caller must have.
    pub fn try_read(
        &self,
        from: Offset,
        limit: ReadLimit,
        key: Option<i64>,
        may_move_live: bool,
        has_turn: bool,
    ) -> Attempt {
        let mut state = self.lock();
        if from < state.start {
            return Attempt::Done(Err(LogError::OutOfRange {
                topic: self.topic,
                partition: self.partition,
                asked: from,
                start: state.start,
            }));
        }
        let end = state.end;
        for held in [Side::Live, Side::Back] {
            let stretch = state.stretch(held);
            if !(stretch.is_open && stretch.wanted.is_none() && stretch.reel.covers(from)) {
                continue;
            }
            stretch.last_read_at = Instant::now();
            let (records, next) = stretch.reel.read(from, limit, key);
            if next > from || from >= end {
                return Attempt::Done(Ok(ReadBatch { records, next, end: end.max(next) }));
            }
            // It will come: the reader is there already.
            return Attempt::Wait;
        }
        if state.bounds_at.is_none() {
            return Attempt::AskBounds;
        }
        if from > end {
            return Attempt::Done(Err(LogError::Unavailable(format!(
                "offset {from} of {}/{} lies beyond the end {end}: the topic has lost records, or was made anew",
                self.topic.name(),
                self.partition
            ))));
        }
        let live = &state.live;
        let is_in_use = live.is_open && live.last_read_at.elapsed() < IDLE_AFTER;
        let side = if may_move_live && !(is_in_use && from < live.reel.next()) { Side::Live } else { Side::Back };
        if side == Side::Back && !has_turn {
            return Attempt::GoBack;
        }
        state.stretch(side).wanted = Some(from);
        Attempt::Wait
    }

    /// Why nothing comes.
    pub fn trouble(&self) -> Option<String> {
        let state = self.lock();
        state.live.trouble.clone().or_else(|| state.back.trouble.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sluse_schema::record::{Headers, Record};

    const WIDE: ReadLimit = ReadLimit { num_records_max: 100, num_bytes_max: 1 << 20 };

    fn record(offset: u64) -> Record {
        Record { offset: Offset(offset), key: 1, timestamp_ms: 0, headers: Headers::default(), value: Bytes::new() }
    }

    #[test]
    fn a_reader_is_put_where_somebody_wants_to_read_and_is_not_taken_from_who_uses_it() {
        let view = View::new(Topic::Uplinks, PartitionId(0), 1 << 20);
        let read = |from, has_turn| view.try_read(Offset(from), WIDE, None, true, has_turn);
        assert!(matches!(read(50, false), Attempt::AskBounds));
        view.set_bounds(Offset(10), Offset(100));
        assert!(matches!(read(5, false), Attempt::Done(Err(LogError::OutOfRange { .. }))));
        assert!(matches!(read(101, false), Attempt::Done(Err(LogError::Unavailable(_)))));
        assert!(matches!(read(50, false), Attempt::Wait));
        assert_eq!(view.lock().live.wanted.take(), Some(Offset(50)));
        view.open(Side::Live, Offset(50));
        assert!(matches!(read(50, false), Attempt::Wait), "there are records up to 100");
        view.lock().live.reel.push(record(60));
        let Attempt::Done(Ok(batch)) = read(50, false) else { panic!() };
        assert_eq!((batch.records.len(), batch.next, batch.end), (1, Offset(61), Offset(100)));
        // Somebody who is behind goes back in his turn.
        assert!(matches!(read(20, false), Attempt::GoBack));
        assert!(matches!(read(20, true), Attempt::Wait));
        let state = view.lock();
        assert_eq!((state.live.wanted, state.back.wanted), (None, Some(Offset(20))));
    }

    #[test]
    fn at_the_end_a_read_brings_nothing_at_once() {
        let view = View::new(Topic::Uplinks, PartitionId(0), 1 << 20);
        view.set_bounds(Offset(0), Offset(7));
        view.open(Side::Live, Offset(7));
        let Attempt::Done(Ok(batch)) = view.try_read(Offset(7), WIDE, None, true, false) else { panic!() };
        assert_eq!((batch.records.len(), batch.next, batch.end), (0, Offset(7), Offset(7)));
        // What was appended meanwhile is waited for.
        view.reach(Offset(7));
        assert!(matches!(view.try_read(Offset(7), WIDE, None, true, false), Attempt::Wait));
    }
}
