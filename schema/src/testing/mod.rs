//! In-memory ports and conformance suites, for the tests of other crates (feature `testing`).

pub mod log_conformance;
pub mod memory_log;

pub use memory_log::MemoryLog;
