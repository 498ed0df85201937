//! A private PostgreSQL for those who have none: `initdb` in the data directory, a child process, a Unix socket, no port.
//!
//! Reading order: which programs (`binaries`), as whom and where (`cluster`), the child and its end (`child`), all together
//! (`start`).

mod binaries;
mod child;
mod cluster;
mod start;

pub use binaries::{Binaries, find_binaries};
pub use start::{PrivatePostgres, PrivatePostgresError};
