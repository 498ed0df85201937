//! Order per device: at most one delivery of a device is in flight to a target, and the next one waits until it ended, however
//! often it is tried. Pure: no clock, no actix.
//!
//! Limits: none of its own; the cursor and the machine bound what is put in. Devices take turns: one whose head ended goes to
//! the back of the line.

use std::collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry};

use sluse_schema::id::DeviceId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    /// The device stands in the line.
    Ready,
    /// Its head is being tried.
    InFlight,
    /// Its head is tried again at this time.
    Waiting(i64),
}

#[derive(Debug)]
struct Lane<T> {
    queue: VecDeque<T>,
    state: LaneState,
}

/// The deliveries of one target in memory, one lane per device.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: HashMap<DeviceId, Lane<T>, xxhash_rust::xxh3::Xxh3DefaultBuilder>,
    line: VecDeque<DeviceId>,
    waiting: BTreeSet<(i64, DeviceId)>,
    num_items: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::default(), line: VecDeque::new(), waiting: BTreeSet::new(), num_items: 0 }
    }
}

impl<T> Lanes<T> {
    /// Puts an item behind everything of its device.
    pub fn push(&mut self, device: DeviceId, item: T) {
        self.num_items += 1;
        match self.lanes.entry(device) {
            Entry::Occupied(mut lane) => lane.get_mut().queue.push_back(item),
            Entry::Vacant(vacant) => {
                vacant.insert(Lane { queue: VecDeque::from([item]), state: LaneState::Ready });
                self.line.push_back(device);
            }
        }
    }

    /// The next device whose head may be tried, marked as in flight. With `other_than`, that device only if there is no other.
    pub fn start_next(&mut self, now_ms: i64, other_than: Option<DeviceId>) -> Option<DeviceId> {
        while let Some(&(at, device)) = self.waiting.first() {
            if at > now_ms {
                break;
            }
            self.waiting.pop_first();
            self.set_state(device, LaneState::Ready);
            self.line.push_back(device);
        }
        let device = match other_than {
            Some(avoided) if self.line.front() == Some(&avoided) => {
                let at = self.line.iter().position(|device| *device != avoided).unwrap_or(0);
                self.line.remove(at)?
            }
            _ => self.line.pop_front()?,
        };
        self.set_state(device, LaneState::InFlight);
        Some(device)
    }

    fn set_state(&mut self, device: DeviceId, state: LaneState) {
        if let Some(lane) = self.lanes.get_mut(&device) {
            lane.state = state;
        }
    }

    /// The first item of a device.
    pub fn head(&self, device: DeviceId) -> Option<&T> {
        self.lanes.get(&device)?.queue.front()
    }

    /// The first item of a device.
    pub fn head_mut(&mut self, device: DeviceId) -> Option<&mut T> {
        self.lanes.get_mut(&device)?.queue.front_mut()
    }

    /// The head of this device ended; its next one may be tried.
    pub fn finish(&mut self, device: DeviceId) -> Option<T> {
        let lane = self.lanes.get_mut(&device)?;
        debug_assert_eq!(lane.state, LaneState::InFlight, "only what is in flight ends");
        let item = lane.queue.pop_front()?;
        self.num_items -= 1;
        if lane.queue.is_empty() {
            self.lanes.remove(&device);
        } else {
            lane.state = LaneState::Ready;
            self.line.push_back(device);
        }
        Some(item)
    }

    /// The head of this device was not tried after all: it is the next one again.
    pub fn put_back_first(&mut self, device: DeviceId) {
        self.set_state(device, LaneState::Ready);
        self.line.push_front(device);
    }

    /// The head of this device is tried again when its turn comes.
    pub fn put_back(&mut self, device: DeviceId) {
        self.set_state(device, LaneState::Ready);
        self.line.push_back(device);
    }

    /// The head of this device is tried again at `at_ms`.
    pub fn wait(&mut self, device: DeviceId, at_ms: i64) {
        self.set_state(device, LaneState::Waiting(at_ms));
        self.waiting.insert((at_ms, device));
    }

    /// When the first waiting head is due.
    pub fn next_due_at_ms(&self) -> Option<i64> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Takes out every item that `wanted` names, heads in flight only when `in_flight_too`. `gone` gets each, with whether it was
    /// in flight.
    pub fn remove(&mut self, in_flight_too: bool, wanted: impl Fn(&T) -> bool, mut gone: impl FnMut(T, bool)) {
        let (line, waiting) = (&mut self.line, &mut self.waiting);
        let (mut num_gone, mut is_line_stale) = (0, false);
        self.lanes.retain(|device, lane| {
            let is_head_safe = lane.state == LaneState::InFlight && !in_flight_too;
            let mut is_head_gone = false;
            let mut kept = VecDeque::with_capacity(lane.queue.len());
            for (i, item) in lane.queue.drain(..).enumerate() {
                if (i == 0 && is_head_safe) || !wanted(&item) {
                    kept.push_back(item);
                } else {
                    is_head_gone |= i == 0;
                    num_gone += 1;
                    gone(item, i == 0 && lane.state == LaneState::InFlight);
                }
            }
            lane.queue = kept;
            if is_head_gone {
                if let LaneState::Waiting(at) = lane.state {
                    waiting.remove(&(at, *device));
                }
                if lane.queue.is_empty() {
                    is_line_stale |= lane.state == LaneState::Ready;
                } else if lane.state != LaneState::Ready {
                    lane.state = LaneState::Ready;
                    line.push_back(*device);
                }
            }
            !lane.queue.is_empty()
        });
        if is_line_stale {
            self.line.retain(|device| self.lanes.contains_key(device));
        }
        self.num_items -= num_gone;
    }

