//! `Retry-After` (RFC 9110, 10.2.3): seconds, or a date. Pure: `now` is an argument. Capped, because a receiver that asks for a
//! year must not park its deliveries for one.

/// Longest wait that is honoured, milliseconds.
pub const RETRY_AFTER_MS_MAX: u64 = 60 * 60 * 1000;

/// The wait that `value` asks for, in milliseconds; `None` for what is neither a number of seconds nor a date.
pub fn parse_ms(value: &str, now_ms: i64) -> Option<u64> {
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let wait_ms = if is_number {
        value.parse::<u64>().map_or(u64::MAX, |seconds| seconds.saturating_mul(1000))
    } else {
        let at_ms = chrono::DateTime::parse_from_rfc2822(value).ok()?.timestamp_millis();
        u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0)
    };
    Some(wait_ms.min(RETRY_AFTER_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_445_412_420_000; // Wed, 21 Oct 2015 07:27:00 GMT

    #[test]
    fn seconds_and_dates_are_read() {
        assert_eq!(parse_ms("120", NOW_MS), Some(120_000));
        assert_eq!(parse_ms(" 0 ", NOW_MS), Some(0));
        assert_eq!(parse_ms("Wed, 21 Oct 2015 07:28:00 GMT", NOW_MS), Some(60_000));
        assert_eq!(parse_ms("Wed, 21 Oct 2015 07:26:00 GMT", NOW_MS), Some(0));
    }

    #[test]
    fn nonsense_is_nothing_and_long_waits_are_capped() {
        for nonsense in ["", "soon", "-5", "1.5", "21 Oct"] {
            assert_eq!(parse_ms(nonsense, NOW_MS), None, "{nonsense:?}");
        }
        for long in ["99999999", "999999999999999999999999", "Wed, 21 Oct 2099 07:28:00 GMT"] {
            assert_eq!(parse_ms(long, NOW_MS), Some(RETRY_AFTER_MS_MAX), "{long}");
        }
    }
}
