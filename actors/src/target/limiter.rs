//! How many deliveries may be in flight to one target: found by trying, below the configured maximum. Pure: no clock.
//!
//! Additive increase, multiplicative decrease over windows of at least [`WINDOW_MS`]: a window in which the limit was reached and
//! nothing failed raises it (doubling until the first decrease, by one after that); a failure, or a latency far above what is
//! usual for this receiver, cuts it. Latency counts only when it is both a multiple of the usual one and noticeably more, so that
//! a busy moment of our own machine does not throttle a receiver that answers in a millisecond.
//!
//! Nor is it raised further where more in flight only wait longer, with the receiver or with us: when an answer takes more than twice
//! what it takes with few in flight (the idea of TCP Vegas), the limit goes down a little instead. What it takes with few is measured
//! whenever the limit is at [`FEW`], below which this rule never lowers it: a receiver that has become slower is so found out, and gets
//! more again.

/// The shortest time that a window takes, milliseconds.
pub const WINDOW_MS: i64 = 50;
/// Where a limiter starts; so many are taken not to wait for each other.
const FEW: f64 = 8.0;
const CUT_AFTER_FAILURE: f64 = 0.5;
const CUT_AFTER_SLOWNESS: f64 = 0.8;
/// Slow: more than this multiple of the usual latency …
const SLOW_FACTOR: f64 = 2.0;
/// … and this many milliseconds more.
const SLOW_MS: f64 = 100.0;
/// Answers wait for each other: more than this multiple of the latency with few in flight …
const QUEUE_FACTOR: f64 = 2.0;
/// … and this many milliseconds more.
const QUEUE_MS: f64 = 2.0;
const LESS_FOR_QUEUEING: f64 = 0.95;
/// Fewer answers in a window say little about the latency with few in flight.
const NUM_TELLING: u32 = 8;
/// Weight of a new window in the usual latency.
const NEW_WEIGHT: f64 = 0.2;

/// The adaptive limit of one target.
#[derive(Debug)]
pub struct Limiter {
    limit: f64,
    max: f64,
    is_starting: bool,
    usual_ms: Option<f64>,
    /// Latency with few in flight.
    alone_ms: f64,
    /// The last decrease was for queueing.
    is_lowered: bool,
    window_at_ms: i64,
    num_answers: u32,
    sum_latency_ms: f64,
    has_failed: bool,
    was_reached: bool,
}

impl Limiter {
    /// A limiter that starts low.
    pub fn new(num_in_flight_max: u32) -> Self {
        let max = f64::from(num_in_flight_max.max(1));
        Self {
            limit: FEW.min(max),
            max,
            is_starting: true,
            usual_ms: None,
            alone_ms: f64::INFINITY,
            is_lowered: false,
            window_at_ms: i64::MIN,
            num_answers: 0,
            sum_latency_ms: 0.0,
            has_failed: false,
            was_reached: false,
        }
    }

    /// Deliveries that may be in flight now, at least one.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The configured maximum changed.
    pub fn set_max(&mut self, num_in_flight_max: u32) {
        self.max = f64::from(num_in_flight_max.max(1));
        self.limit = self.limit.min(self.max);
    }

    /// Something was ready and had to wait for the limit.
    pub fn mark_reached(&mut self) {
        self.was_reached = true;
    }

    /// A try ended after `latency_ms`; `is_overloaded` when it failed in a way that asks for fewer at once.
    pub fn on_answer(&mut self, now_ms: i64, latency_ms: i64, is_overloaded: bool) {
        if self.window_at_ms == i64::MIN {
            self.window_at_ms = now_ms;
        }
        self.num_answers += 1;
        self.sum_latency_ms += latency_ms.max(0) as f64;
        self.has_failed |= is_overloaded;
        let mean_ms = self.sum_latency_ms / f64::from(self.num_answers);
        // A window holds a round trip, so that what it judges was caused by the limit it judges.
        if now_ms - self.window_at_ms >= WINDOW_MS.max(mean_ms as i64) {
            self.end_window(now_ms, mean_ms);
        }
    }

    fn end_window(&mut self, now_ms: i64, mean_ms: f64) {
        self.note_alone(mean_ms);
        let is_slow = self.usual_ms.is_some_and(|usual| mean_ms > usual * SLOW_FACTOR && mean_ms > usual + SLOW_MS);
        if self.has_failed || is_slow {
            self.limit = (self.limit * if self.has_failed { CUT_AFTER_FAILURE } else { CUT_AFTER_SLOWNESS }).max(1.0);
            (self.is_starting, self.is_lowered) = (false, false);
        } else if self.was_reached && self.is_queueing(mean_ms) {
            self.limit = (self.limit * LESS_FOR_QUEUEING).max(FEW);
            (self.is_starting, self.is_lowered) = (false, true);
        } else if self.was_reached {
            self.limit = if self.is_starting { self.limit * 2.0 } else { self.limit + 1.0 }.min(self.max);
        }
        if !self.has_failed {
            // Slowness that stays becomes usual: the limit stops falling and creeps up again.
            self.usual_ms = Some(self.usual_ms.map_or(mean_ms, |usual| usual + (mean_ms - usual) * NEW_WEIGHT));
        }
        self.window_at_ms = now_ms;
        self.num_answers = 0;
        self.sum_latency_ms = 0.0;
        self.has_failed = false;
        self.was_reached = false;
    }

