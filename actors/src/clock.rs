//! Wall-clock time as the data path writes it: Unix milliseconds. Durations and timers use tokio's clock, which tests pause.

/// Now, Unix milliseconds.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
