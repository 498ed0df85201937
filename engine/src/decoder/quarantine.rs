//! When a decoder is not even tried: after it got its worker killed too often, or while it is over its share of time. Pure: `now`
//! is an argument, in milliseconds of any clock that does not go back.
//!
//! Two rules per decoder:
//! * **Kills.** [`QuarantineConfig::num_kills_max`] kills within [`QuarantineConfig::kill_window_ms`] put it in quarantine for a
//!   backoff that doubles each time. After its release one more kill is enough. `forget` (the decoder was edited) clears everything.
//! * **Share of time.** What a message takes beyond [`QuarantineConfig::fair_us`] is excess. When the excess of the last
//!   [`QuarantineConfig::time_window_ms`] is over [`QuarantineConfig::excess_us_max`], messages are refused until enough of it has
//!   left the window. A busy but ordinary decoder has no excess, however many messages it gets.
//!
//! What others feel of it (I6): a step of a partition is the finished prefix of its log, so a burst of one decoder holds up the devices
//! behind it for as long as the burst takes, and that is bounded by the second rule: with t per message, by
//! `excess_us_max / (t - fair_us)` messages within the window. A smaller allowance would turn bursts of honest slow decoders (250
//! messages of 8 ms on the hour) into dead letters, which is worse than a delay of 2 s.

use std::collections::VecDeque;

/// Slices of the time window; refusals end in steps of a tenth of it.
const NUM_SLICES: i64 = 10;

/// The numbers behind the two rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineConfig {
    pub num_kills_max: usize,
    pub kill_window_ms: i64,
    /// The first quarantine; each further one doubles it.
    pub backoff_ms: i64,
    pub backoff_ms_max: i64,
    /// What any message may take of a processor, in microseconds, without counting.
    pub fair_us: u64,
    pub time_window_ms: i64,
    /// Excess allowed within the window: a quarter of one worker.
    pub excess_us_max: u64,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            num_kills_max: 3,
            kill_window_ms: 10 * 60_000,
            backoff_ms: 60_000,
            backoff_ms_max: 60 * 60_000,
            fair_us: 2_000,
            time_window_ms: 10_000,
            excess_us_max: 2_500_000,
        }
    }
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Quarantined { until_ms: i64 },
    OverBudget,
}

/// What is remembered of one decoder.
#[derive(Clone, Debug, Default)]
pub struct Health {
    kills_at_ms: VecDeque<i64>,
    quarantined_until_ms: Option<i64>,
    /// How often it was quarantined since it was last forgotten.
    num_quarantines: u32,
    /// Excess per slice of time, oldest first: slice number and microseconds.
    excess: VecDeque<(i64, u64)>,
}

impl Health {
    /// Whether a message may be tried now.
    pub fn check(&mut self, config: &QuarantineConfig, now_ms: i64) -> Result<(), Refusal> {
        if let Some(until_ms) = self.quarantined_until_ms {
            if now_ms < until_ms {
                return Err(Refusal::Quarantined { until_ms });
            }
            self.quarantined_until_ms = None;
        }
        self.expire(config, now_ms);
        if self.excess.iter().map(|(_, us)| us).sum::<u64>() > config.excess_us_max {
            return Err(Refusal::OverBudget);
        }
        Ok(())
    }

    /// A message took so much of a processor. Time by the clock would make every decoder of a busy machine look slow.
    pub fn took(&mut self, config: &QuarantineConfig, now_ms: i64, us: u64) {
        let Some(excess) = us.checked_sub(config.fair_us).filter(|e| *e > 0) else { return };
        self.expire(config, now_ms);
        let slice = now_ms.div_euclid(config.slice_ms());
        match self.excess.back_mut() {
            Some((last, sum)) if *last >= slice => *sum += excess,
            _ => self.excess.push_back((slice, excess)),
        }
    }

    /// A message got its worker killed. Says whether the decoder is now quarantined.
    pub fn killed(&mut self, config: &QuarantineConfig, now_ms: i64) -> bool {
        self.kills_at_ms.push_back(now_ms);
        while self.kills_at_ms.front().is_some_and(|at| *at <= now_ms - config.kill_window_ms) {
            self.kills_at_ms.pop_front();
        }
        // Out on parole: one kill is enough until the window has passed in peace.
        let enough = if self.num_quarantines > 0 { 1 } else { config.num_kills_max };
        if self.kills_at_ms.len() < enough {
            return false;
        }
        let backoff_ms =
            config.backoff_ms.saturating_mul(1i64 << self.num_quarantines.min(30)).min(config.backoff_ms_max);
        self.quarantined_until_ms = Some(now_ms + backoff_ms);
        self.num_quarantines += 1;
        self.kills_at_ms.clear();
        true
    }

