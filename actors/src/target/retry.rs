//! When a record that failed is tried again, and when it has failed often enough. Pure: no clock, no randomness of its own.
//!
//! Limits: waits double from 1 s to 2 min, jittered over their upper half, or as long as the receiver asks, an hour at most
//! (a hostile `Retry-After` must not park a record for ever). A record is exhausted after [`NUM_FAILURES_MAX`] failures over
//! [`EXHAUSTED_AFTER_MS`] *while others succeed*: a failure counts only when the target took something else since the one before,
//! so that an outage of the receiver exhausts nothing.

use std::time::Duration;

use crate::supervise::Backoff;

/// Failures that count, until a record is a dead letter.
pub const NUM_FAILURES_MAX: u32 = 10;
/// And over at least this long.
pub const EXHAUSTED_AFTER_MS: i64 = 15 * 60 * 1000;
/// The longest wait that a receiver may ask for.
pub const RETRY_AFTER_MS_MAX: i64 = 60 * 60 * 1000;

const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(120) };

/// How a record's tries went so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryState {
    /// Tries that had an answer or failed; what the dead letter says.
    pub num_attempts: u32,
    num_transient: u32,
    num_counted: u32,
    first_failed_at_ms: i64,
    num_successes_seen: u64,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try again at this time.
    At(i64),
    /// It failed again and again while others succeeded: a dead letter.
    Exhausted,
}

impl RetryState {
    /// An attempt that says nothing about the record's own chances.
    pub fn on_misconfigured(&mut self) {
        self.num_attempts = self.num_attempts.saturating_add(1);
    }

    /// The record failed for now. `num_successes` is what the target took so far, whatever record it was.
    pub fn on_transient(&mut self, now_ms: i64, num_successes: u64, retry_after_ms: Option<u64>, jitter: f64) -> Retry {
        self.num_attempts = self.num_attempts.saturating_add(1);
        self.num_transient = self.num_transient.saturating_add(1);
        if self.num_transient == 1 {
            self.first_failed_at_ms = now_ms;
            self.num_counted = 1;
        } else if num_successes > self.num_successes_seen {
            self.num_counted += 1;
        }
        self.num_successes_seen = num_successes;
        if self.num_counted >= NUM_FAILURES_MAX && now_ms - self.first_failed_at_ms >= EXHAUSTED_AFTER_MS {
            return Retry::Exhausted;
        }
        let backoff_ms = BACKOFF.delay(self.num_transient, jitter).as_millis() as i64;
        Retry::At(now_ms + backoff_ms.max(capped_retry_after_ms(retry_after_ms)))
    }
}

/// How long the receiver asked for, capped; 0 when it did not.
pub fn capped_retry_after_ms(retry_after_ms: Option<u64>) -> i64 {
    retry_after_ms.map_or(0, |ms| i64::try_from(ms).unwrap_or(RETRY_AFTER_MS_MAX).min(RETRY_AFTER_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_exhausted_after_ten_failures_over_fifteen_minutes_while_others_succeed() {
        let (mut state, mut now, mut num_failures) = (RetryState::default(), 0, 0);
        let exhausted_at = loop {
            num_failures += 1;
            match state.on_transient(now, num_failures, None, 0.5) {
                Retry::At(at) => now = at,
                Retry::Exhausted => break now,
            }
        };
        assert!(num_failures >= u64::from(NUM_FAILURES_MAX));
        assert!((EXHAUSTED_AFTER_MS..EXHAUSTED_AFTER_MS + 120_000).contains(&exhausted_at), "{exhausted_at}");
    }

    #[test]
    fn an_outage_in_which_nothing_succeeds_exhausts_nothing() {
        let (mut state, mut now) = (RetryState::default(), 0);
        for _ in 0..1_000 {
            match state.on_transient(now, 42, None, 0.5) {
                Retry::At(at) => now = at,
                Retry::Exhausted => panic!("after {now} ms"),
            }
        }
    }

    #[test]
    fn the_receivers_wish_is_honoured_within_an_hour() {
        let mut state = RetryState::default();
        assert_eq!(state.on_transient(0, 0, Some(90_000), 0.0), Retry::At(90_000));
        assert_eq!(state.on_transient(0, 0, Some(u64::MAX), 0.0), Retry::At(RETRY_AFTER_MS_MAX));
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds_and_agree_with_a_naive_count(
            steps in proptest::collection::vec((any::<bool>(), 0.0f64..1.0), 1..60),
        ) {
            let (mut state, mut now, mut num_successes) = (RetryState::default(), 5_000i64, 0u64);
            let mut failures: Vec<(i64, u64)> = Vec::new();
            for (others_succeed, jitter) in steps {
                num_successes += u64::from(others_succeed);
                failures.push((now, num_successes));
                let num_counted = 1 + failures.windows(2).filter(|pair| pair[1].1 > pair[0].1).count();
                let is_exhausted = num_counted >= 10 && now - failures[0].0 >= EXHAUSTED_AFTER_MS;
                match state.on_transient(now, num_successes, None, jitter) {
                    Retry::Exhausted => {
                        prop_assert!(is_exhausted);
                        break;
                    }
                    Retry::At(at) => {
                        prop_assert!(!is_exhausted);
                        prop_assert!((500..=120_000).contains(&(at - now)));
                        now = at;
                    }
                }
            }
        }
    }
}
