//! One partition as readers see it: where it starts and ends as far as is known, and two stretches of it in memory. The live one follows the
//! end; the other goes back for whoever is behind. Both are filled by the thread in [`reader`](super::reader), the live one also with what
//! this node wrote itself ([`own`](super::own)).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{LogError, ReadBatch, ReadLimit};
use sluse_schema::record::{Offset, Record, Topic};
use tokio::sync::watch;

use super::metrics::OWN_READ;
use super::own::{OwnRuns, Run};
use super::reel::{Limits, Reel};

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
    /// Whether a reader fills it, or rests because this node's own records do.
    pub is_open: bool,
    pub is_resting: bool,
    pub own: OwnRuns,
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

/// Sees every record that is put into the live stretch: partition, the stretch that is complete, the records.
pub type Observe = Box<dyn Fn(PartitionId, Offset, Offset, &[Record]) + Send + Sync>;

/// See the head of this file.
pub struct View {
    pub topic: Topic,
    pub partition: PartitionId,
    state: Mutex<State>,
    observe: Option<Observe>,
    changed: watch::Sender<()>,
    limits: Limits,
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

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("topic", &self.topic).field("partition", &self.partition).finish_non_exhaustive()
    }
}

impl View {
    /// A partition of which nothing is known.
    pub fn new(topic: Topic, partition: PartitionId, limits: Limits, observe: Option<Observe>) -> Self {
        let stretch = || Stretch {
            reel: Reel::new(Offset::ZERO, limits),
            is_open: false,
            is_resting: false,
            own: OwnRuns::default(),
            wanted: None,
            trouble: None,
            last_read_at: Instant::now(),
        };
        let state = State { start: Offset::ZERO, end: Offset::ZERO, bounds_at: None, live: stretch(), back: stretch() };
        Self {
            topic,
            partition,
            state: Mutex::new(state),
            observe,
            changed: watch::Sender::new(()),
            limits,
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
        let reel = Reel::new(from, self.limits);
        let mut state = self.lock();
        let stretch = state.stretch(side);
        (stretch.reel, stretch.is_open, stretch.is_resting, stretch.trouble) = (reel, true, false, None);
        stretch.own.lose();
        stretch.last_read_at = Instant::now();
    }

    /// This node wrote records that are durable now, the last at `newest`; `run` are those of which it is known where they stand.
    /// `true` when the live reader rests and has to go on.
    pub fn reach(&self, newest: Offset, run: Option<Run>) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        state.end = state.end.max(newest.next());
        let live = &mut state.live;
        let mut records = Vec::new();
        match run {
            Some(run) => {
                let span = run.span();
                if live.is_open && live.wanted.is_none() {
                    records = live.own.new_records(run, &live.reel);
                }
                live.own.note(span, now);
            }
            None => live.own.lose(),
        }
        counter!(OWN_READ, "topic" => self.topic.name()).increment(records.len() as u64);
        self.put(live, &mut records, None);
        let must_go_on = live.is_resting && !live.own.suffice(live.reel.next(), now);
        drop(state);
        self.notify();
        must_go_on
    }

    /// What a reader has brought: records, and up to where nothing more stands. `true` when there is room for more.
    pub fn bring(&self, side: Side, records: &mut Vec<Record>, passed: Option<Offset>) -> bool {
        let mut state = self.lock();
        let stretch = state.stretch(side);
        let from = stretch.reel.next();
        // A reader that was put elsewhere meanwhile brings what nobody wants.
        if stretch.wanted.is_some() {
            records.clear();
            return stretch.reel.has_room();
        }
        records.retain(|record| record.offset >= from);
        match side {
            Side::Live => self.put(stretch, records, passed),
            Side::Back => stretch.reel.extend(records, passed),
        }
        let (next, has_room) = (stretch.reel.next(), stretch.reel.has_room());
        state.end = state.end.max(next);
        drop(state);
        if next > from {
            self.notify();
        }
        has_room
    }

    /// Puts what comes next into the live stretch, and shows it to whoever observes. Both under the lock, so that nobody sees it out of order.
    fn put(&self, live: &mut Stretch, records: &mut Vec<Record>, passed: Option<Offset>) {
        let from = live.reel.next();
        let next = records.last().map_or(from, |last| last.offset.next()).max(passed.unwrap_or(from));
        if let Some(observe) = self.observe.as_ref().filter(|_| next > from) {
            observe(self.partition, from, next, records);
        }
        live.reel.extend(records, passed);
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
    const LIMITS: Limits = Limits { num_unread_bytes_max: 1 << 19, num_read_bytes_max: 1 << 19 };

    fn record(offset: u64) -> Record {
        Record { offset: Offset(offset), key: 1, timestamp_ms: 0, headers: Headers::default(), value: Bytes::new() }
    }

    #[test]
    fn a_reader_is_put_where_somebody_wants_to_read_and_is_not_taken_from_who_uses_it() {
        let view = View::new(Topic::Uplinks, PartitionId(0), LIMITS, None);
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
        let view = View::new(Topic::Uplinks, PartitionId(0), LIMITS, None);
        view.set_bounds(Offset(0), Offset(7));
        view.open(Side::Live, Offset(7));
        let Attempt::Done(Ok(batch)) = view.try_read(Offset(7), WIDE, None, true, false) else { panic!() };
        assert_eq!((batch.records.len(), batch.next, batch.end), (0, Offset(7), Offset(7)));
        // What was appended meanwhile is waited for.
        view.reach(Offset(7), None);
        assert!(matches!(view.try_read(Offset(7), WIDE, None, true, false), Attempt::Wait));
    }
}
