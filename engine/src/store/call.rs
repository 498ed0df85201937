//! One call of the store: its time limit, its figure, and a repeat by halves for data that PostgreSQL refuses.
//!
//! A flush is first tried as it is. When the data is refused (see `error`), it is tried once more with savepoints: a refused run
//! of rows is halved until the bad one stands alone, which is then written in a reduced form, or left out if even that is
//! refused. So one bad byte costs one row some of its detail, and never stops a partition.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use sluse_schema::port::StoreError;
use tokio::time::Instant;

use super::error::WorkError;
use super::pool::within;
use crate::metrics::{STORE_CALL_SECONDS, STORE_ROWS_REDUCED_TOTAL, STORE_ROWS_TOTAL};

/// Rows per statement: beyond this a statement takes longer, and no row gets cheaper.
pub const CHUNK_ROWS_MAX: usize = 1000;
/// Bytes per statement: PostgreSQL takes no message beyond 1 GiB, and bodies may be megabytes.
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// Runs one call within `limit` and records how long it took and how it ended.
///
/// # Errors
/// The work's, or [`StoreError::Unavailable`] when the time is over.
pub async fn call<T>(
    name: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, WorkError>>,
) -> Result<T, StoreError> {
    let started_at = Instant::now();
    let done = within(limit, work).await;
    let outcome = match &done {
        Ok(_) => "ok",
        Err(StoreError::Fenced { .. }) => "fenced",
        Err(StoreError::Refused(_)) => "refused",
        Err(StoreError::Unavailable(_)) => "unavailable",
    };
    metrics::histogram!(STORE_CALL_SECONDS, "call" => name, "outcome" => outcome)
        .record(started_at.elapsed().as_secs_f64());
    done
}

/// In which form rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are, and every row they belong to is taken to be there: one that is not makes PostgreSQL refuse the run.
    Trusting,
    /// As they are, without those that belong to a row that is gone.
    Whole,
    /// Without what PostgreSQL may refuse.
    Reduced,
}

/// How much is risked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Everything: a refusal ends the transaction.
    Fast,
    /// With savepoints, by halves.
    ByHalves,
}

/// Rows of one table that are written together.
#[async_trait]
pub trait Rows: Sync {
    /// For metrics and log lines.
    fn table(&self) -> &'static str;

    /// How many there are.
    fn num_rows(&self) -> usize;

    /// About how large the row is.
    fn num_bytes(&self, row: usize) -> usize;

    /// What a log line calls this row: an id, never its data.
    fn name(&self, row: usize) -> String;

    /// Writes a run of rows in one statement.
    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError>;
}

/// Writes all rows.
///
/// # Errors
/// With [`Care::Fast`] any error of a statement; with [`Care::ByHalves`] only those that are not the data's fault.
pub async fn write_rows(transaction: &mut Transaction<'_>, rows: &dyn Rows, care: Care) -> Result<(), WorkError> {
    let num_rows = rows.num_rows();
    if num_rows == 0 {
        return Ok(());
    }
    let mut start = 0;
    while start < num_rows {
        let chunk = start..chunk_end(rows, start);
        start = chunk.end;
        match care {
            Care::Fast => rows.write(transaction, chunk, Form::Trusting).await?,
            Care::ByHalves => write_by_halves(transaction, rows, chunk).await?,
        }
    }
    metrics::counter!(STORE_ROWS_TOTAL, "table" => rows.table()).increment(num_rows as u64);
    Ok(())
}

/// Where the statement that begins at `start` ends: at least one row further.
fn chunk_end(rows: &dyn Rows, start: usize) -> usize {
    let last = rows.num_rows().min(start + CHUNK_ROWS_MAX);
    let mut num_bytes = rows.num_bytes(start);
    let mut end = start + 1;
    while end < last {
        num_bytes += rows.num_bytes(end);
        if num_bytes > CHUNK_BYTES_MAX {
            break;
        }
        end += 1;
    }
    end
}

async fn write_by_halves(
    transaction: &mut Transaction<'_>,
    rows: &dyn Rows,
    chunk: Range<usize>,
) -> Result<(), WorkError> {
    // The next run to try is the last one: rows are written in their order.
    let mut open = vec![chunk];
    while let Some(run) = open.pop() {
        if is_written(transaction, rows, run.clone(), Form::Whole).await? {
            continue;
        }
        let num_rows = run.len();
        if num_rows > 1 {
            let middle = run.start + num_rows / 2;
            open.push(middle..run.end);
            open.push(run.start..middle);
            continue;
        }
        metrics::counter!(STORE_ROWS_REDUCED_TOTAL, "table" => rows.table()).increment(1);
        let row = rows.name(run.start);
        if is_written(transaction, rows, run, Form::Reduced).await? {
            tracing::error!(table = rows.table(), %row, "the database refused this row's data, it was stored without its detail");
        } else {
            tracing::error!(table = rows.table(), %row, "the database refused this row, it was left out");
        }
    }
    Ok(())
}

/// Writes a run in a savepoint; `false` when its data was refused.
async fn is_written(
    transaction: &mut Transaction<'_>,
    rows: &dyn Rows,
    run: Range<usize>,
    form: Form,
) -> Result<bool, WorkError> {
    let savepoint = transaction.transaction().await?;
    match rows.write(&savepoint, run, form).await {
        Ok(()) => {
            savepoint.commit().await?;
            Ok(true)
        }
        Err(error) if error.is_refused() => {
            savepoint.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
