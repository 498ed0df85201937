//! Durations in the words of vercel/ms, which OS2iot's `JWT_EXPIRESIN` is written in: `9h`, `30m`, `1.5 days`. A number alone is
//! seconds: read as milliseconds, as the package would, it could only be a mistake.

use std::time::Duration;

/// The duration that a text means.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "milliseconds" | "millisecond" | "msecs" | "msec" | "ms" => 0.001,
        "" | "seconds" | "second" | "secs" | "sec" | "s" => 1.0,
        "minutes" | "minute" | "mins" | "min" | "m" => 60.0,
        "hours" | "hour" | "hrs" | "hr" | "h" => 3600.0,
        "days" | "day" | "d" => 24.0 * 3600.0,
        "weeks" | "week" | "w" => 7.0 * 24.0 * 3600.0,
        "years" | "year" | "yrs" | "yr" | "y" => 365.25 * 24.0 * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_reference_reads_them() {
        for (text, seconds) in [
            ("9h", 9 * 3600),
            ("30m", 1800),
            ("1.5 days", 36 * 3600),
            ("2 Hrs", 7200),
            ("3600", 3600),
            ("90s", 90),
            ("1w", 7 * 24 * 3600),
            ("60000ms", 60),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "h", "-1h", "9 fortnights", "1.2.3h", "1e3"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
