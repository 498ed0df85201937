//! Which arrivals may be acknowledged to the broker: in the order in which they came (MQTT 5.0, 4.6), and each only when it is
//! finished, that is durable or refused for good. Pure. Bounded by who pushes: the broker's Receive Maximum.

use std::collections::VecDeque;

/// The place of an arrival in one connection's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

/// Arrivals of one connection that are not acknowledged yet, oldest first.
#[derive(Debug)]
pub struct AckWindow<T> {
    /// The place of the front entry.
    front: u64,
    entries: VecDeque<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    ack: T,
    is_finished: bool,
}

impl<T> Default for AckWindow<T> {
    fn default() -> Self {
        Self { front: 0, entries: VecDeque::new() }
    }
}

impl<T> AckWindow<T> {
    /// An arrival came; `ack` is what will acknowledge it.
    pub fn push(&mut self, ack: T) -> Seq {
        let seq = Seq(self.front + self.entries.len() as u64);
        self.entries.push_back(Entry { ack, is_finished: false });
        seq
    }

    /// The arrival is durable, or refused for good. One that is not in the window any more is ignored.
    pub fn finish(&mut self, seq: Seq) {
        let idx = seq.0.checked_sub(self.front).and_then(|idx| usize::try_from(idx).ok());
        if let Some(entry) = idx.and_then(|idx| self.entries.get_mut(idx)) {
            entry.is_finished = true;
        }
    }

    /// Takes the next acknowledgement that is due: everything that came before it was taken already.
    pub fn next_due(&mut self) -> Option<T> {
        let entry = self.entries.pop_front_if(|entry| entry.is_finished)?;
        self.front += 1;
        Some(entry.ack)
    }

    /// How many arrivals are not acknowledged.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn acknowledgements_wait_for_the_oldest_unfinished_arrival() {
        let mut window = AckWindow::default();
        let [a, b, c] = ["a", "b", "c"].map(|ack| window.push(ack));
        window.finish(c);
        window.finish(b);
        assert_eq!(window.next_due(), None);
        window.finish(a);
        assert_eq!([window.next_due(), window.next_due(), window.next_due()], [Some("a"), Some("b"), Some("c")]);
        assert!(window.is_empty());
        window.finish(a);
        let d = window.push("d");
        window.finish(d);
        assert_eq!(window.next_due(), Some("d"));
    }

    proptest! {
        /// Against a naive model: whatever finishes in whatever order, acknowledgements are the longest finished prefix.
        #[test]
        fn acknowledgements_are_the_finished_prefix(steps in proptest::collection::vec((any::<bool>(), 0usize..64), 0..200)) {
            let (mut window, mut seqs, mut finished, mut num_acked) = (AckWindow::default(), Vec::new(), Vec::new(), 0);
            for (is_push, pick) in steps {
                if is_push {
                    seqs.push(window.push(seqs.len()));
                    finished.push(false);
                } else if let Some(seq) = seqs.get(pick % seqs.len().max(1)) {
                    window.finish(*seq);
                    finished[pick % seqs.len()] = true;
                }
                while let Some(ack) = window.next_due() {
                    prop_assert_eq!(ack, num_acked);
                    prop_assert!(finished[ack]);
                    num_acked += 1;
                }
                prop_assert!(finished.get(num_acked).is_none_or(|is_finished| !is_finished));
                prop_assert_eq!(window.len(), finished.len() - num_acked);
            }
        }
    }
}
