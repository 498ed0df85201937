//! Stopping in phases: each has a name and a deadline, the next begins when the one before is done or out of time, and the last
//! log line says whether it was clean. Generic: what a phase does is a future that its owner gives.
//!
//! The order of Sluse's phases, each needing those after it: sources stop, partitions drain, writers flush, the log closes,
//! adapters close.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

type Work = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// Phases in the order in which they will run.
#[derive(Default)]
pub struct Shutdown {
    phases: Vec<(&'static str, Duration, Work)>,
}

/// How one phase ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhaseEnd {
    Done,
    /// It says itself what was left.
    Failed(String),
    /// Out of time: dropped where it was.
    OverDeadline,
}

/// How it all went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Every phase in order.
    pub phases: Vec<(&'static str, PhaseEnd)>,
}

impl StopReport {
    /// Whether every phase was done in time.
    pub fn is_clean(&self) -> bool {
        self.phases.iter().all(|(_, end)| *end == PhaseEnd::Done)
    }
}

impl Shutdown {
    /// No phases yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a phase after the others. `work` starts when its turn comes; its error is what was left undone.
    #[must_use]
    pub fn phase(
        mut self,
        name: &'static str,
        deadline: Duration,
        work: impl Future<Output = Result<(), String>> + 'static,
    ) -> Self {
        self.phases.push((name, deadline, Box::pin(work)));
        self
    }

    /// Runs the phases and says at the end whether that was clean. Never takes longer than the deadlines together.
    pub async fn run(self) -> StopReport {
        let started_at = Instant::now();
        let mut phases = Vec::with_capacity(self.phases.len());
        for (name, deadline, work) in self.phases {
            let phase_started_at = Instant::now();
            let end = match tokio::time::timeout(deadline, work).await {
                Ok(Ok(())) => PhaseEnd::Done,
                Ok(Err(reason)) => PhaseEnd::Failed(reason),
                Err(_) => PhaseEnd::OverDeadline,
            };
            let elapsed = phase_started_at.elapsed();
            match &end {
                PhaseEnd::Done => tracing::info!(phase = name, ?elapsed, "stopping"),
                PhaseEnd::Failed(reason) => {
                    tracing::warn!(phase = name, ?elapsed, %reason, "stopping, this phase failed")
                }
                PhaseEnd::OverDeadline => {
                    tracing::warn!(phase = name, ?deadline, "stopping, this phase ran out of time")
                }
            }
            phases.push((name, end));
        }
        let report = StopReport { phases };
        let elapsed = started_at.elapsed();
        if report.is_clean() {
            tracing::info!(?elapsed, "stopped clean");
        } else {
            let not_done: Vec<&str> =
                report.phases.iter().filter(|(_, end)| *end != PhaseEnd::Done).map(|(name, _)| *name).collect();
            tracing::warn!(?elapsed, phases = ?not_done, "stopped, not clean: what was in flight is sent again at the next start");
        }
        report
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.phases.iter().map(|(name, deadline, _)| (name, deadline))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn phases_run_in_order_and_one_out_of_time_does_not_stop_the_next() {
        let ran = Rc::new(RefCell::new(Vec::new()));
        let note = |name: &'static str| {
            let ran = ran.clone();
            async move {
                ran.borrow_mut().push(name);
                Ok(())
            }
        };
        let report = Shutdown::new()
            .phase("sources", Duration::from_secs(1), note("sources"))
            .phase("partitions", Duration::from_millis(20), std::future::pending())
            .phase("writers", Duration::from_secs(1), async { Err("3 rows".to_owned()) })
            .phase("log", Duration::from_secs(1), note("log"))
            .run()
            .await;
        assert_eq!(*ran.borrow(), ["sources", "log"]);
        assert_eq!(
            report.phases,
            [
                ("sources", PhaseEnd::Done),
                ("partitions", PhaseEnd::OverDeadline),
                ("writers", PhaseEnd::Failed("3 rows".into())),
                ("log", PhaseEnd::Done),
            ]
        );
        assert!(!report.is_clean());
    }

    #[tokio::test]
    async fn a_stop_in_which_everything_was_done_is_clean() {
        let report = Shutdown::new().phase("log", Duration::from_secs(1), async { Ok(()) }).run().await;
        assert!(report.is_clean());
    }
}
