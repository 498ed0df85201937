//! What waits for the writer thread, in the order of the calls.
//!
//! Full means refused at once: an append beyond `bytes_max` (and the 10 000th command) is answered "unavailable", so that a source
//! says 503 or stops reading instead of waiting behind megabytes of others. A command larger than that is taken when it is alone.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{NewRecord, Offset, Step, Topic};
use tokio::sync::oneshot;

use super::metrics;

/// Commands of any size that may wait.
const NUM_COMMANDS_MAX: usize = 10_000;

type Answer<T> = oneshot::Sender<Result<T, LogError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Answered with the first offset of each part.
    Append {
        parts: Vec<(PartitionId, Vec<NewRecord>)>,
        answer: Answer<Vec<Offset>>,
    },
    Step {
        step: Step,
        answer: Answer<()>,
    },
    /// Answered behind every step that was queued before it.
    Committed {
        partition: PartitionId,
        answer: Answer<Option<Offset>>,
    },
    /// Drops records below `before` now, as far as the floor allows; for tests.
    Trim {
        topic: Topic,
        partition: PartitionId,
        before: Offset,
        answer: Answer<Offset>,
    },
    Close {
        answer: Answer<()>,
    },
}

impl Command {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Append { parts, .. } => parts.iter().flat_map(|(_, r)| r).map(NewRecord::num_bytes).sum(),
            Self::Step { step, .. } => step.outputs.iter().map(|(_, r)| r.num_bytes()).sum(),
            Self::Committed { .. } | Self::Trim { .. } | Self::Close { .. } => 0,
        }
    }

    /// Answers that nothing was written.
    pub fn refuse(self, error: impl Fn() -> LogError) {
        match self {
            Self::Append { answer, .. } => answer.send(Err(error())).is_ok(),
            Self::Trim { answer, .. } => answer.send(Err(error())).is_ok(),
            Self::Step { answer, .. } | Self::Close { answer } => answer.send(Err(error())).is_ok(),
            Self::Committed { answer, .. } => answer.send(Err(error())).is_ok(),
        };
    }
}

#[derive(Debug, Default)]
struct Inner {
    commands: VecDeque<(usize, Command)>,
    num_bytes: usize,
    is_ended: bool,
    /// The writer has nothing to do and waits for the first command.
    is_awaited: bool,
}

/// The queue in front of the writer.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    bytes_max: usize,
}

/// What [`Queue::drain`] brought.
#[derive(Debug)]
pub struct Drained {
    pub commands: Vec<Command>,
    /// Nothing more will come: the log was dropped.
    pub is_ended: bool,
}

impl Queue {
    /// A queue for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::default(), filled: Condvar::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command behind all others, or answers it.
    pub fn push(&self, command: Command) {
        let num_bytes = command.num_bytes();
        let mut inner = self.lock();
        // Steps let the log drain and wait for their answer one by one: the bytes of waiting appends do not refuse them.
        let is_over = matches!(command, Command::Append { .. }) && inner.num_bytes + num_bytes > self.bytes_max;
        let is_full = inner.commands.len() >= NUM_COMMANDS_MAX || (is_over && !inner.commands.is_empty());
        if inner.is_ended || (is_full && !matches!(command, Command::Close { .. })) {
            drop(inner);
            ::metrics::counter!(metrics::QUEUE_REFUSED).increment(1);
            return command.refuse(|| LogError::Unavailable("too much waits to be written, or the log is gone".into()));
        }
        inner.num_bytes += num_bytes;
        inner.commands.push_back((num_bytes, command));
        let is_awaited = std::mem::take(&mut inner.is_awaited);
        drop(inner);
        if is_awaited {
            self.filled.notify_one();
        }
    }

    /// Takes everything that waits, up to `bytes_max` (at least one command); waits at most `patience` for the first, and lets more
    /// gather until `not_before`.
    pub fn drain(&self, bytes_max: usize, patience: Duration, not_before: Instant) -> Drained {
        let mut inner = self.lock();
        if inner.commands.is_empty() && !inner.is_ended {
            inner.is_awaited = true;
            let waited = self.filled.wait_timeout_while(inner, patience, |i| i.commands.is_empty() && !i.is_ended);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            inner.is_awaited = false;
        }
        let gather = not_before.saturating_duration_since(Instant::now());
        if !gather.is_zero() && !inner.commands.is_empty() && !inner.is_ended && inner.num_bytes < bytes_max {
            drop(inner);
            std::thread::sleep(gather);
            inner = self.lock();
        }
        let (mut commands, mut num_bytes_taken) = (Vec::with_capacity(inner.commands.len()), 0);
        while let Some((num_bytes, _)) = inner.commands.front()
            && (commands.is_empty() || num_bytes_taken + num_bytes <= bytes_max)
            && let Some((num_bytes, command)) = inner.commands.pop_front()
        {
            num_bytes_taken += num_bytes;
            commands.push(command);
        }
        inner.num_bytes -= num_bytes_taken;
        Drained { is_ended: inner.is_ended && inner.commands.is_empty(), commands }
    }

    /// How many bytes wait.
    pub fn num_bytes(&self) -> usize {
        self.lock().num_bytes
    }

    /// Takes nothing more; what waits is still drained.
    pub fn end(&self) {
        self.lock().is_ended = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sluse_schema::record::Headers;

    fn append(num_bytes: usize) -> (Command, oneshot::Receiver<Result<Vec<Offset>, LogError>>) {
        let (answer, receive) = oneshot::channel();
        let value = Bytes::from(vec![0; num_bytes - 24]);
        let record = NewRecord { key: 1, timestamp_ms: 1, headers: Headers::default(), value };
        (Command::Append { parts: vec![(PartitionId(0), vec![record])], answer }, receive)
    }

    #[test]
    fn a_full_queue_refuses_appends_at_once_and_still_takes_steps() {
        let queue = Queue::new(1_000);
        let (large, _kept) = append(5_000);
        queue.push(large);
        let (late, mut refused) = append(100);
        queue.push(late);
        assert!(matches!(refused.try_recv(), Ok(Err(LogError::Unavailable(_)))));
        let (answer, mut step) = oneshot::channel();
        let of = PartitionId(0);
        queue.push(Command::Step {
            step: Step { partition: of, from: Offset(0), next: Offset(0), outputs: vec![] },
            answer,
        });
        assert!(step.try_recv().is_err(), "it waits");
        assert_eq!(queue.drain(1 << 20, Duration::ZERO, Instant::now()).commands.len(), 2);
        assert_eq!(queue.num_bytes(), 0);
    }

    #[test]
    fn draining_keeps_the_order_and_the_limit() {
        let queue = Queue::new(10_000);
        let kept: Vec<_> = (1..=5).map(|i| append(100 * i)).collect();
        let mut answers = Vec::new();
        for (command, answer) in kept {
            queue.push(command);
            answers.push(answer);
        }
        let sizes = |drained: Drained| drained.commands.iter().map(Command::num_bytes).collect::<Vec<_>>();
        assert_eq!(sizes(queue.drain(350, Duration::ZERO, Instant::now())), [100, 200]);
        assert_eq!(sizes(queue.drain(10, Duration::ZERO, Instant::now())), [300]);
        queue.end();
        let rest = queue.drain(10_000, Duration::ZERO, Instant::now());
        assert!(rest.is_ended);
        assert_eq!(sizes(rest), [400, 500]);
    }
}
