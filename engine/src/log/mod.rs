//! The embedded log: the [`Log`](sluse_schema::port::Log) of one node, with nothing to install.
//!
//! Reading order: [`embedded`] (the port), [`writer`] and [`group`] (the one thread that writes), [`store`] (fjall), [`batch`], [`keys`] and
//! [`postings`] (what stands on disk), [`tail_cache`] (what readers see), [`retention`] and [`incarnation`] (what is dropped, what a position means).

mod batch;
mod clock;
mod config;
mod embedded;
mod group;
mod incarnation;
mod journal_tail;
mod keys;
pub mod metrics;
mod postings;
mod queue;
mod reopen;
mod retention;
mod shared;
mod store;
mod tail_cache;
mod writer;

pub use config::{Durability, EmbeddedLogConfig, OpenLogError};
pub use embedded::EmbeddedLog;
#[doc(hidden)]
pub use shared::Faults;
