//! Another secret key for everything that is encrypted, in one transaction: either all of it is under the new key afterwards, and
//! the fingerprint says so, or all of it under the old one. Every column of the schema that is named `…_enc` is meant, also those
//! that later versions add.
//!
//! No node may run meanwhile: it would go on writing under the old key. Other sessions of Sluse are looked for, and the tables are
//! locked against writers for the time it takes.

use deadpool_postgres::Transaction;
use sluse_schema::port::StoreError;
use sluse_schema::secret::Secret;
use tokio_postgres::types::ToSql;

use super::cipher::{Cipher, CipherError};
use super::database_url::{DatabaseUrl, DatabaseUrlError};
use super::error::describe;
use super::pool::{self, IoThread, Use};
use super::tls::TlsError;

const FINGERPRINT: &str = "secret_key_fingerprint";
/// Rows read and written at once.
const BATCH: i64 = 1000;

/// Why the key is as it was. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error(transparent)]
    Url(#[from] DatabaseUrlError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no thread for database connections: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} other sessions of Sluse are connected to this database: stop every node first")]
    InUse(i64),
    #[error(
        "the secrets in this database are under another key (fingerprint {stored}): give the SLUSE_SECRET_KEY in use"
    )]
    OtherKey {
        /// Fingerprint in the database.
        stored: String,
    },
    #[error("there is nothing in this database yet: start Sluse with the new key")]
    Empty,
    #[error("{table}.{column} of row {id}: {source}; mend or clear it, then try again")]
    Secret {
        /// Where it stands.
        table: String,
        /// In which column.
        column: String,
        /// In which row.
        id: i64,
        /// What is wrong with it.
        source: CipherError,
    },
}

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// So many secrets are under the new key now.
    Done {
        /// Secrets that were encrypted again.
        num_secrets: u64,
    },
    /// They were already: an earlier run was cut off after its commit.
    AlreadyDone,
}

fn failed(error: tokio_postgres::Error) -> RotateError {
    StoreError::Unavailable(describe(&error)).into()
}

/// Encrypts every secret of the database at `url` anew.
///
/// # Errors
/// A [`RotateError`]; then nothing changed.
pub async fn rotate_secret_key(url: &Secret, old: &Cipher, new: &Cipher) -> Result<Rotation, RotateError> {
    let url = DatabaseUrl::parse(url)?;
    let pool = pool::open(&url, IoThread::start()?, 2, Use::General)?;
    let mut client = pool.get().await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let transaction = client.transaction().await.map_err(failed)?;
    let done = in_transaction(&transaction, old, new).await;
    match &done {
        Ok(_) => transaction.commit().await.map_err(failed)?,
        Err(_) => transaction.rollback().await.map_err(failed)?,
    }
    pool.close();
    done
}

async fn in_transaction(db: &Transaction<'_>, old: &Cipher, new: &Cipher) -> Result<Rotation, RotateError> {
    db.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await
        .map_err(failed)?;
    let has_settings = "SELECT to_regclass('setting') IS NOT NULL";
    if !db.query_one(has_settings, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Err(RotateError::Empty);
    }
    let stored = db
        .query_opt("SELECT value FROM setting WHERE name = $1 FOR UPDATE", &[&FINGERPRINT])
        .await
        .map_err(failed)?
        .ok_or(RotateError::Empty)?;
    let stored: String = stored.get(0);
    if stored == new.fingerprint() {
        return Ok(Rotation::AlreadyDone);
    }
    if stored != old.fingerprint() {
        return Err(RotateError::OtherKey { stored });
    }
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                  AND application_name LIKE 'sluse%' AND pid <> pg_backend_pid()";
    let num_others: i64 = db.query_one(others, &[]).await.map_err(failed)?.get(0);
    if num_others > 0 {
        return Err(RotateError::InUse(num_others));
    }
    let columns = "SELECT table_name::text, column_name::text FROM information_schema.columns \
                   WHERE table_schema = current_schema() AND data_type = 'bytea' AND column_name LIKE '%\\_enc' \
                   ORDER BY 1, 2";
    let mut num_secrets = 0;
    for row in db.query(columns, &[]).await.map_err(failed)? {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        num_secrets += rotate_column(db, &table, &column, old, new).await?;
    }
    let update = "UPDATE setting SET value = $2 WHERE name = $1";
    db.execute(update, &[&FINGERPRINT, &new.fingerprint()]).await.map_err(failed)?;
    let line = "INSERT INTO change_log (principal, action, entity, before, after) VALUES \
                ('system', 'UPDATE', 'secret_key', jsonb_build_object('fingerprint', $1::text), \
                 jsonb_build_object('fingerprint', $2::text))";
    db.execute(line, &[&stored, &new.fingerprint()]).await.map_err(failed)?;
    Ok(Rotation::Done { num_secrets })
}

/// Names come from the database's own catalogue.
async fn rotate_column(
    db: &Transaction<'_>,
    table: &str,
    column: &str,
    old: &Cipher,
    new: &Cipher,
) -> Result<u64, RotateError> {
    db.batch_execute(&format!("LOCK TABLE \"{table}\" IN EXCLUSIVE MODE")).await.map_err(failed)?;
    let read = format!(
        "SELECT id::bigint, \"{column}\" FROM \"{table}\" WHERE id > $1::bigint AND \"{column}\" IS NOT NULL ORDER BY id LIMIT {BATCH}"
    );
    let write = format!(
        "UPDATE \"{table}\" t SET \"{column}\" = n.value FROM unnest($1::bigint[], $2::bytea[]) AS n (id, value) \
         WHERE t.id = n.id"
    );
    let (mut after, mut num) = (i64::MIN, 0);
    loop {
        let rows = db.query(&read, &[&after]).await.map_err(failed)?;
        let Some(last) = rows.last() else { return Ok(num) };
        after = last.get(0);
        let mut ids = Vec::with_capacity(rows.len());
        let mut values = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, sealed): (i64, &[u8]) = (row.get(0), row.get(1));
            let clear = old.decrypt(sealed).map_err(|source| RotateError::Secret {
                table: table.to_owned(),
                column: column.to_owned(),
                id,
                source,
            })?;
            ids.push(id);
            values.push(new.encrypt(&clear));
        }
        let parameters: [&(dyn ToSql + Sync); 2] = [&ids, &values];
        num += db.execute(&write, &parameters).await.map_err(failed)?;
    }
}
