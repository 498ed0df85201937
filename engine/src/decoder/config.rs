//! Limits of the decoder sandbox and the pool's settings, with the reason for each number.

use std::time::Duration;

/// What one script may use. Travels to the worker once, at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// JavaScript memory of one decoder. The largest of 1 761 public decoders needs 2 MiB to compile.
    pub memory_bytes_max: usize,
    /// JavaScript stack; the worker's own is 8 MiB.
    pub stack_bytes_max: usize,
    /// Work of one message, in interrupt polls of 10 000 jumps or calls each: some 20 ms of an endless loop.
    pub call_polls_max: u32,
    /// Work of compiling and running the top level once.
    pub compile_polls_max: u32,
    /// Largest script; the largest public one has 321 kB.
    pub source_bytes_max: usize,
    /// Largest JSON text of a result.
    pub result_bytes_max: usize,
    /// What a worker keeps of compiled decoders: some 400 ordinary ones.
    pub images_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 8 << 20,
            stack_bytes_max: 256 << 10,
            call_polls_max: 300,
            compile_polls_max: 1_500,
            source_bytes_max: 512 << 10,
            result_bytes_max: 256 << 10,
            images_bytes_max: 96 << 20,
        }
    }
}

/// How the pool is set up.
#[derive(Clone, Debug)]
pub struct DecoderConfig {
    /// Worker processes; a decoder stays on one of them.
    pub num_workers: usize,
    /// Program and arguments that start a worker: `sluse decoder-worker`.
    pub worker_command: Vec<String>,
    pub limits: Limits,
    /// A message that makes no progress for this long ends its worker. Five times the 100 ms that the slowest honest script gets.
    pub watchdog: Duration,
    /// Jobs of one decoder that may wait; more wait with their caller.
    pub num_waiting_max: usize,
    pub quarantine: super::quarantine::QuarantineConfig,
}

impl DecoderConfig {
    /// The usual settings for this worker command.
    pub fn new(worker_command: Vec<String>) -> Self {
        Self {
            num_workers: 1,
            worker_command,
            limits: Limits::default(),
            watchdog: Duration::from_millis(500),
            num_waiting_max: 4_096,
            quarantine: super::quarantine::QuarantineConfig::default(),
        }
    }
}
