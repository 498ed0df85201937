//! The circuit breaker of one target: when to stop trying everything, and with what to find out that it works again.
//! Pure: no clock, no randomness of its own.
//!
//! It opens at the first answer that says the target's configuration is wrong, and after [`NUM_FAILURES_MAX`] failures in a row
//! that more than one device met, or [`NUM_FAILURES_ALONE_MAX`] of one device (a message that cannot be delivered must not stop
//! the others). While it is open one probe at a time goes out, each of another device where there is one.

use std::time::Duration;

use sluse_schema::delivery::AttemptClass;
use sluse_schema::id::DeviceId;
use sluse_schema::target::BreakerState;

use crate::supervise::Backoff;

/// Failures in a row, of two devices or more, that open the breaker.
pub const NUM_FAILURES_MAX: u32 = 5;
/// Failures in a row that open the breaker when they are all of one device.
pub const NUM_FAILURES_ALONE_MAX: u32 = 10;

/// How long it stays open before the next probe when the receiver is down: it comes back by itself.
const BACKOFF_DOWN: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };
/// The same when the configuration is wrong: somebody has to mend it, at the receiver or here (which resets the breaker).
const BACKOFF_MISCONFIGURED: Backoff = Backoff { base: Duration::from_secs(4), max: Duration::from_secs(60) };

#[derive(Debug)]
enum State {
    Closed,
    Open { probe_at_ms: i64 },
    HalfOpen { is_probing: bool },
}

/// Whether something may be tried now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Anything.
    Any,
    /// One delivery, of another device than this one if there is one.
    Probe(Option<DeviceId>),
    /// Nothing.
    No,
}

/// The breaker of one target.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    num_failures: u32,
    /// The device of the failures so far; `None` once there were two.
    failed_alone: Option<DeviceId>,
    num_opened: u32,
    last_probed: Option<DeviceId>,
    reason: Option<String>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            num_failures: 0,
            failed_alone: None,
            num_opened: 0,
            last_probed: None,
            reason: None,
        }
    }
}

impl Breaker {
    /// What may be tried at `now_ms`. An open breaker whose time has come is half open from here on.
    pub fn permit(&mut self, now_ms: i64) -> Permit {
        match self.state {
            State::Closed => Permit::Any,
            State::Open { probe_at_ms } if now_ms >= probe_at_ms => {
                self.state = State::HalfOpen { is_probing: false };
                Permit::Probe(self.last_probed)
            }
            State::HalfOpen { is_probing: false } => Permit::Probe(self.last_probed),
            State::Open { .. } | State::HalfOpen { is_probing: true } => Permit::No,
        }
    }

    /// A probe goes out. Answers whether the try that starts is one.
    pub fn start(&mut self, device: DeviceId) -> bool {
        match &mut self.state {
            State::HalfOpen { is_probing } => {
                *is_probing = true;
                self.last_probed = Some(device);
                true
            }
            State::Closed | State::Open { .. } => false,
        }
    }

    /// A probe ended without an answer: it was cancelled.
    pub fn cancel_probe(&mut self) {
        if let State::HalfOpen { is_probing } = &mut self.state {
            *is_probing = false;
        }
    }

    /// The receiver answered a try as a receiver that works does: it took the message, or refused this one for good.
    pub fn on_success(&mut self, is_probe: bool) {
        match self.state {
            State::Closed => self.num_failures = 0,
            State::HalfOpen { .. } if is_probe => *self = Self::default(),
            // What was under way when it opened says little about now.
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    /// A try failed. `retry_after_ms` is how long the receiver asked to be left alone; `jitter` is uniform in `0.0..1.0`.
    pub fn on_failure(&mut self, now_ms: i64, failure: Failure<'_>, is_probe: bool, jitter: f64) {
        let is_misconfigured = failure.class == AttemptClass::Misconfigured;
        match self.state {
            State::Closed => {
                self.failed_alone = if self.num_failures == 0 || self.failed_alone == Some(failure.device) {
                    Some(failure.device)
                } else {
                    None
                };
                self.num_failures += 1;
                let num_max = if self.failed_alone.is_some() { NUM_FAILURES_ALONE_MAX } else { NUM_FAILURES_MAX };
                if !is_misconfigured && self.num_failures < num_max {
                    return;
                }
                self.last_probed = Some(failure.device);
            }
            State::HalfOpen { .. } if is_probe => {}
            State::Open { .. } | State::HalfOpen { .. } => return,
        }
        self.num_opened = self.num_opened.saturating_add(1);
        let backoff = if is_misconfigured { BACKOFF_MISCONFIGURED } else { BACKOFF_DOWN };
        let period_ms = backoff.delay(self.num_opened, jitter).as_millis() as i64;
        self.state = State::Open { probe_at_ms: now_ms + period_ms.max(failure.retry_after_ms) };
        self.reason = Some(failure.reason.to_owned());
    }

    /// The configuration changed: what was learnt holds no more.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// For people.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Why it is not closed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// When an open breaker lets the next probe through.
    pub fn probe_at_ms(&self) -> Option<i64> {
        match self.state {
            State::Open { probe_at_ms } => Some(probe_at_ms),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }
}

/// A failed try, as far as the breaker looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub class: AttemptClass,
    pub device: DeviceId,
    /// How long the receiver asked to be left alone, 0 when it did not.
    pub retry_after_ms: i64,
    pub reason: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failure(class: AttemptClass, device: i64) -> Failure<'static> {
        Failure { class, device: DeviceId(device), retry_after_ms: 0, reason: "it says no" }
    }

    #[test]
    fn one_answer_of_wrong_configuration_opens_it_and_the_reason_is_kept() {
        let mut breaker = Breaker::default();
        breaker.on_failure(0, failure(AttemptClass::Misconfigured, 1), false, 0.0);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.reason(), Some("it says no"));
        assert_eq!(breaker.permit(0), Permit::No);
    }

