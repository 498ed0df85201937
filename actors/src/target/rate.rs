//! Deliveries per second to one target, at most: a token bucket that holds a tenth of a second's worth. Pure: no clock.
//!
//! In integers (thousandths of a token), so that no rounding adds up over months. A burst is a tenth of the rate and one
//! more; a receiver never sees more than `rate + rate / 10 + 1` within any second.

/// The rate limit of one target; without a rate everything passes.
#[derive(Debug, Default)]
pub struct RateLimit {
    rate_per_second: Option<u32>,
    milli_tokens: i64,
    filled_at_ms: Option<i64>,
}

impl RateLimit {
    /// A limit that starts full.
    pub fn new(rate_per_second: Option<u32>) -> Self {
        let mut limit = Self { rate_per_second: rate_per_second.map(|rate| rate.max(1)), ..Self::default() };
        limit.milli_tokens = limit.milli_tokens_max();
        limit
    }

    fn milli_tokens_max(&self) -> i64 {
        self.rate_per_second.map_or(0, |rate| i64::from(rate) * 100 + 1_000)
    }

    fn fill(&mut self, now_ms: i64) {
        let Some(rate) = self.rate_per_second else { return };
        let elapsed_ms = now_ms - self.filled_at_ms.unwrap_or(now_ms);
        self.filled_at_ms = Some(self.filled_at_ms.unwrap_or(now_ms).max(now_ms));
        let filled = self.milli_tokens.saturating_add(elapsed_ms.max(0).saturating_mul(i64::from(rate)));
        self.milli_tokens = filled.min(self.milli_tokens_max());
    }

    /// Whether one may go now; if so it is counted.
    pub fn try_take(&mut self, now_ms: i64) -> bool {
        if self.rate_per_second.is_none() {
            return true;
        }
        self.fill(now_ms);
        let is_allowed = self.milli_tokens >= 1_000;
        if is_allowed {
            self.milli_tokens -= 1_000;
        }
        is_allowed
    }

    /// When the next one may go.
    pub fn next_at_ms(&self, now_ms: i64) -> i64 {
        let Some(rate) = self.rate_per_second else { return now_ms };
        let missing = (1_000 - self.milli_tokens).max(0);
        let filled_at_ms = self.filled_at_ms.unwrap_or(now_ms);
        filled_at_ms + (missing + i64::from(rate) - 1) / i64::from(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_rate_everything_passes() {
        let mut limit = RateLimit::new(None);
        assert!((0..10_000).all(|_| limit.try_take(0)));
    }

    #[test]
    fn a_rate_is_kept_over_minutes_to_the_last_one() {
        let mut limit = RateLimit::new(Some(7));
        let (mut now, mut num_taken) = (0, 0);
        while now < 600_000 {
            if limit.try_take(now) {
                num_taken += 1;
            } else {
                now = limit.next_at_ms(now);
            }
        }
        assert!((4_200..=4_201).contains(&num_taken), "{num_taken}");
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_the_rate_and_its_burst(
            rate in 1u32..200,
            waits in proptest::collection::vec(0i64..40, 1..400),
        ) {
            let mut limit = RateLimit::new(Some(rate));
            let (mut now, mut taken) = (0, Vec::new());
            for wait in waits {
                now += wait;
                while limit.try_take(now) {
                    taken.push(now);
                }
                prop_assert!(limit.next_at_ms(now) > now);
            }
            for (i, at) in taken.iter().enumerate() {
                let num_within = taken[i..].iter().take_while(|other| **other < at + 1_000).count();
                prop_assert!(num_within <= (rate + rate / 10 + 1) as usize, "{num_within}");
            }
        }
    }
}
