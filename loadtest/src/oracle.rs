//! The oracle: every accepted uplink is an obligation towards every duty of its device. Pure: no I/O, no clock.
//!
//! A *duty* is what one data target must get of a device in one form: (target, decoded) or (target, as it came in).
//! Limits: 32 duties, 2^32 uplinks per device. Uplinks that are accepted and settled everywhere leave memory.
//! Units: microseconds since the start of the run.
//!
//! What it can tell: missing (accepted, never arrived), repeated (arrived again), out of order (the *first* arrival of an uplink
//! after that of a later one of the same device), unexpected (nobody sent it, or not to there).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

/// Most duties that a run can have: one bit each.
pub const NUM_DUTIES_MAX: usize = 32;

/// Longest latency that is told apart: 20 minutes.
const LATENCY_US_MAX: u64 = 1_200_000_000;

/// An uplink by the fleet's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UplinkRef {
    /// Index into the fleet.
    pub device: u32,
    /// Count of this device's uplinks, from 0; also its frame counter.
    pub seq: u32,
}

/// Index of a duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DutyId(pub u8);

impl DutyId {
    const fn bit(self) -> u32 {
        1 << self.0
    }
}

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its kind, this long after it was sent.
    First { latency_us: u64 },
    /// It was there before.
    Repeat,
    /// Never sent, or this duty is not one of the device's.
    Unexpected,
}

#[derive(Debug)]
struct Uplink {
    sent_at_us: u64,
    /// Duties that are done with, by arrival or by a refusal for good.
    settled: u32,
    is_accepted: bool,
}

#[derive(Debug, Default)]
struct DeviceBook {
    /// Bits of the duties that this device has.
    duties: u32,
    /// Everything below it was accepted, settled everywhere and forgotten.
    base: u32,
    open: VecDeque<Uplink>,
    /// One past the highest first arrival, per duty.
    highest: Box<[u32]>,
}

#[derive(Debug)]
struct Duty {
    num_first: AtomicU64,
    num_repeated: AtomicU64,
    num_out_of_order: AtomicU64,
    num_unexpected: AtomicU64,
    num_refused: AtomicU64,
    /// Accepted uplinks that have not settled here.
    num_open: AtomicU64,
    latency_us: Mutex<Latencies>,
}

#[derive(Debug)]
struct Latencies {
    all: Histogram<u64>,
    /// Since the last look, for a live table.
    lately: Histogram<u64>,
}

/// Figures of one duty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DutyFigures {
    pub num_first: u64,
    pub num_repeated: u64,
    pub num_out_of_order: u64,
    pub num_unexpected: u64,
    pub num_refused: u64,
    pub num_open: u64,
}

/// An accepted uplink that never arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub uplink: UplinkRef,
    pub duty: DutyId,
}

/// The books.
#[derive(Debug)]
pub struct Oracle {
    devices: Box<[Mutex<DeviceBook>]>,
    duties: Box<[Duty]>,
    num_sent: AtomicU64,
    num_accepted: AtomicU64,
    /// What was sent before this counts for loss and order, not for latency.
    latency_from_us: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A histogram of microseconds, as every one here.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that the histogram accepts")
}

impl Oracle {
    /// Books for a fleet; `duties_of` names the duties of a device as bits.
    pub fn new(num_devices: u32, num_duties: usize, duties_of: impl Fn(u32) -> u32) -> Self {
        assert!(num_duties <= NUM_DUTIES_MAX, "{num_duties} duties, at most {NUM_DUTIES_MAX} fit");
        let devices = (0..num_devices)
            .map(|device| {
                Mutex::new(DeviceBook {
                    duties: duties_of(device),
                    highest: vec![0; num_duties].into_boxed_slice(),
                    ..DeviceBook::default()
                })
            })
            .collect();
        let duty = || Duty {
            num_first: AtomicU64::new(0),
            num_repeated: AtomicU64::new(0),
            num_out_of_order: AtomicU64::new(0),
            num_unexpected: AtomicU64::new(0),
            num_refused: AtomicU64::new(0),
            num_open: AtomicU64::new(0),
            latency_us: Mutex::new(Latencies { all: histogram(), lately: histogram() }),
        };
        Self {
            devices,
            duties: (0..num_duties).map(|_| duty()).collect(),
            num_sent: AtomicU64::new(0),
            num_accepted: AtomicU64::new(0),
            latency_from_us: AtomicU64::new(0),
        }
    }