    /// Every item, in no order between devices.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.values().flat_map(|lane| lane.queue.iter())
    }

    /// Items in memory, those in flight included.
    pub fn len(&self) -> usize {
        self.num_items
    }

    /// Whether there is nothing in memory.
    pub fn is_empty(&self) -> bool {
        self.num_items == 0
    }

    /// Whether a head could be tried now, were it allowed.
    pub fn has_ready(&self, now_ms: i64) -> bool {
        !self.line.is_empty() || self.next_due_at_ms().is_some_and(|at| at <= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: DeviceId = DeviceId(1);
    const B: DeviceId = DeviceId(2);

    #[test]
    fn a_retry_holds_up_its_own_device_and_no_other() {
        let mut lanes = Lanes::default();
        lanes.push(A, 1);
        lanes.push(A, 2);
        lanes.push(B, 3);
        assert_eq!(lanes.start_next(0, None), Some(A));
        lanes.wait(A, 100);
        assert_eq!(lanes.start_next(0, None), Some(B));
        assert_eq!(lanes.finish(B), Some(3));
        assert_eq!(lanes.start_next(99, None), None);
        assert_eq!(lanes.start_next(100, None), Some(A));
        assert_eq!(lanes.finish(A), Some(1));
    }

    #[test]
    fn a_probe_goes_to_another_device_when_there_is_one() {
        let mut lanes = Lanes::default();
        lanes.push(A, 1);
        lanes.push(B, 2);
        assert_eq!(lanes.start_next(0, Some(A)), Some(B));
        lanes.finish(B);
        assert_eq!(lanes.start_next(0, Some(A)), Some(A));
    }

    proptest! {
        /// Every device's items end in the order they were pushed, one at a time, whatever is put back, made to wait or removed.
        #[test]
        fn keeps_the_order_of_each_device(steps in proptest::collection::vec((0u8..6, 0i64..4, 0u32..50), 1..300)) {
            let mut lanes: Lanes<(i64, u32)> = Lanes::default();
            let mut naive: HashMap<i64, VecDeque<u32>> = HashMap::new();
            let mut in_flight: Vec<i64> = Vec::new();
            let mut next_item = 0;
            for (now, (action, device, x)) in (0i64..).zip(steps) {
                match action {
                    0 | 1 => {
                        lanes.push(DeviceId(device), (device, next_item));
                        naive.entry(device).or_default().push_back(next_item);
                        next_item += 1;
                    }
                    2 => {
                        if let Some(started) = lanes.start_next(now, None) {
                            prop_assert!(!in_flight.contains(&started.0), "two in flight of one device");
                            prop_assert_eq!(lanes.head(started).map(|i| i.1), naive[&started.0].front().copied());
                            in_flight.push(started.0);
                        }
                    }
                    3 | 4 => {
                        if let Some(ended) = in_flight.pop() {
                            match x % 4 {
                                0 => lanes.wait(DeviceId(ended), now + i64::from(x)),
                                1 => lanes.put_back(DeviceId(ended)),
                                2 => lanes.put_back_first(DeviceId(ended)),
                                _ => {
                                    let item = lanes.finish(DeviceId(ended)).map(|i| i.1);
                                    prop_assert_eq!(item, naive.get_mut(&ended).and_then(VecDeque::pop_front));
                                }
                            }
                        }
                    }
                    _ => {
                        let in_flight_too = x % 2 == 0;
                        let mut removed = Vec::new();
                        lanes.remove(in_flight_too, |(_, i)| i % 3 == x % 3, |item, was| removed.push((item, was)));
                        for ((device, item), was_in_flight) in removed {
                            prop_assert!(item % 3 == x % 3);
                            naive.get_mut(&device).unwrap().retain(|i| *i != item);
                            if was_in_flight {
                                prop_assert!(in_flight_too);
                                in_flight.retain(|d| *d != device);
                            }
                        }
                    }
                }
                prop_assert_eq!(lanes.len(), naive.values().map(VecDeque::len).sum::<usize>());
            }
            // Nothing is stuck: with time and answers everything ends.
            for device in in_flight.drain(..) {
                lanes.put_back(DeviceId(device));
            }
            let mut num_left = lanes.len();
            while let Some(device) = lanes.start_next(i64::MAX, None) {
                let item = lanes.finish(device).map(|i| i.1);
                prop_assert_eq!(item, naive.get_mut(&device.0).and_then(VecDeque::pop_front));
                num_left -= 1;
            }
            prop_assert_eq!(num_left, 0);
        }
    }
}
