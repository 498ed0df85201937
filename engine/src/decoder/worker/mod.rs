//! The child's side: what runs inside a decoder worker process.
//!
//! Reading order: `arena` (memory that can be put back), `engine` (compile and run), `input` and `output` (JSON in and out), `call` (the
//! dialects), `hooks` (clock and guards).

mod arena;
mod cache;
mod call;
pub mod engine;
mod frame;
mod hooks;
mod input;
mod output;
mod serve;
mod shared;
mod thrown;
mod value;

pub use serve::worker_main;

#[cfg(test)]
mod tests;
