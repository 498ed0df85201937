//! Brings the database to this program's schema: forward only, each migration in its transaction, one node at a time.

use deadpool_postgres::Pool;

use super::error::describe;
use super::pool::lease;

mod embedded {
    refinery::embed_migrations!("../schema/migrations");
}

/// The advisory lock that one migrating node holds; the number is "sluse" in ASCII.
const LOCK_KEY: i64 = 0x73_6c_75_73_65;

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] sluse_schema::port::StoreError),
    #[error("the database refused a migration: {0}")]
    Refused(String),
    #[error("the database was written by a newer sluse, or its migrations were changed: {0}")]
    Divergent(String),
}

/// Applies what is missing and returns how many migrations that were.
///
/// # Errors
/// A [`MigrateError`]; the schema is then as it was before the migration that failed.
pub async fn migrate(pool: &Pool) -> Result<usize, MigrateError> {
    let mut client = lease(pool).await?;
    let sql = |error: tokio_postgres::Error| MigrateError::Refused(describe(&error));
    // A big table may take longer than any other statement is allowed to; nodes wait for each other here.
    client
        .batch_execute("SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        .await
        .map_err(sql)?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY]).await.map_err(sql)?;
    let applied = embedded::migrations::runner().run_async(&mut ***client).await;
    // The lease is not handed back: closing the connection frees the lock and forgets the settings.
    drop(client);
    let report = applied.map_err(|error| {
        let text = format!("{error}");
        match error.kind() {
            refinery::error::Kind::Connection(_, source) => MigrateError::Refused(format!("{text}: {source}")),
            _ => MigrateError::Divergent(text),
        }
    })?;
    let num_applied = report.applied_migrations().len();
    if num_applied > 0 {
        tracing::info!(num_applied, "brought the database's schema up to date");
    }
    Ok(num_applied)
}