    #[test]
    fn failures_in_a_row_open_it_sooner_when_more_than_one_device_met_them() {
        for (devices, num_expected) in [(2, NUM_FAILURES_MAX), (1, NUM_FAILURES_ALONE_MAX)] {
            let mut breaker = Breaker::default();
            let mut num_failures = 0;
            while breaker.state() == BreakerState::Closed {
                breaker.on_failure(0, failure(AttemptClass::Transient, i64::from(num_failures) % devices), false, 0.0);
                num_failures += 1;
            }
            assert_eq!(num_failures, num_expected);
        }
    }

    #[test]
    fn a_success_in_between_keeps_it_closed() {
        let mut breaker = Breaker::default();
        for i in 0..100 {
            breaker.on_failure(0, failure(AttemptClass::Transient, i), false, 0.0);
            if i % 4 == 3 {
                breaker.on_success(false);
            }
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn probes_go_out_one_at_a_time_and_ask_for_another_device() {
        let mut breaker = Breaker::default();
        breaker.on_failure(0, failure(AttemptClass::Misconfigured, 7), false, 0.0);
        assert_eq!(breaker.permit(60_000), Permit::Probe(Some(DeviceId(7))));
        assert!(breaker.start(DeviceId(8)));
        assert_eq!(breaker.permit(60_000), Permit::No);
        breaker.on_failure(60_000, failure(AttemptClass::Transient, 8), true, 0.0);
        assert_eq!(breaker.permit(180_000), Permit::Probe(Some(DeviceId(8))));
        assert!(breaker.start(DeviceId(9)));
        breaker.on_success(true);
        assert_eq!((breaker.state(), breaker.permit(180_000)), (BreakerState::Closed, Permit::Any));
    }

    #[test]
    fn it_stays_open_as_long_as_the_receiver_asked() {
        let mut breaker = Breaker::default();
        let asked = Failure { retry_after_ms: 300_000, ..failure(AttemptClass::Misconfigured, 1) };
        breaker.on_failure(1_000, asked, false, 0.0);
        assert_eq!(breaker.probe_at_ms(), Some(301_000));
    }

    proptest! {
        /// The breaker against one sentence each: never open without a reason, never two probes, periods within their bounds.
        #[test]
        fn holds_its_rules_whatever_comes(steps in proptest::collection::vec((0u8..4, 0i64..3, 0i64..90_000), 1..200)) {
            let mut breaker = Breaker::default();
            let (mut now, mut probing): (i64, Option<i64>) = (0, None);
            for (action, device, wait) in steps {
                now += wait;
                match action {
                    0 => match breaker.permit(now) {
                        Permit::Any => prop_assert!(!breaker.start(DeviceId(device))),
                        Permit::Probe(_) => {
                            prop_assert!(probing.is_none(), "two probes");
                            prop_assert!(breaker.start(DeviceId(device)));
                            probing = Some(device);
                        }
                        Permit::No => prop_assert!(probing.is_some() || breaker.state() == BreakerState::Open),
                    },
                    1 => match probing.take() {
                        Some(_) => {
                            breaker.on_success(true);
                            prop_assert_eq!(breaker.state(), BreakerState::Closed);
                        }
                        None => {
                            let before = breaker.state();
                            breaker.on_success(false);
                            prop_assert_eq!(breaker.state(), before);
                        }
                    },
                    _ => {
                        let class = if action == 2 { AttemptClass::Misconfigured } else { AttemptClass::Transient };
                        let is_probe = probing.take().is_some();
                        let before = breaker.state();
                        breaker.on_failure(now, failure(class, device), is_probe, 0.5);
                        if is_probe || (before == BreakerState::Closed && class == AttemptClass::Misconfigured) {
                            let probe_at = breaker.probe_at_ms().unwrap();
                            prop_assert!(probe_at >= now + 500 && probe_at <= now + 60_000);
                        }
                    }
                }
                prop_assert_eq!(breaker.state() == BreakerState::Closed, breaker.reason().is_none());
            }
        }
    }
}
