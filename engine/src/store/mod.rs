//! PostgreSQL, in reading order: how it is reached (`connect`), kept secret (`cipher`), and what of it each port needs.

pub mod admin;
pub mod bootstrap;
pub mod cipher;
pub mod connect;
pub mod database_url;
pub mod error;
pub mod leader;
pub mod migrate;
pub mod pool;
pub mod private_postgres;
pub mod rotate;
pub mod tls;

mod call;
mod changes;
mod convert;
mod cursor_rows;
mod cursors;
mod devices;
mod failures;
mod gateways;
mod gather;
mod housekeeping;
pub(crate) mod log_in_use;
mod metadata;
mod scripts;
mod states;
mod targets;
mod window_bytes;

pub use cipher::{Cipher, CipherError};
pub use connect::{OpenError, Store, StoreConfig};
