//! Sluse's HTTP layer: what devices send, OS2iot's REST API, health and metrics.
//!
//! [`start`] takes a configuration and the ports and returns a running server. Reading order: [`server`] (what runs around a
//! request), [`authn`] and [`authz`] (who calls, and what he may), [`validate`], [`page`] and [`json`] (what comes in and goes out),
//! then one module per resource below [`admin`]. [`openapi`] says how a route is written.

pub mod admin;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod config;
pub mod context;
pub mod docs_page;
pub mod error;
pub mod health;
pub mod ingest;
pub mod json;
mod json_words;
pub mod login;
pub mod metrics;
pub mod network;
pub mod openapi;
pub mod page;
pub mod password;
pub mod request_id;
pub mod security;
pub mod server;
pub mod throttle;
pub mod tls;
mod unread;
pub mod validate;

pub use config::HttpConfig;
pub use context::{AppState, Ports};
pub use server::{HttpServer, StartError, start};
pub use tls::TlsListen;
