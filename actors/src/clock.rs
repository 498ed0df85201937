//! Wall-clock time as the data path writes it: Unix milliseconds. Durations and timers use tokio's clock, which tests pause.

/// Now, Unix milliseconds.
pub fn now_ms() -> i64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(unix_ms) = crate::testing::seeded::unix_ms() {
        return unix_ms;
    }
    chrono::Utc::now().timestamp_millis()
}