    /// Whether there is nothing worth remembering.
    pub fn is_clean(&self) -> bool {
        self.kills_at_ms.is_empty() && self.num_quarantines == 0 && self.excess.is_empty()
    }

    fn expire(&mut self, config: &QuarantineConfig, now_ms: i64) {
        let oldest = (now_ms - config.time_window_ms).div_euclid(config.slice_ms());
        while self.excess.front().is_some_and(|(slice, _)| *slice <= oldest) {
            self.excess.pop_front();
        }
    }
}

impl QuarantineConfig {
    fn slice_ms(&self) -> i64 {
        (self.time_window_ms / NUM_SLICES).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: QuarantineConfig = QuarantineConfig {
        num_kills_max: 3,
        kill_window_ms: 600_000,
        backoff_ms: 60_000,
        backoff_ms_max: 3_600_000,
        fair_us: 2_000,
        time_window_ms: 10_000,
        excess_us_max: 2_500_000,
    };

    #[test]
    fn the_third_kill_within_the_window_quarantines() {
        let mut health = Health::default();
        assert!(!health.killed(&CONFIG, 0));
        assert!(!health.killed(&CONFIG, 1_000));
        assert_eq!(health.check(&CONFIG, 1_500), Ok(()));
        assert!(health.killed(&CONFIG, 2_000));
        assert_eq!(health.check(&CONFIG, 61_999), Err(Refusal::Quarantined { until_ms: 62_000 }));
        assert_eq!(health.check(&CONFIG, 62_000), Ok(()));
    }

    #[test]
    fn kills_far_apart_are_forgiven() {
        let mut health = Health::default();
        for at in 0..10 {
            assert!(!health.killed(&CONFIG, at * 400_000), "{at}");
        }
    }

    #[test]
    fn after_release_one_kill_is_enough_and_the_backoff_doubles_up_to_its_cap() {
        let mut health = Health::default();
        let mut now = 0;
        for _ in 0..3 {
            health.killed(&CONFIG, now);
        }
        for expected_ms in [120_000, 240_000, 480_000, 960_000, 1_920_000, 3_600_000, 3_600_000] {
            now += 3_600_000;
            assert_eq!(health.check(&CONFIG, now), Ok(()));
            assert!(health.killed(&CONFIG, now));
            assert_eq!(health.check(&CONFIG, now), Err(Refusal::Quarantined { until_ms: now + expected_ms }));
        }
    }

    #[test]
    fn an_ordinary_decoder_is_never_over_budget_however_busy() {
        let mut health = Health::default();
        for message in 0..1_000_000 {
            health.took(&CONFIG, message / 100, 1_900);
        }
        assert_eq!(health.check(&CONFIG, 10_000), Ok(()));
        assert!(health.is_clean());
    }

    #[test]
    fn a_slow_decoder_is_refused_until_its_excess_has_left_the_window() {
        let mut health = Health::default();
        let mut refused_at = None;
        for message in 0..200 {
            let now = message * 20;
            if health.check(&CONFIG, now).is_err() {
                refused_at = Some(now);
                break;
            }
            health.took(&CONFIG, now, 20_000);
        }
        let refused_at = refused_at.expect("20 ms per message is over any share");
        assert!((2_700..3_000).contains(&refused_at), "{refused_at}");
        assert_eq!(health.check(&CONFIG, refused_at + 100), Err(Refusal::OverBudget));
        assert_eq!(health.check(&CONFIG, 11_100), Ok(()));
    }

    proptest! {
        /// However messages come, the excess that was let through in any window is bounded by the limit and one message.
        #[test]
        fn excess_let_through_is_bounded(costs in prop::collection::vec((0i64..50, 0u64..100_000), 1..2_000)) {
            let mut health = Health::default();
            let mut now = 0;
            let mut through: Vec<(i64, u64)> = Vec::new();
            for (step, us) in costs {
                now += step;
                if health.check(&CONFIG, now).is_ok() {
                    health.took(&CONFIG, now, us);
                    through.push((now, us.saturating_sub(CONFIG.fair_us)));
                    // Slices make the window up to a tenth shorter.
                    let window: u64 = through.iter().filter(|(at, _)| *at > now - 9_000).map(|(_, e)| e).sum();
                    prop_assert!(window <= CONFIG.excess_us_max + 100_000);
                }
            }
        }
    }
}
