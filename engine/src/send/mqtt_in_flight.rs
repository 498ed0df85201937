//! Which publish a packet id belongs to. rumqttc gives packet ids when it writes, in the order in which publishes were handed to
//! it; one whose id is still taken waits aside ("collided") and is the next to be written. Pure: no socket, no clock.

use std::collections::{HashMap, VecDeque};

/// Publishes between our hand and the broker's acknowledgement.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    /// Handed to the event loop, not written yet; oldest first.
    handed: VecDeque<T>,
    collided: Option<T>,
    written: HashMap<u16, T>,
}

impl<T> InFlight<T> {
    pub(crate) fn new() -> Self {
        Self { handed: VecDeque::new(), collided: None, written: HashMap::new() }
    }

    /// All that are not finished.
    pub(crate) fn len(&self) -> usize {
        self.handed.len() + usize::from(self.collided.is_some()) + self.written.len()
    }

    /// One more was handed to the event loop.
    pub(crate) fn hand(&mut self, publish: T) {
        self.handed.push_back(publish);
    }

    /// The event loop found the id of the oldest handed one still taken.
    pub(crate) fn collide(&mut self) {
        self.collided = self.handed.pop_front();
    }

    /// The next one was written under `packet_id`. At QoS 0 there is no id (0) and nothing more to come: it is returned.
    pub(crate) fn write(&mut self, packet_id: u16) -> Option<T> {
        let publish = self.collided.take().or_else(|| self.handed.pop_front())?;
        if packet_id == 0 {
            return Some(publish);
        }
        self.written.insert(packet_id, publish)
    }

    /// The broker acknowledged `packet_id`, one way or the other.
    pub(crate) fn finish(&mut self, packet_id: u16) -> Option<T> {
        self.written.remove(&packet_id)
    }

    /// All that are not finished, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.handed.iter().chain(&self.collided).chain(self.written.values())
    }

    /// Takes all that are not finished.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.handed
            .drain(..)
            .chain(self.collided.take())
            .chain(self.written.drain().map(|(_, publish)| publish))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_find_their_publish_in_any_order() {
        let mut in_flight = InFlight::new();
        for name in ["a", "b", "c"] {
            in_flight.hand(name);
        }
        assert_eq!((in_flight.write(1), in_flight.write(2)), (None, None));
        assert_eq!((in_flight.finish(2), in_flight.finish(1), in_flight.finish(1)), (Some("b"), Some("a"), None));
        assert_eq!(in_flight.len(), 1);
        assert_eq!(in_flight.take(), ["c"]);
    }

    #[test]
    fn at_qos_0_written_is_finished() {
        let mut in_flight = InFlight::new();
        in_flight.hand("a");
        assert_eq!((in_flight.write(0), in_flight.len()), (Some("a"), 0));
    }

    #[test]
    fn a_collided_publish_is_the_next_to_be_written() {
        let mut in_flight = InFlight::new();
        in_flight.hand("a");
        in_flight.write(1);
        in_flight.hand("b");
        in_flight.hand("c");
        in_flight.collide();
        assert_eq!(in_flight.finish(1), Some("a"));
        in_flight.write(1);
        assert_eq!((in_flight.finish(1), in_flight.len()), (Some("b"), 1));
    }
}