    /// Latency is kept of what is sent from here on.
    pub fn keep_latency_from(&self, us: u64) {
        self.latency_from_us.store(us, Relaxed);
    }

    /// A device is about to send: its next uplink.
    pub fn send(&self, device: u32, now_us: u64) -> UplinkRef {
        let mut book = lock(&self.devices[device as usize]);
        let seq = book.base + book.open.len() as u32;
        book.open.push_back(Uplink { sent_at_us: now_us, settled: 0, is_accepted: false });
        self.num_sent.fetch_add(1, Relaxed);
        UplinkRef { device, seq }
    }

    /// The uplink was accepted: from here on it is owed. A second acceptance of the same changes nothing.
    pub fn accept(&self, uplink: UplinkRef) {
        let mut book = lock(&self.devices[uplink.device as usize]);
        let duties = book.duties;
        let Some(entry) = book.entry(uplink.seq) else { return };
        if entry.is_accepted {
            return;
        }
        entry.is_accepted = true;
        self.num_accepted.fetch_add(1, Relaxed);
        for duty in bits(duties & !entry.settled) {
            self.duties[duty].num_open.fetch_add(1, Relaxed);
        }
        book.retire();
    }

    /// A receiver took it.
    pub fn arrive(&self, duty: DutyId, uplink: UplinkRef, now_us: u64) -> Arrival {
        let figures = &self.duties[duty.0 as usize];
        let arrival = self.settle(duty, uplink, now_us, true);
        match arrival {
            Arrival::First { latency_us } => {
                figures.num_first.fetch_add(1, Relaxed);
                let mut latencies = lock(&figures.latency_us);
                if now_us.saturating_sub(latency_us) >= self.latency_from_us.load(Relaxed) {
                    latencies.all.saturating_record(latency_us.max(1));
                }
                latencies.lately.saturating_record(latency_us.max(1));
            }
            Arrival::Repeat => {
                figures.num_repeated.fetch_add(1, Relaxed);
            }
            Arrival::Unexpected => {
                figures.num_unexpected.fetch_add(1, Relaxed);
            }
        }
        arrival
    }

    /// Something arrived that cannot be read at all.
    pub fn arrive_unreadable(&self, duty: DutyId) {
        self.duties[duty.0 as usize].num_unexpected.fetch_add(1, Relaxed);
    }

    /// A receiver refused it for good: it is owed no more, and must show up as a dead letter.
    pub fn refuse(&self, duty: DutyId, uplink: UplinkRef, now_us: u64) {
        if let Arrival::First { .. } = self.settle(duty, uplink, now_us, false) {
            self.duties[duty.0 as usize].num_refused.fetch_add(1, Relaxed);
        }
    }

    fn settle(&self, duty: DutyId, uplink: UplinkRef, now_us: u64, counts_for_order: bool) -> Arrival {
        let Some(book) = self.devices.get(uplink.device as usize) else { return Arrival::Unexpected };
        let mut book = lock(book);
        if book.duties & duty.bit() == 0 {
            return Arrival::Unexpected;
        }
        if uplink.seq < book.base {
            return Arrival::Repeat;
        }
        let Some(entry) = book.entry(uplink.seq) else { return Arrival::Unexpected };
        if entry.settled & duty.bit() != 0 {
            return Arrival::Repeat;
        }
        entry.settled |= duty.bit();
        let latency_us = now_us.saturating_sub(entry.sent_at_us);
        let is_accepted = entry.is_accepted;
        if is_accepted {
            self.duties[duty.0 as usize].num_open.fetch_sub(1, Relaxed);
        }
        if counts_for_order {
            let highest = &mut book.highest[duty.0 as usize];
            if uplink.seq + 1 < *highest {
                self.duties[duty.0 as usize].num_out_of_order.fetch_add(1, Relaxed);
            }
            *highest = (*highest).max(uplink.seq + 1);
        }
        book.retire();
        Arrival::First { latency_us }
    }

