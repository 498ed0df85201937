//! How arrivals are gathered into batches that are taken in side by side while each device's order holds: a device always has the
//! same lane, and a lane has at most one batch out. Pure. Bounded by who pushes: the broker's Receive Maximum.

use std::collections::VecDeque;

/// Queues of arrivals that wait to be handed over.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: Vec<Lane<T>>,
    num_waiting: usize,
    batch_max: usize,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    has_batch_out: bool,
}

impl<T> Lanes<T> {
    /// `num_lanes` batches out at once, of at most `batch_max` arrivals each.
    pub fn new(num_lanes: usize, batch_max: usize) -> Self {
        assert!(
            num_lanes > 0 && batch_max > 0,
            "without lanes, or with empty batches, nothing would ever be handed over"
        );
        let lanes = (0..num_lanes).map(|_| Lane { waiting: VecDeque::new(), has_batch_out: false }).collect();
        Self { lanes, num_waiting: 0, batch_max }
    }

    /// Queues an arrival in the lane of its device; `hash` is any stable hash of the device. Whether a full batch waits there.
    pub fn push(&mut self, hash: u64, arrival: T) -> bool {
        let idx = (hash % self.lanes.len() as u64) as usize;
        let Some(lane) = self.lanes.get_mut(idx) else { return false };
        lane.waiting.push_back(arrival);
        self.num_waiting += 1;
        !lane.has_batch_out && lane.waiting.len() >= self.batch_max
    }

    /// Takes the next batch from a lane that has none out.
    pub fn next_batch(&mut self) -> Option<(usize, Vec<T>)> {
        let is_ready = |lane: &Lane<T>| !lane.has_batch_out && !lane.waiting.is_empty();
        let idx = self.lanes.iter().position(is_ready)?;
        let lane = self.lanes.get_mut(idx)?;
        lane.has_batch_out = true;
        let batch: Vec<T> = lane.waiting.drain(..lane.waiting.len().min(self.batch_max)).collect();
        self.num_waiting -= batch.len();
        Some((idx, batch))
    }

    /// The batch of this lane is finished: its next one may go.
    pub fn finish(&mut self, lane_idx: usize) {
        if let Some(lane) = self.lanes.get_mut(lane_idx) {
            lane.has_batch_out = false;
        }
    }

    /// All batches are finished, however they ended.
    pub fn finish_all(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.has_batch_out = false);
    }

    /// Drops what waits; batches that are out stay out.
    pub fn discard_waiting(&mut self) -> usize {
        self.lanes.iter_mut().for_each(|lane| lane.waiting.clear());
        std::mem::take(&mut self.num_waiting)
    }

    /// Arrivals that wait to be handed over.
    pub fn num_waiting(&self) -> usize {
        self.num_waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lane_has_one_batch_out_and_the_others_go_on() {
        let mut lanes = Lanes::new(2, 10);
        for (hash, name) in [(0, "a1"), (1, "b1"), (0, "a2")] {
            lanes.push(hash, name);
        }
        assert_eq!(lanes.next_batch(), Some((0, vec!["a1", "a2"])));
        lanes.push(0, "a3");
        assert_eq!(lanes.next_batch(), Some((1, vec!["b1"])));
        assert_eq!(lanes.next_batch(), None);
        lanes.finish(0);
        assert_eq!(lanes.next_batch(), Some((0, vec!["a3"])));
        assert_eq!(lanes.num_waiting(), 0);
    }

    #[test]
    fn a_full_batch_is_announced() {
        let mut lanes = Lanes::new(1, 2);
        assert_eq!((lanes.push(7, 1), lanes.push(7, 2)), (false, true));
        assert_eq!(lanes.next_batch(), Some((0, vec![1, 2])));
    }

    proptest! {
        /// Whatever the interleaving, a device's arrivals are finished in the order in which they came, and none is lost.
        #[test]
        fn a_devices_arrivals_are_finished_in_order(
            steps in proptest::collection::vec((0u64..6, 0u8..3), 1..300), num_lanes in 1usize..5, batch_max in 1usize..6,
        ) {
            let mut lanes = Lanes::new(num_lanes, batch_max);
            let (mut out, mut finished, mut next) = (Vec::<(usize, Vec<(u64, usize)>)>::new(), Vec::new(), [0usize; 6]);
            for (device, step) in steps {
                match step {
                    0 => {
                        lanes.push(device, (device, next[device as usize]));
                        next[device as usize] += 1;
                    }
                    1 => out.extend(lanes.next_batch()),
                    _ if out.is_empty() => {}
                    _ => {
                        let (lane, batch) = out.remove(device as usize % out.len());
                        finished.extend(batch);
                        lanes.finish(lane);
                    }
                }
            }
            loop {
                for (lane, batch) in out.drain(..) {
                    finished.extend(batch);
                    lanes.finish(lane);
                }
                out.extend(lanes.next_batch());
                if out.is_empty() { break; }
            }
            for device in 0..6u64 {
                let seen: Vec<usize> = finished.iter().filter(|(d, _)| *d == device).map(|(_, n)| *n).collect();
                prop_assert_eq!(seen, (0..next[device as usize]).collect::<Vec<_>>());
            }
        }
    }
}
