//! The window of one partition: which uplinks are open, and what the next step is. Pure: no clock, no actix.
//!
//! Limits: at most `num_open_max` uplinks are open at once, and at most about `num_bytes_max` bytes of their payloads and of what came
//! of them; beyond that the partition is not read (I3). What an open uplink will come to is not known: it is reckoned with the mean
//! of the last ones, so that a partition whose results grow at one stroke passes the limit once, by what was open then. A step holds at
//! most `num_step_max` uplinks and `num_step_bytes_max` bytes of outputs, but at least one uplink. Invariant I1: a step never passes an open uplink, and carries the outputs of everything it passes, in log order (I2).

use std::collections::VecDeque;
use std::sync::Arc;

use sluse_schema::id::DeviceId;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{NewRecord, Offset, Step};

use crate::device::{Outcome, Uplink};

/// Limits of a window.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    pub num_open_max: usize,
    /// Payloads and outputs.
    pub num_bytes_max: usize,
    /// Uplinks in one step, at most.
    pub num_step_max: usize,
    /// Bytes of outputs in one step, at most, where it is more than one uplink.
    pub num_step_bytes_max: usize,
}

/// Over how many uplinks the mean of what comes of one is taken.
const MEAN_OVER: i64 = 64;

/// One uplink between its reading and its step.
#[derive(Debug)]
struct Entry {
    uplink: Arc<Uplink>,
    done: Option<Done>,
}

#[derive(Debug)]
struct Done {
    outcome: Outcome,
    outputs: Vec<(PartitionId, NewRecord)>,
    num_bytes: usize,
}

/// What is open in a partition.
#[derive(Debug)]
pub struct Window {
    entries: VecDeque<Entry>,
    /// The position before the next step.
    from: Offset,
    /// Where reading goes on; past the last entry where the log has gaps.
    next: Offset,
    /// Of payloads.
    num_bytes: usize,
    /// Of the outputs of what is done.
    num_output_bytes: usize,
    /// What an uplink comes to, on the mean, times [`MEAN_OVER`].
    outputs_mean_scaled: i64,
    num_done_ahead: usize,
    limits: WindowLimits,
}

/// What happened when an uplink was reported done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It counts.
    Counted,
    /// It was not open: an answer from an actor that was given up.
    Unknown,
}

impl Window {
    /// A window that begins at `from`, the committed position.
    pub fn new(from: Offset, limits: WindowLimits) -> Self {
        assert!(limits.num_open_max > 0 && limits.num_step_max > 0, "a window without room never makes progress");
        Self {
            entries: VecDeque::new(),
            from,
            next: from,
            num_bytes: 0,
            num_output_bytes: 0,
            outputs_mean_scaled: 0,
            num_done_ahead: 0,
            limits,
        }
    }

