//! The wall clock of the log's writer: Unix milliseconds, for retention by age only.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now. A clock before 1970 counts as 1970, so that nothing is trimmed by it.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