    /// Figures of a duty.
    pub fn figures(&self, duty: DutyId) -> DutyFigures {
        let d = &self.duties[duty.0 as usize];
        DutyFigures {
            num_first: d.num_first.load(Relaxed),
            num_repeated: d.num_repeated.load(Relaxed),
            num_out_of_order: d.num_out_of_order.load(Relaxed),
            num_unexpected: d.num_unexpected.load(Relaxed),
            num_refused: d.num_refused.load(Relaxed),
            num_open: d.num_open.load(Relaxed),
        }
    }

    /// Every duty there is.
    pub fn duties(&self) -> impl Iterator<Item = DutyId> {
        (0..self.duties.len() as u8).map(DutyId)
    }

    /// Uplinks sent, and uplinks accepted.
    pub fn totals(&self) -> (u64, u64) {
        (self.num_sent.load(Relaxed), self.num_accepted.load(Relaxed))
    }

    /// Latencies of some duties together, since the start.
    pub fn latencies_us(&self, duties: impl IntoIterator<Item = DutyId>) -> Histogram<u64> {
        let mut sum = histogram();
        for duty in duties {
            // Same bounds everywhere: adding cannot fail.
            let _ = sum.add(&lock(&self.duties[duty.0 as usize].latency_us).all);
        }
        sum
    }

    /// Like [`Oracle::latencies_us`], since the last call for each duty.
    pub fn take_recent_latencies_us(&self, duties: impl IntoIterator<Item = DutyId>) -> Histogram<u64> {
        let mut sum = histogram();
        for duty in duties {
            let mut latencies = lock(&self.duties[duty.0 as usize].latency_us);
            let _ = sum.add(&latencies.lately);
            latencies.lately.reset();
        }
        sum
    }

    /// When the oldest uplink was sent that one of these duties still waits for, accepted or not.
    pub fn oldest_owed_us(&self, duties: impl IntoIterator<Item = DutyId>) -> Option<u64> {
        let wanted = duties.into_iter().fold(0, |bits, duty| bits | duty.bit());
        let oldest_of = |book: &Mutex<DeviceBook>| {
            let book = lock(book);
            let is_owed = |entry: &&Uplink| wanted & book.duties & !entry.settled != 0;
            book.open.iter().find(is_owed).map(|entry| entry.sent_at_us)
        };
        self.devices.iter().filter_map(oldest_of).min()
    }

    /// Takes back what devices `0..num_devices` were told by a broker that was killed since: of which nobody has got anything, that
    /// never reached the engine and is owed no more. What somebody has got stays owed to all. Gives how many there were.
    pub fn take_back_unseen(&self, num_devices: u32) -> u64 {
        let mut num_taken_back = 0;
        for book in self.devices.iter().take(num_devices as usize) {
            let mut book = lock(book);
            let duties = book.duties;
            for entry in book.open.iter_mut().filter(|e| e.is_accepted && e.settled == 0 && duties != 0) {
                entry.is_accepted = false;
                num_taken_back += 1;
                for duty in bits(duties) {
                    self.duties[duty].num_open.fetch_sub(1, Relaxed);
                }
            }
        }
        num_taken_back
    }

    /// The first `num_max` obligations that are not met.
    pub fn missing(&self, num_max: usize) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (device, book) in self.devices.iter().enumerate() {
            let book = lock(book);
            for (i, entry) in book.open.iter().enumerate().filter(|(_, e)| e.is_accepted) {
                for duty in bits(book.duties & !entry.settled) {
                    if missing.len() == num_max {
                        return missing;
                    }
                    let uplink = UplinkRef { device: device as u32, seq: book.base + i as u32 };
                    missing.push(Missing { uplink, duty: DutyId(duty as u8) });
                }
            }
        }
        missing
    }
}

impl DeviceBook {
    fn entry(&mut self, seq: u32) -> Option<&mut Uplink> {
        self.open.get_mut(seq.checked_sub(self.base)? as usize)
    }

    /// Forgets what nobody can say anything new about. One that was sent but never accepted stays.
    fn retire(&mut self) {
        while self.open.front().is_some_and(|e| e.is_accepted && e.settled & self.duties == self.duties) {
            self.open.pop_front();
            self.base += 1;
        }
    }
}