    /// Where reading goes on.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// The position before the next step: everything below it is committed or in a step that was taken.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Uplinks that are open or wait for their step.
    pub fn num_entries(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is open, nothing waits, and everything read is in a step.
    pub fn is_settled(&self) -> bool {
        self.entries.is_empty() && self.from == self.next
    }

    /// How many records and bytes may be read now; `None`: the partition is paused.
    pub fn room(&self) -> Option<(usize, usize)> {
        let num_records = self.limits.num_open_max.saturating_sub(self.entries.len());
        let expected_bytes = self.expected_bytes();
        let num_open = self.entries.len() - self.num_done_ahead;
        let num_bytes_used = self.num_bytes + self.num_output_bytes + num_open.saturating_mul(expected_bytes);
        let num_bytes = self.limits.num_bytes_max.saturating_sub(num_bytes_used);
        let num_records =
            if expected_bytes == 0 { num_records } else { num_records.min(num_bytes.div_ceil(expected_bytes)) };
        (num_records > 0 && num_bytes > 0).then_some((num_records, num_bytes))
    }

    /// What one more uplink will come to.
    fn expected_bytes(&self) -> usize {
        usize::try_from(self.outputs_mean_scaled / MEAN_OVER).unwrap_or(0)
    }

    /// How many uplinks there is room for while nothing is open, as results are now.
    pub fn num_open_max(&self) -> usize {
        self.limits.num_open_max.min(self.limits.num_bytes_max.div_ceil(self.expected_bytes().max(1)))
    }

    /// Whether what is done makes a full step, if nothing before it is open.
    pub fn is_step_full(&self) -> bool {
        self.num_done_ahead >= self.limits.num_step_max || self.num_output_bytes >= self.limits.num_step_bytes_max
    }

    /// Opens an uplink. Offsets come in log order; gaps are allowed.
    pub fn open(&mut self, uplink: Arc<Uplink>) {
        assert!(uplink.offset >= self.next, "offset {} before {}", uplink.offset, self.next);
        self.next = uplink.offset.next();
        self.num_bytes += uplink.value.len();
        self.entries.push_back(Entry { uplink, done: None });
    }

    /// Everything below `next` was read; the log has nothing there that is not open here.
    pub fn skip_to(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// Marks an uplink done.
    pub fn finish(&mut self, offset: Offset, outcome: Outcome, outputs: Vec<(PartitionId, NewRecord)>) -> Finished {
        let Ok(at) = self.entries.binary_search_by_key(&offset, |e| e.uplink.offset) else { return Finished::Unknown };
        let entry = &mut self.entries[at];
        if entry.done.is_some() {
            return Finished::Unknown;
        }
        let num_bytes = outputs.iter().map(|(_, record)| record.num_bytes()).sum();
        entry.done = Some(Done { outcome, outputs, num_bytes });
        self.num_done_ahead += 1;
        self.num_output_bytes += num_bytes;
        self.outputs_mean_scaled +=
            i64::try_from(num_bytes).unwrap_or(i64::MAX / 2) - self.outputs_mean_scaled / MEAN_OVER;
        Finished::Counted
    }

    /// Received-at of the oldest uplink that is not in a step yet, Unix milliseconds.
    pub fn oldest_received_at_ms(&self) -> Option<i64> {
        self.entries.front().map(|e| e.uplink.meta.received_at_ms)
    }

    /// Uplinks that are done; some may stand behind an open one.
    pub fn num_done(&self) -> usize {
        self.num_done_ahead
    }

    /// Whether something is done and nothing is open.
    pub fn is_all_done(&self) -> bool {
        !self.entries.is_empty() && self.num_done_ahead == self.entries.len()
    }

    /// Takes the next step: the longest run of done uplinks from the head, with what each ended as. `None`: nothing moves.
    pub fn take_step(&mut self, partition: PartitionId) -> Option<(Step, Vec<Outcome>)> {
        let mut outputs = Vec::new();
        let mut outcomes = Vec::new();
        let (mut next, mut num_step_bytes) = (self.from, 0);
        while let Some(done) = self.entries.front().and_then(|e| e.done.as_ref()) {
            let is_full = outcomes.len() >= self.limits.num_step_max
                || (!outcomes.is_empty() && num_step_bytes + done.num_bytes > self.limits.num_step_bytes_max);
            if is_full {
                break;
            }
            let Some(Entry { uplink, done: Some(done) }) = self.entries.pop_front() else { break };
            self.num_bytes -= uplink.value.len();
            self.num_output_bytes -= done.num_bytes;
            num_step_bytes += done.num_bytes;
            self.num_done_ahead -= 1;
            next = uplink.offset.next();
            outcomes.push(done.outcome);
            outputs.extend(done.outputs);
        }
        if self.entries.is_empty() {
            next = self.next;
        }
        if next == self.from {
            return None;
        }
        let step = Step { partition, from: self.from, next, outputs };
        self.from = next;
        Some((step, outcomes))
    }

    /// The open uplinks of one device, in log order: what its successor is given when it panicked.
    pub fn open_of(&self, device: DeviceId) -> Vec<Arc<Uplink>> {
        let open = self.entries.iter().filter(|e| e.done.is_none() && e.uplink.meta.device == device);
        open.map(|e| Arc::clone(&e.uplink)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use sluse_schema::id::OrganizationId;
    use sluse_schema::record::Headers;
    use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};

    const LIMITS: WindowLimits =
        WindowLimits { num_open_max: 100, num_bytes_max: 1_000, num_step_max: 7, num_step_bytes_max: 1_000 };

    fn uplink(offset: u64) -> Arc<Uplink> {
        Arc::new(Uplink {
            offset: Offset(offset),
            meta: UplinkMeta {
                device: DeviceId(offset as i64 % 3),
                organization: OrganizationId(1),
                source: SourceKind::Http,
                event: EventType::Up,
                received_at_ms: 0,
                event_id: None,
                content_type: String::new(),
                figures: None,
            },
            value: Bytes::from_static(b"0123456789"),
        })
    }

    fn output(offset: u64) -> Vec<(PartitionId, NewRecord)> {
        let record =
            NewRecord { key: offset as i64, timestamp_ms: 0, headers: Headers::default(), value: Bytes::new() };
        vec![(PartitionId(0), record)]
    }

    #[test]
    fn i1_a_step_waits_for_the_oldest_open_uplink() {
        let mut window = Window::new(Offset(5), LIMITS);
        for offset in 5..8 {
            window.open(uplink(offset));
        }
        window.finish(Offset(6), Outcome::Routed, output(6));
        window.finish(Offset(7), Outcome::Routed, output(7));
        assert!(window.take_step(PartitionId(0)).is_none());
        window.finish(Offset(5), Outcome::Routed, output(5));
        let (step, _) = window.take_step(PartitionId(0)).unwrap();
        assert_eq!((step.from, step.next), (Offset(5), Offset(8)));
        assert_eq!(step.outputs.iter().map(|(_, r)| r.key).collect::<Vec<_>>(), [5, 6, 7]);
    }

    #[test]
    fn the_window_pauses_at_its_limit_of_bytes_and_goes_on_after_a_step() {
        let mut window = Window::new(Offset(0), WindowLimits { num_bytes_max: 20, ..LIMITS });
        window.open(uplink(0));
        window.open(uplink(1));
        assert_eq!(window.room(), None);
        window.finish(Offset(0), Outcome::Unconnected, Vec::new());
        window.take_step(PartitionId(0)).unwrap();
        assert_eq!(window.room(), Some((99, 10)));
    }

    /// An output of so many bytes.
    fn large(num_bytes: usize) -> Vec<(PartitionId, NewRecord)> {
        let record = NewRecord {
            key: 1,
            timestamp_ms: 0,
            headers: Headers::default(),
            value: Bytes::from(vec![b'x'; num_bytes]),
        };
        vec![(PartitionId(0), record)]
    }

    #[test]
    fn i3_what_came_of_uplinks_counts_against_the_window_until_its_step() {
        let limits = WindowLimits { num_bytes_max: 100_000, num_step_bytes_max: 50_000, ..LIMITS };
        let mut window = Window::new(Offset(0), limits);
        for offset in 0..12 {
            window.open(uplink(offset));
        }
        // The log stalls: no step is taken, and the oldest is still open.
        for offset in 1..10 {
            assert!(window.room().is_some(), "{offset}");
            window.finish(Offset(offset), Outcome::Routed, large(11_500));
        }
        assert!(window.is_step_full());
        assert_eq!(window.room(), None);
        // Steps hold no more than four such outputs, and in the end there is room again.
        window.finish(Offset(0), Outcome::Routed, large(90_000));
        let nums: Vec<usize> = std::iter::from_fn(|| Some(window.take_step(PartitionId(0))?.1.len())).collect();
        assert_eq!(nums, [1, 4, 4, 1], "the large one goes alone");
        assert!(window.room().is_some());
    }

    #[test]
    fn i3_as_many_uplinks_are_open_as_there_is_room_for_what_will_come_of_them() {
        let limits = WindowLimits { num_open_max: 4_096, num_bytes_max: 16 << 20, ..LIMITS };
        let mut window = Window::new(Offset(0), limits);
        let (mut next, mut num_bytes_max) = (0, 0);
        for round in 0..50 {
            let opened_at = next;
            assert!(
                window.room().unwrap().0 >= window.num_open_max(),
                "an empty window is never too full to be read into"
            );
            // As the consumer reads: at most 512 records in one go.
            while let Some((num_records, _)) = window.room() {
                for _ in 0..num_records.min(512) {
                    window.open(uplink(next));
                    next += 1;
                }
            }
            for offset in opened_at..next {
                window.finish(Offset(offset), Outcome::Routed, large(256 << 10));
            }
            if round > 0 {
                num_bytes_max = num_bytes_max.max((next - opened_at) * (256 << 10));
            }
            while window.take_step(PartitionId(0)).is_some() {}
        }
        assert!(num_bytes_max < 20 << 20, "{num_bytes_max} bytes");
        assert!(num_bytes_max > 12 << 20, "{num_bytes_max} bytes");
        // Small results again: the whole window is used again.
        for _ in 0..1_000 {
            window.open(uplink(next));
            window.finish(Offset(next), Outcome::Unconnected, Vec::new());
            next += 1;
            window.take_step(PartitionId(0)).unwrap();
        }
        assert_eq!(window.room().unwrap().0, 4_096);
    }

    #[test]
    fn an_answer_that_comes_twice_counts_once() {
        let mut window = Window::new(Offset(0), LIMITS);
        window.open(uplink(0));
        assert_eq!(window.finish(Offset(0), Outcome::Routed, output(0)), Finished::Counted);
        assert_eq!(window.finish(Offset(0), Outcome::Routed, output(0)), Finished::Unknown);
        assert_eq!(window.finish(Offset(9), Outcome::Routed, output(9)), Finished::Unknown);
        assert_eq!(window.take_step(PartitionId(0)).unwrap().0.outputs.len(), 1);
    }

    proptest! {
        /// Finish in any order, step at any time: steps join without a gap, pass nothing open, and all outputs come once, in order.
        #[test]
        fn i1_steps_are_the_log_in_order(order in Just((0u64..40).collect::<Vec<_>>()).prop_shuffle(), gap in 1u64..4) {
            let mut window = Window::new(Offset(0), LIMITS);
            for i in 0..40 {
                window.open(uplink(i * gap));
            }
            let (mut at, mut seen) = (Offset(0), Vec::new());
            let mut finished = std::collections::BTreeSet::new();
            for i in order {
                window.finish(Offset(i * gap), Outcome::Routed, output(i));
                finished.insert(i);
                if let Some((step, outcomes)) = window.take_step(PartitionId(0)) {
                    prop_assert_eq!(step.from, at);
                    prop_assert!(outcomes.len() <= LIMITS.num_step_max);
                    at = step.next;
                    seen.extend(step.outputs.iter().map(|(_, r)| r.key as u64));
                    let passed = (0..40).filter(|i| Offset(i * gap) < at);
                    prop_assert!(passed.clone().all(|i| finished.contains(&i)));
                }
            }
            while let Some((step, _)) = window.take_step(PartitionId(0)) {
                prop_assert_eq!(step.from, at);
                at = step.next;
                seen.extend(step.outputs.iter().map(|(_, r)| r.key as u64));
            }
            prop_assert_eq!(seen, (0..40).collect::<Vec<_>>());
            prop_assert!(window.is_settled());
        }
    }
}
