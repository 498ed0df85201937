//! The decoder as the data path sees it: a few worker processes, each decoder pinned to one of them.
//!
//! All workers are driven from one thread of their own, so that a busy actor runtime does not hold up the watchdog, and a worker's
//! life does not hang on a thread that may end (`PR_SET_PDEATHSIG` goes by the thread that started it).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use sluse_schema::id::DecoderId;
use sluse_schema::port::{DecodeError, DecodeJob, Decoded, Decoder};
use tokio::sync::{oneshot, watch};

use super::config::DecoderConfig;
use super::waiting::Waiting;
use super::worker_process::Driver;

/// Why a pool did not start.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("decoder.workers is 0: at least one worker process is needed")]
    NoWorkers,
    #[error("no command is set that starts a decoder worker")]
    NoCommand,
    #[error("cannot start the thread that drives decoder workers: {0}")]
    Thread(#[from] std::io::Error),
}

/// Runs decoders in worker processes.
#[derive(Debug)]
pub struct DecoderPool {
    workers: Vec<Arc<Waiting>>,
    pids: Vec<Arc<AtomicU32>>,
    ended: watch::Receiver<bool>,
}

impl DecoderPool {
    /// Starts the workers. A worker that cannot start is tried again, with its reason in the log; jobs wait meanwhile.
    ///
    /// # Errors
    /// [`PoolError`] for a configuration that cannot work.
    pub fn start(config: DecoderConfig) -> Result<Arc<Self>, PoolError> {
        if config.num_workers == 0 {
            return Err(PoolError::NoWorkers);
        }
        if config.worker_command.is_empty() {
            return Err(PoolError::NoCommand);
        }
        let config = Arc::new(config);
        let drivers: Vec<Driver> = (0..config.num_workers)
            .map(|index| Driver {
                index,
                config: Arc::clone(&config),
                waiting: Arc::new(Waiting::new(config.num_waiting_max, config.quarantine)),
                pid: Arc::default(),
            })
            .collect();
        let workers = drivers.iter().map(|d| Arc::clone(&d.waiting)).collect();
        let pids = drivers.iter().map(|d| Arc::clone(&d.pid)).collect();
        let (ending, ended) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("decoder-io".into()).spawn(move || {
            runtime.block_on(futures_util::future::join_all(drivers.into_iter().map(Driver::run)));
            ending.send_replace(true);
        })?;
        Ok(Arc::new(Self { workers, pids, ended }))
    }

    /// Finishes what is in the workers, within some seconds, and ends them. Decodes that come later never complete: their records
    /// are not committed, and are decoded again after the restart.
    pub async fn stop(&self) {
        self.begin_stop();
        let mut ended = self.ended.clone();
        // Its sender goes only after it said so.
        let _ = ended.wait_for(|has_ended| *has_ended).await;
    }

    fn begin_stop(&self) {
        for worker in &self.workers {
            worker.lock().is_stopping = true;
            worker.changed.notify_one();
        }
    }

    /// Process ids of the workers, 0 for one that is being started. For tests and diagnostics.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.pids.iter().map(|pid| pid.load(Ordering::Relaxed)).collect()
    }

    /// Lets the first worker try what its sandbox must refuse; one `name=outcome` per line. For tests.
    pub async fn self_check(&self) -> Option<String> {
        let (sender, receiver) = oneshot::channel();
        let worker = self.workers.first()?;
        worker.lock().wants_self_check.push(sender);
        worker.changed.notify_one();
        receiver.await.ok()
    }

    /// The worker that a decoder is pinned to.
    fn worker_of(&self, decoder: DecoderId) -> &Waiting {
        let hash = xxhash_rust::xxh3::xxh3_64(&decoder.0.to_le_bytes());
        &self.workers[(hash % self.workers.len() as u64) as usize]
    }
}

#[async_trait]
impl Decoder for DecoderPool {
    async fn decode(&self, job: DecodeJob) -> Result<Decoded, DecodeError> {
        self.worker_of(job.script.id).decode(job).await
    }

    fn forget(&self, decoder: DecoderId) {
        self.worker_of(decoder).forget(decoder);
    }
}

impl Drop for DecoderPool {
    fn drop(&mut self) {
        self.begin_stop();
    }
}