fn bits(mask: u32) -> impl Iterator<Item = usize> {
    (0..NUM_DUTIES_MAX).filter(move |i| mask & (1 << i) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: DutyId = DutyId(0);
    const ARCHIVE: DutyId = DutyId(1);

    /// One device with both duties, `n` uplinks sent and accepted.
    fn oracle_with(n: u32) -> (Oracle, Vec<UplinkRef>) {
        let oracle = Oracle::new(2, 2, |device| if device == 0 { 0b11 } else { 0b01 });
        let uplinks: Vec<_> = (0..n).map(|i| oracle.send(0, u64::from(i) * 1000)).collect();
        uplinks.iter().for_each(|u| oracle.accept(*u));
        (oracle, uplinks)
    }

    #[test]
    fn a_faithful_engine_leaves_nothing_to_report() {
        let (oracle, uplinks) = oracle_with(100);
        for uplink in &uplinks {
            assert_eq!(
                oracle.arrive(HUB, *uplink, 200_000),
                Arrival::First { latency_us: 200_000 - u64::from(uplink.seq) * 1000 }
            );
            oracle.arrive(ARCHIVE, *uplink, 300_000);
        }
        for duty in oracle.duties() {
            let f = oracle.figures(duty);
            assert_eq!(f, DutyFigures { num_first: 100, ..DutyFigures::default() });
        }
        assert!(oracle.missing(10).is_empty());
        assert!(oracle.devices.iter().all(|d| lock(d).open.is_empty()), "settled uplinks leave memory");
    }

    #[test]
    fn a_dropped_delivery_is_missing_at_exactly_that_receiver() {
        let (oracle, uplinks) = oracle_with(10);
        for uplink in &uplinks {
            oracle.arrive(HUB, *uplink, 0);
            if uplink.seq != 4 {
                oracle.arrive(ARCHIVE, *uplink, 0);
            }
        }
        assert_eq!(oracle.missing(10), vec![Missing { uplink: uplinks[4], duty: ARCHIVE }]);
        assert_eq!(oracle.figures(ARCHIVE).num_open, 1);
        assert_eq!(oracle.figures(HUB).num_open, 0);
    }

    #[test]
    fn the_oldest_that_is_owed_counts_for_the_duties_asked_about() {
        let (oracle, uplinks) = oracle_with(3);
        oracle.arrive(HUB, uplinks[0], 0);
        assert_eq!(oracle.oldest_owed_us([HUB]), Some(1000));
        assert_eq!(oracle.oldest_owed_us([HUB, ARCHIVE]), Some(0));
        for uplink in uplinks {
            oracle.arrive(ARCHIVE, uplink, 0);
        }
        assert_eq!(oracle.oldest_owed_us([ARCHIVE]), None);
    }

    #[test]
    fn a_repeat_is_counted_even_after_the_uplink_left_memory() {
        let (oracle, uplinks) = oracle_with(2);
        for uplink in &uplinks {
            oracle.arrive(HUB, *uplink, 0);
            oracle.arrive(ARCHIVE, *uplink, 0);
        }
        assert_eq!(oracle.arrive(HUB, uplinks[0], 0), Arrival::Repeat);
        assert_eq!(oracle.figures(HUB).num_repeated, 1);
        assert_eq!(oracle.figures(HUB).num_first, 2);
    }

    #[test]
    fn order_is_judged_by_first_arrivals_per_device_and_duty() {
        let (oracle, uplinks) = oracle_with(4);
        for i in [0, 2, 1, 3] {
            oracle.arrive(HUB, uplinks[i], 0);
        }
        oracle.arrive(HUB, uplinks[0], 0);
        assert_eq!(oracle.figures(HUB).num_out_of_order, 1, "the late one, not the repeat of an old one");
        assert_eq!(oracle.figures(ARCHIVE).num_out_of_order, 0);
    }

    #[test]
    fn what_nobody_sent_or_not_to_there_is_unexpected() {
        let (oracle, uplinks) = oracle_with(1);
        assert_eq!(oracle.arrive(HUB, UplinkRef { seq: 1, ..uplinks[0] }, 0), Arrival::Unexpected);
        assert_eq!(oracle.arrive(HUB, UplinkRef { device: 77, seq: 0 }, 0), Arrival::Unexpected);
        let other = oracle.send(1, 0);
        assert_eq!(oracle.arrive(ARCHIVE, other, 0), Arrival::Unexpected);
        assert_eq!(oracle.figures(HUB).num_unexpected, 2);
    }

    #[test]
    fn an_uplink_that_was_never_accepted_is_not_owed_but_may_arrive() {
        let (oracle, _) = oracle_with(0);
        let uplink = oracle.send(0, 0);
        assert!(oracle.missing(10).is_empty());
        assert!(matches!(oracle.arrive(HUB, uplink, 5), Arrival::First { latency_us: 5 }));
        oracle.accept(uplink);
        oracle.accept(uplink);
        assert_eq!(oracle.missing(10), vec![Missing { uplink, duty: ARCHIVE }], "arrival before acceptance counts");
        assert_eq!(oracle.totals(), (1, 1));
    }

    #[test]
    fn what_a_killed_broker_lost_is_owed_no_more_but_what_one_receiver_got_is_owed_to_all() {
        let (oracle, uplinks) = oracle_with(3);
        oracle.arrive(HUB, uplinks[1], 0);
        assert_eq!(oracle.take_back_unseen(2), 2);
        assert_eq!(oracle.missing(10), vec![Missing { uplink: uplinks[1], duty: ARCHIVE }]);
        assert_eq!((oracle.figures(HUB).num_open, oracle.figures(ARCHIVE).num_open), (0, 1));
    }

    #[test]
    fn a_refusal_settles_once_and_does_not_count_as_an_arrival() {
        let (oracle, uplinks) = oracle_with(2);
        oracle.refuse(HUB, uplinks[0], 0);
        oracle.refuse(HUB, uplinks[0], 0);
        oracle.arrive(HUB, uplinks[1], 0);
        let f = oracle.figures(HUB);
        assert_eq!((f.num_refused, f.num_first, f.num_open, f.num_out_of_order), (1, 1, 0, 0));
    }

    #[test]
    fn every_fault_of_a_toy_engine_is_caught_and_nothing_else() {
        // A fake engine that drops every 7th, repeats every 11th and swaps every 13th delivery with the one after it.
        let (oracle, uplinks) = oracle_with(1000);
        let mut out = uplinks.clone();
        for i in (0..out.len() - 1).step_by(13) {
            out.swap(i, i + 1);
        }
        let (mut num_dropped, mut num_repeated) = (0, 0);
        for (i, uplink) in out.iter().enumerate() {
            if i % 7 == 3 {
                num_dropped += 1;
                continue;
            }
            oracle.arrive(HUB, *uplink, 0);
            if i % 11 == 5 {
                num_repeated += 1;
                oracle.arrive(HUB, *uplink, 0);
            }
        }
        let swapped_and_both_there = (0..out.len() - 1).step_by(13).filter(|i| i % 7 != 3 && (i + 1) % 7 != 3).count();
        let f = oracle.figures(HUB);
        assert_eq!(f.num_open, num_dropped);
        assert_eq!(f.num_repeated, num_repeated);
        assert_eq!(f.num_out_of_order, swapped_and_both_there as u64);
        assert_eq!(f.num_unexpected, 0);
    }

    #[test]
    fn what_was_sent_before_things_settled_counts_for_loss_and_not_for_latency() {
        let oracle = Oracle::new(1, 1, |_| 1);
        oracle.keep_latency_from(1_000);
        let (early, late) = (oracle.send(0, 999), oracle.send(0, 1_000));
        oracle.accept(early);
        oracle.accept(late);
        assert_eq!(oracle.figures(HUB).num_open, 2);
        oracle.arrive(HUB, early, 900_000);
        oracle.arrive(HUB, late, 1_007);
        assert_eq!(oracle.figures(HUB).num_first, 2);
        let latencies = oracle.latencies_us([HUB]);
        assert_eq!((latencies.len(), latencies.max()), (1, 7));
    }
}