    fn note_alone(&mut self, mean_ms: f64) {
        if self.has_failed {
            return;
        }
        if self.limit < FEW + 1.0 {
            // It was lowered for a latency that is the receiver's own by now: back to where it was, quickly.
            self.is_starting |= std::mem::take(&mut self.is_lowered) && self.is_above(mean_ms);
            self.alone_ms = mean_ms;
        } else if self.num_answers >= NUM_TELLING {
            self.alone_ms = self.alone_ms.min(mean_ms);
        }
    }

    fn is_queueing(&self, mean_ms: f64) -> bool {
        self.limit > FEW && self.is_above(mean_ms)
    }

    fn is_above(&self, mean_ms: f64) -> bool {
        mean_ms > self.alone_ms * QUEUE_FACTOR + QUEUE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(limiter: &mut Limiter, now: &mut i64, num_windows: u32, latency_ms: i64, is_overloaded: bool) {
        for _ in 0..num_windows {
            for _ in 0..4 {
                limiter.mark_reached();
                *now += WINDOW_MS.max(latency_ms);
                limiter.on_answer(*now, latency_ms, is_overloaded);
            }
        }
    }

    #[test]
    fn a_fast_receiver_gets_all_that_is_allowed() {
        let (mut limiter, mut now) = (Limiter::new(64), 0);
        run(&mut limiter, &mut now, 5, 2, false);
        assert_eq!(limiter.limit(), 64);
    }

    #[test]
    fn a_failing_receiver_is_brought_down_to_one_and_recovers_step_by_step() {
        let (mut limiter, mut now) = (Limiter::new(64), 0);
        run(&mut limiter, &mut now, 5, 2, false);
        run(&mut limiter, &mut now, 10, 2, true);
        assert_eq!(limiter.limit(), 1);
        run(&mut limiter, &mut now, 2, 2, false);
        assert!((3..=10).contains(&limiter.limit()), "{}", limiter.limit());
    }

    #[test]
    fn a_receiver_that_slows_down_gets_less_at_once() {
        let (mut limiter, mut now) = (Limiter::new(64), 0);
        run(&mut limiter, &mut now, 5, 10, false);
        run(&mut limiter, &mut now, 1, 2_000, false);
        assert!(limiter.limit() < 64);
    }

    /// Runs windows against a receiver that takes `alone_ms` for an answer and works on `num_at_once` at a time; always loaded.
    fn load(limiter: &mut Limiter, now: &mut i64, num_windows: u32, alone_ms: i64, num_at_once: usize) {
        for _ in 0..num_windows {
            let latency_ms = alone_ms * limiter.limit().div_ceil(num_at_once) as i64;
            limiter.mark_reached();
            for _ in 1..limiter.limit() {
                limiter.on_answer(*now, latency_ms, false);
            }
            *now += WINDOW_MS.max(latency_ms);
            limiter.on_answer(*now, latency_ms, false);
        }
    }

    #[test]
    fn a_receiver_that_is_busy_is_not_given_more_to_queue() {
        let (mut limiter, mut now) = (Limiter::new(256), 0);
        load(&mut limiter, &mut now, 200, 5, 10);
        assert!((10..=40).contains(&limiter.limit()), "{}", limiter.limit());
        let (mut limiter, mut now) = (Limiter::new(256), 0);
        load(&mut limiter, &mut now, 200, 5, 100);
        assert!((100..=256).contains(&limiter.limit()), "{}", limiter.limit());
    }

    #[test]
    fn a_few_lucky_answers_are_not_taken_for_what_an_answer_takes() {
        let (mut limiter, mut now) = (Limiter::new(64), 0);
        load(&mut limiter, &mut now, 10, 40, 1_000);
        for _ in 0..3 {
            now += WINDOW_MS;
            limiter.on_answer(now, 1, false);
        }
        load(&mut limiter, &mut now, 10, 40, 1_000);
        assert_eq!(limiter.limit(), 64);
    }

    #[test]
    fn a_receiver_that_is_far_away_gets_all_that_is_allowed() {
        let (mut limiter, mut now) = (Limiter::new(256), 0);
        load(&mut limiter, &mut now, 20, 80, 1_000);
        assert_eq!(limiter.limit(), 256);
    }

    #[test]
    fn a_receiver_that_has_moved_far_away_gets_all_that_is_allowed_again() {
        let (mut limiter, mut now) = (Limiter::new(256), 0);
        load(&mut limiter, &mut now, 20, 1, 1_000);
        assert_eq!(limiter.limit(), 256);
        load(&mut limiter, &mut now, 100, 80, 1_000);
        assert_eq!(limiter.limit(), 256);
        assert!(now < 10_000, "{now} ms");
    }

    #[test]
    fn a_limit_that_was_never_reached_is_not_raised() {
        let mut limiter = Limiter::new(64);
        for now in 0..1_000 {
            limiter.on_answer(now * WINDOW_MS, 1, false);
        }
        assert_eq!(limiter.limit(), 8);
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_one_and_the_maximum(
            max in 1u32..100,
            answers in proptest::collection::vec((0i64..500, 0i64..5_000, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let (mut limiter, mut now) = (Limiter::new(max), 0);
            for (wait, latency, is_overloaded, is_reached) in answers {
                now += wait;
                if is_reached {
                    limiter.mark_reached();
                }
                limiter.on_answer(now, latency, is_overloaded);
                prop_assert!((1..=max as usize).contains(&limiter.limit()));
            }
        }
    }
}
