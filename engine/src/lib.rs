//! Adapters and wiring of Sluse: what of the outside world the data path and the API are connected to.

pub mod assigned;
pub mod callers;
pub mod cli;
pub mod config;
pub mod data_dir;
pub mod decoder;
pub mod engine;
pub mod identity;
pub mod kafka_log;
pub mod log;
pub mod log_switch;
pub mod login;
pub mod mail;
pub mod metrics;
pub mod pipeline;
pub mod probe;
pub mod readiness;
pub mod redis;
pub mod send;
pub mod shutdown;
pub mod sigfox;
pub mod source;
pub mod store;
pub mod system_log;
