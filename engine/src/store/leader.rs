//! Jobs that one node does at a time, and that are due once per period however many nodes there are.
//!
//! A node that looks takes the job's advisory lock in PostgreSQL, on a connection that it keeps while the job runs, reads when the
//! job was last done (in `setting`, by the database's clock), does it if it is due, and notes the time when it succeeded. A node
//! that dies loses the connection and with it the lock: another one does the job at its next look. A job that failed is due at once.
//!
//! Limits: a node that is cut off from PostgreSQL finds out after [`PROBE_EVERY`] and [`PROBE_TIMEOUT`] together and drops its work
//! where it stands; another node may have begun meanwhile. So what a job does outside PostgreSQL must bear to be done twice. Session
//! locks need a direct connection, or a pooler in session mode.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sluse_schema::port::StoreError;
use xxhash_rust::xxh3::xxh3_64;

use super::connect::Store;
use super::error::{WorkError, describe};
use super::pool::{Lease, lease, within};
use crate::metrics::CLUSTER_JOB_RUNS_TOTAL;

/// How often a node that does a job makes sure that it still holds the lock.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest time between two looks of one node.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(30);
/// Keeps our advisory locks apart from others' in the same database.
const LOCK_SPACE: &str = "sluse job ";

/// A job with a name that is the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Lower-case words; part of a setting's name and of a metric's label.
    pub name: &'static str,
    /// How long after it was done it is due again.
    pub every: Duration,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// This node did it.
    Done,
    /// It was done less than a period ago.
    NotDue,
    /// Another node is at it.
    Elsewhere,
}

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// PostgreSQL is away, or went away while the job ran: the work was dropped where it stood.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work's own reason.
    #[error("{0}")]
    Failed(String),
}

impl Job {
    fn lock_key(self) -> i64 {
        i64::from_ne_bytes(xxh3_64(format!("{LOCK_SPACE}{}", self.name).as_bytes()).to_ne_bytes())
    }

    fn setting(self) -> String {
        format!("job.{}", self.name)
    }
}

impl Store {
    /// Does a job if it is due and no other node is at it.
    ///
    /// # Errors
    /// [`JobError::Failed`] with the work's reason: the job stays due. [`JobError::Store`] when PostgreSQL is away.
    pub async fn attempt_job(
        &self,
        job: Job,
        work: impl Future<Output = Result<(), String>>,
    ) -> Result<Attempt, JobError> {
        let Some(held) = self.take_lock(job).await? else { return Ok(Attempt::Elsewhere) };
        if !within(CALL_TIMEOUT, is_due(&held, job)).await? {
            self.give_lock_back(held, job).await?;
            return Ok(Attempt::NotDue);
        }
        let done = tokio::select! {
            done = work => done,
            lost = watch_over(&held) => return Err(lost.into()),
        };
        let outcome = if done.is_ok() { "done" } else { "failed" };
        metrics::counter!(CLUSTER_JOB_RUNS_TOTAL, "job_name" => job.name, "outcome" => outcome).increment(1);
        if done.is_ok() {
            within(CALL_TIMEOUT, note_done(&held, job)).await?;
        }
        self.give_lock_back(held, job).await?;
        done.map(|()| Attempt::Done).map_err(JobError::Failed)
    }

    /// Looks for ever whether the job is due, and does it here or leaves it to another node. Failures are logged and tried again.
    pub async fn keep_doing<Work>(self: Arc<Self>, job: Job, mut work: impl FnMut() -> Work)
    where
        Work: Future<Output = Result<(), String>>,
    {
        let pause = (job.every / 4).clamp(Duration::from_millis(250), LOOK_EVERY_MAX);
        loop {
            tokio::time::sleep(pause).await;
            match self.attempt_job(job, work()).await {
                Ok(attempt) => tracing::debug!(job = job.name, ?attempt, "looked after a job"),
                Err(error) => tracing::warn!(job = job.name, %error, "a job was not done, it is tried again"),
            }
        }
    }

    /// The connection that holds the job's lock; `None` when another one does.
    async fn take_lock(&self, job: Job) -> Result<Option<Lease>, StoreError> {
        within(CALL_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&job.lock_key()]).await?;
            if row.get(0) {
                return Ok(Some(client));
            }
            client.done();
            Ok::<_, WorkError>(None)
        })
        .await
    }

    /// Only a connection that surely holds no lock any more goes back to the pool.
    async fn give_lock_back(&self, held: Lease, job: Job) -> Result<(), StoreError> {
        within(CALL_TIMEOUT, async {
            let row = held.query_one("SELECT pg_advisory_unlock($1)", &[&job.lock_key()]).await?;
            if row.get(0) {
                held.done();
            }
            Ok::<_, WorkError>(())
        })
        .await
    }
}

async fn is_due(held: &Lease, job: Job) -> Result<bool, WorkError> {
    let every_ms = i64::try_from(job.every.as_millis()).unwrap_or(i64::MAX);
    // What stands there after a clock that ran ahead is not believed: a job must not rest for years.
    let row = held
        .query_one(
            "SELECT coalesce((SELECT value::bigint NOT BETWEEN now_ms - $2 AND now_ms FROM setting WHERE name = $1), true)
             FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms) clock",
            &[&job.setting(), &every_ms],
        )
        .await?;
    Ok(row.get(0))
}

async fn note_done(held: &Lease, job: Job) -> Result<(), WorkError> {
    held.execute(
        "INSERT INTO setting (name, value) VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[&job.setting()],
    )
    .await?;
    Ok(())
}

/// Ends when the connection that holds the lock does not answer any more.
async fn watch_over(held: &Lease) -> StoreError {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let reason = match tokio::time::timeout(PROBE_TIMEOUT, held.query_one("SELECT 1", &[])).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => describe(&error),
            Err(_) => format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
        };
        return StoreError::Unavailable(format!("the connection that holds a job's lock is gone: {reason}"));
    }
}
