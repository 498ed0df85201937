//! Administration in PostgreSQL: one file per resource, and [`change`], through which every write goes (I5).

mod account;
mod api_key;
mod application;
mod application_list;
mod application_write;
mod audit;
mod audit_line;
pub mod bootstrap;
pub mod change;
mod device_lists;
mod device_model;
mod import;
mod organization;
mod permission;
pub mod row;
mod user;
mod user_access;

mod connection;
mod decoder;
mod device;
mod inspect;
mod login;
mod related;
mod search;
mod secrets;
mod share;
mod sigfox;
mod target;

use std::sync::Arc;

use deadpool_postgres::{Client, Pool};
use sluse_schema::port::StoreError;
use sluse_schema::port::admin::{AdminError, AdminStore};
use tokio_postgres::error::SqlState;

use super::cipher::Cipher;
use super::connect::Store;
use super::error::{describe, store_error};

pub use bootstrap::{BootstrapError, NewAdmin, ensure_global_admin, reset_password};
pub use import::{ImportError, NewImport, import_api_key};

/// The administrative store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PgAdminStore {
    pub(crate) pool: Pool,
    pub(crate) cipher: Arc<Cipher>,
    /// Partitions of each topic, for the partition that a new target gets.
    pub(crate) num_partitions: u32,
}

impl PgAdminStore {
    /// Beside the data path's store: the same pool, key and partitions.
    pub fn new(store: &Store) -> Self {
        Self { pool: store.pool().clone(), cipher: Arc::clone(store.cipher()), num_partitions: store.num_partitions() }
    }

    /// A connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(crate) async fn client(&self) -> Result<Client, AdminError> {
        self.pool.get().await.map_err(|e| StoreError::Unavailable(e.to_string()).into())
    }
}

impl AdminStore for PgAdminStore {}

/// What an error of the database means for administration. Taken, missing and used rows are told from data that it refuses and
/// from a database that is away.
pub(crate) fn pg(error: tokio_postgres::Error) -> AdminError {
    let Some(db) = error.as_db_error() else {
        // What cannot be sent as the type of its column (an integer too large) never reaches the server.
        let is_ours = std::error::Error::source(&error).is_some_and(|source| !source.is::<std::io::Error>());
        return if is_ours && !error.is_closed() {
            StoreError::Refused(describe(&error)).into()
        } else {
            StoreError::Unavailable(describe(&error)).into()
        };
    };
    let code = db.code();
    if *code == SqlState::UNIQUE_VIOLATION {
        return AdminError::Taken(column_of(db.constraint().unwrap_or("")));
    }
    if *code == SqlState::FOREIGN_KEY_VIOLATION {
        let is_still_used = db.detail().is_some_and(|d| d.contains("still referenced"));
        let table = table_of(db.table().unwrap_or(""));
        return if is_still_used { AdminError::InUse(table) } else { AdminError::BadReference(table) };
    }
    if code.code().starts_with("42") {
        tracing::error!(error = describe(&error), "a statement is wrong, please report it");
    }
    store_error(&error).into()
}

fn column_of(constraint: &str) -> &'static str {
    [("email", "e-mail"), ("device_eui", "devEUI"), ("api_key", "API key"), ("name_id", "name id"), ("name", "name")]
        .into_iter()
        .find(|(part, _)| constraint.contains(part))
        .map_or("a unique value", |(_, name)| name)
}

fn table_of(table: &str) -> &'static str {
    match table {
        "organization" => "organization",
        "app_user" | "permission_user" => "user",
        "permission" | "permission_level" => "permission",
        "application" | "permission_application" => "application",
        "iot_device" => "device",
        "connection" | "connection_device" => "connection",
        "data_target" => "data target",
        "payload_decoder" => "payload decoder",
        "device_model" => "device model",
        "gateway" => "gateway",
        _ => "another row",
    }
}
