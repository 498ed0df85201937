//! What an error of PostgreSQL means for its caller: try again later, or never.
//!
//! Refused for good are SQLSTATE classes 22 (data), 23 (constraints) and 54 (limits): there, bisecting finds the bad row.
//! Everything else (away, overloaded, read-only after a failover, a bug in a statement) is "later": nothing was written, the
//! log keeps what the rows will say, and the figures that stand still are an alarm.

use sluse_schema::port::StoreError;

/// An error inside a unit of work, before it is told to a caller.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// From the server or the connection.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// Already in the port's words.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WorkError {
    /// Whether the data itself was refused, so that trying the same again cannot help.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Postgres(error) => is_refused(error),
            Self::Store(error) => matches!(error, StoreError::Refused(_)),
        }
    }
}

impl From<WorkError> for StoreError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Postgres(error) => store_error(&error),
            WorkError::Store(error) => error,
        }
    }
}

/// Whether PostgreSQL refused the data itself.
pub fn is_refused(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => matches!(code.code().get(..2), Some("22" | "23" | "54")),
        // What cannot be sent as the type of its column never reaches the server.
        None => {
            !error.is_closed() && std::error::Error::source(error).is_some_and(|source| !source.is::<std::io::Error>())
        }
    }
}

/// The port's error for this one. A server's message may quote data of a row; the code and the message's first part suffice.
pub fn store_error(error: &tokio_postgres::Error) -> StoreError {
    if is_refused(error) { StoreError::Refused(describe(error)) } else { StoreError::Unavailable(describe(error)) }
}

/// The error with its causes on one line, without `DETAIL` (which quotes row data).
pub fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    if let Some(db) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
