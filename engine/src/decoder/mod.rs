//! The decoder sandbox: users' JavaScript, behind [`sluse_schema::port::Decoder`].
//!
//! ```text
//! decode() ─► waiting (fair queue, health) ─► session (batches, watchdog) ══ socket pair ══► worker (child process)
//!              per worker, per decoder         one driver per worker, one thread                   engine: QuickJS in an arena
//! ```
//!
//! | question | file |
//! |---|---|
//! | what may a script use, and why these numbers | [`config`] |
//! | how are messages kept from seeing each other | `worker/engine.rs`, `worker/arena.rs` |
//! | what does a script see | `worker/input.rs`, `worker/call.rs`, `worker/prelude.js`, `worker/text_codecs.js`, `worker/hooks.rs` |
//! | what becomes of its result | `worker/output.rs` |
//! | which dialect is it | `dialect.rs` |
//! | what can a script that breaks out of QuickJS do | `sandbox.rs` |
//! | what if a worker dies, or a script never ends | `session.rs`, `worker_process.rs`, `quarantine.rs` |
//! | who has to wait for whom (I6) | `queue.rs` |

pub mod config;
mod dialect;
pub mod metrics;
mod pool;
mod progress;
mod protocol;
pub mod quarantine;
mod queue;
mod sandbox;
mod session;
mod traffic;
mod waiting;
pub mod worker;
mod worker_process;

pub use config::{DecoderConfig, Limits};
pub use pool::{DecoderPool, PoolError};
pub use worker::worker_main;
