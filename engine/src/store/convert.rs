//! Numbers, times and positions between Rust and PostgreSQL, which knows no unsigned ones.

use chrono::{DateTime, SecondsFormat, Utc};
use sluse_schema::record::{LogIdentity, Offset, Position};
use tokio_postgres::Row;

/// Unix milliseconds as a time; `None` beyond what a time can be.
pub fn time(at_ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(at_ms)
}

/// A time as the API writes it: `2026-11-22T13:25:33.088Z`.
pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A count or offset for a `bigint`; none of ours comes near the end of it.
pub fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A `bigint` that counts something.
pub fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A position from `log_store`, `log_incarnation`, `log_offset`, which stand side by side from column `at` on.
pub fn position(row: &Row, at: usize) -> Option<Position> {
    let (store, incarnation, offset): (Option<String>, Option<i64>, Option<i64>) =
        (row.get(at), row.get(at + 1), row.get(at + 2));
    Some(Position {
        log: LogIdentity { store: store?, incarnation: count(incarnation?) },
        offset: Offset(count(offset?)),
    })
}
