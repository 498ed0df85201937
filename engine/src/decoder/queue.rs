//! Jobs that wait for one worker, served so that each decoder gets the same share of its time. Pure.
//!
//! Deficit round robin over what messages cost: each turn a decoder earns a quantum of microseconds and sends as many of its jobs
//! as it can pay for, by the running mean of what its messages took. So a decoder of 20 ms a message sends one where others send a
//! thousand, and none waits behind another's queue (I6). Jobs of one decoder stay in order.

use std::collections::{HashMap, VecDeque};

/// What a decoder earns per turn, in microseconds.
const QUANTUM_US: f32 = 1_000.0;
/// What a message of an unknown decoder is taken to cost: a compilation and a run.
const FIRST_COST_US: f32 = 500.0;
/// No message is taken to cost more, so that a decoder's turn comes within bounds.
const COST_US_MAX: f32 = 100_000.0;
/// Weight of the newest message in the running mean.
const NEWEST_WEIGHT: f32 = 0.2;
/// Costs of decoders without waiting jobs that are remembered.
const NUM_IDLE_MAX: usize = 4_096;

struct Lane<J> {
    jobs: VecDeque<J>,
    cost_us: f32,
    earned_us: f32,
}

/// See the module's header. `J` is a job.
pub struct FairQueue<J> {
    lanes: HashMap<i64, Lane<J>>,
    /// Decoders with waiting jobs, next first.
    turns: VecDeque<i64>,
    len: usize,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<J> FairQueue<J> {
    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn lane(&mut self, decoder: i64) -> &mut Lane<J> {
        let is_crowded = self.lanes.len() > NUM_IDLE_MAX + self.turns.len();
        if is_crowded {
            self.lanes.retain(|_, lane| !lane.jobs.is_empty());
        }
        self.lanes.entry(decoder).or_insert_with(|| Lane {
            jobs: VecDeque::new(),
            cost_us: FIRST_COST_US,
            earned_us: 0.0,
        })
    }

    /// A job at the end of its decoder's queue.
    pub fn push(&mut self, decoder: i64, job: J) {
        let lane = self.lane(decoder);
        let was_empty = lane.jobs.is_empty();
        lane.jobs.push_back(job);
        if was_empty {
            self.turns.push_back(decoder);
        }
        self.len += 1;
    }

    /// A job that was sent in vain, back at the front: give them back newest first.
    pub fn push_front(&mut self, decoder: i64, job: J) {
        let lane = self.lane(decoder);
        let was_empty = lane.jobs.is_empty();
        lane.jobs.push_front(job);
        if was_empty {
            self.turns.push_front(decoder);
        }
        self.len += 1;
    }

    /// A message of this decoder took so long.
    pub fn took(&mut self, decoder: i64, us: u32) {
        let lane = self.lane(decoder);
        lane.cost_us = (lane.cost_us + NEWEST_WEIGHT * (us as f32 - lane.cost_us)).clamp(1.0, COST_US_MAX);
    }

    /// Takes every waiting job of one decoder.
    pub fn drain(&mut self, decoder: i64) -> VecDeque<J> {
        let jobs = self.lanes.get_mut(&decoder).map(|lane| std::mem::take(&mut lane.jobs)).unwrap_or_default();
        self.len -= jobs.len();
        self.turns.retain(|d| *d != decoder);
        jobs
    }

    /// Forgets what a decoder's messages cost, unless some wait.
    pub fn forget(&mut self, decoder: i64) {
        if self.lanes.get(&decoder).is_some_and(|lane| lane.jobs.is_empty()) {
            self.lanes.remove(&decoder);
        }
    }

    /// Takes jobs in turn until `num_max` are taken or their cost reaches `us_max`; at least one when any waits.
    pub fn take(&mut self, num_max: usize, us_max: f32, mut each: impl FnMut(i64, J)) {
        let (mut num, mut us) = (0, 0.0);
        while num < num_max && us < us_max {
            let Some(decoder) = self.turns.pop_front() else { return };
            let Some(lane) = self.lanes.get_mut(&decoder) else { continue };
            lane.earned_us += QUANTUM_US;
            while num < num_max && us < us_max && lane.earned_us >= lane.cost_us {
                let Some(job) = lane.jobs.pop_front() else { break };
                lane.earned_us -= lane.cost_us;
                us += lane.cost_us;
                num += 1;
                self.len -= 1;
                each(decoder, job);
            }
            if lane.jobs.is_empty() {
                lane.earned_us = 0.0;
            } else {
                // Interrupted by the batch's bounds, not by its purse: what it earned stays, one quantum at most.
                lane.earned_us = lane.earned_us.min(COST_US_MAX);
                self.turns.push_back(decoder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(queue: &mut FairQueue<u32>, num_max: usize, us_max: f32) -> Vec<(i64, u32)> {
        let mut taken = Vec::new();
        queue.take(num_max, us_max, |decoder, job| taken.push((decoder, job)));
        taken
    }

    #[test]
    fn a_slow_decoder_gets_the_same_time_not_the_same_number() {
        let mut queue = FairQueue::default();
        for _ in 0..50 {
            queue.took(1, 20_000);
            queue.took(2, 20);
        }
        for job in 0..10_000 {
            queue.push(1, job);
            queue.push(2, job);
        }
        let (mut slow, mut fast) = (0, 0);
        for _ in 0..20 {
            for (decoder, _) in take(&mut queue, 256, 5_000.0) {
                if decoder == 1 { slow += 1 } else { fast += 1 }
            }
        }
        assert!(fast > 500 * slow, "slow {slow}, fast {fast}");
        assert!(slow > 0);
    }

    #[test]
    fn what_was_sent_in_vain_goes_first_again() {
        let mut queue = FairQueue::default();
        for job in 0..4 {
            queue.push(1, job);
        }
        let sent = take(&mut queue, 3, f32::MAX);
        assert_eq!(sent.len(), 3);
        for (decoder, job) in sent.into_iter().rev() {
            queue.push_front(decoder, job);
        }
        let order: Vec<u32> = take(&mut queue, 9, f32::MAX).into_iter().map(|(_, j)| j).collect();
        assert_eq!(order, [0, 1, 2, 3]);
    }

    #[test]
    fn draining_takes_one_decoder_only() {
        let mut queue = FairQueue::default();
        for job in 0..3 {
            queue.push(1, job);
            queue.push(2, job);
        }
        assert_eq!(queue.drain(1), [0, 1, 2]);
        assert_eq!(queue.len(), 3);
        assert!(take(&mut queue, 9, f32::MAX).iter().all(|(d, _)| *d == 2));
        assert!(queue.is_empty());
        assert!(queue.drain(7).is_empty());
    }

    proptest! {
        /// Whatever is pushed and whatever it costs, everything comes out once, in order per decoder.
        #[test]
        fn everything_comes_out_once_and_in_order(jobs in prop::collection::vec((0i64..6, 0u32..200_000), 1..400), num_max in 1usize..40) {
            let mut queue = FairQueue::default();
            for (at, (decoder, us)) in jobs.iter().enumerate() {
                queue.push(*decoder, at as u32);
                queue.took(*decoder, *us);
            }
            let mut last: HashMap<i64, u32> = HashMap::new();
            let mut num = 0;
            while !queue.is_empty() {
                let taken = take(&mut queue, num_max, 5_000.0);
                prop_assert!(!taken.is_empty() && taken.len() <= num_max);
                for (decoder, job) in taken {
                    if let Some(before) = last.insert(decoder, job) {
                        prop_assert!(before < job);
                    }
                    num += 1;
                }
            }
            prop_assert_eq!(num, jobs.len());
        }
    }
}
