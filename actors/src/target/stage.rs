//! The target stage of this node: its deliveries partitions, spread over the arbiters, each under a supervisor.
//!
//! A target lives on the arbiter of its partition, which is a hash of its id, with the consumer that feeds it and the writer that
//! stores its cursor: their messages never cross threads.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, Context, Handler, Message, ResponseFuture};
use actix_rt::ArbiterHandle;
use futures_util::future::join_all;
use sluse_schema::change::ChangeEvent;
use sluse_schema::partition::PartitionId;
use sluse_schema::target::TargetStatus;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::config::{TargetPorts, TargetStageConfig};
use super::message::{Changed, DrainPartition, FullScan, Statuses, Stop};
use super::partition::TargetPartition;
use crate::mailbox::{Closed, deliver_to, offer_to};
use crate::releasing::Releasing;
use crate::supervise::{Supervised, supervise};
use crate::table::HashMap;

/// The partitions of one arbiter.
#[derive(Debug)]
struct PartitionHost {
    config: TargetStageConfig,
    ports: TargetPorts,
    partitions: HashMap<PartitionId, Supervised<TargetPartition>>,
    releasing: Releasing,
}

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
struct Assign(PartitionId);

/// `None`: all.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
struct Release {
    partition: Option<PartitionId>,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
struct Lose(PartitionId);

/// Drop everything as a crash does; for tests of restarts.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
struct Abandon;

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
struct StopHost;

impl PartitionHost {
    fn addrs(&self) -> impl Iterator<Item = Addr<TargetPartition>> {
        self.partitions.values().filter_map(Supervised::addr)
    }
}

impl Actor for PartitionHost {
    type Context = Context<Self>;
}

impl Handler<Assign> for PartitionHost {
    type Result = ();

    fn handle(&mut self, Assign(partition): Assign, _: &mut Self::Context) {
        let (config, ports) = (self.config, self.ports.clone());
        self.partitions.entry(partition).or_insert_with(|| {
            supervise("deliveries_partition", format!("deliveries/{partition}"), move |guard| {
                TargetPartition::launch(partition, config, ports.clone(), guard)
            })
        });
    }
}

impl Handler<Release> for PartitionHost {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, Release { partition, deadline }: Release, _: &mut Self::Context) -> Self::Result {
        let by_others = self.releasing.under_way(partition.as_ref().map(std::slice::from_ref));
        let asked = match partition {
            Some(partition) => vec![partition],
            None => self.partitions.keys().copied().collect(),
        };
        let released: Vec<_> = asked
            .into_iter()
            .filter_map(|partition| {
                let supervised = self.partitions.remove(&partition)?;
                Some(self.releasing.begin(partition, give_up(partition, supervised, deadline)))
            })
            .collect();
        Box::pin(async move {
            let by_others = timeout_at(deadline, join_all(by_others)).await.unwrap_or_else(|_| vec![false]);
            join_all(released).await.into_iter().chain(by_others).all(|is_clean| is_clean)
        })
    }
}

/// Ends what is in flight in a partition, writes everything, and ends it. `true` when nothing was cut off.
async fn give_up(partition: PartitionId, supervised: Supervised<TargetPartition>, deadline: Instant) -> bool {
    let Some(addr) = supervised.addr() else {
        warn!(partition = partition.0, "a deliveries partition was being started anew when it was released");
        supervised.release();
        return false;
    };
    let is_clean = deliver_to(&addr, DrainPartition { deadline }).await.unwrap_or(false);
    supervised.release();
    is_clean
}

impl Handler<Lose> for PartitionHost {
    type Result = ();

    fn handle(&mut self, Lose(partition): Lose, _: &mut Self::Context) {
        if let Some(supervised) = self.partitions.remove(&partition) {
            abandon(supervised);
        }
    }
}

/// Drops a partition with its targets, written or not.
fn abandon(supervised: Supervised<TargetPartition>) {
    let addr = supervised.addr();
    supervised.release();
    if let Some(addr) = addr {
        let _ = offer_to(&addr, Stop);
    }
}

impl Handler<Abandon> for PartitionHost {
    type Result = ();

    fn handle(&mut self, _: Abandon, _: &mut Self::Context) {
        for (_, supervised) in self.partitions.drain() {
            abandon(supervised);
        }
    }
}

impl Handler<Changed> for PartitionHost {
    type Result = ();

    fn handle(&mut self, changed: Changed, _: &mut Self::Context) {
        for addr in self.addrs() {
            if offer_to(&addr, changed.clone()).is_err() {
                warn!("a deliveries partition could not be told of changes, the periodic scan will");
            }
        }
    }
}

impl Handler<FullScan> for PartitionHost {
    type Result = ();

    fn handle(&mut self, scan: FullScan, _: &mut Self::Context) {
        for addr in self.addrs() {
            // One that has no room has as much to do as a scan is.
            let _ = offer_to(&addr, scan);
        }
    }
}

impl Handler<Statuses> for PartitionHost {
    type Result = ResponseFuture<Vec<TargetStatus>>;

    fn handle(&mut self, statuses: Statuses, _: &mut Self::Context) -> Self::Result {
        let addrs: Vec<_> = self.addrs().collect();
        Box::pin(async move {
            let answers = join_all(addrs.iter().map(|addr| deliver_to(addr, statuses))).await;
            answers.into_iter().flatten().flatten().collect()
        })
    }
}

impl Handler<StopHost> for PartitionHost {
    type Result = ();

    fn handle(&mut self, _: StopHost, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Starts the stage.
#[derive(Clone, Copy, Debug)]
pub struct TargetStage;

impl TargetStage {
    /// Starts the stage on these arbiters, with no partition yet.
    pub fn start(config: TargetStageConfig, ports: &TargetPorts, arbiters: &[ArbiterHandle]) -> TargetStageHandle {
        assert!(!arbiters.is_empty(), "a stage needs an arbiter to run on");
        let hosts = arbiters.iter().map(|arbiter| {
            let ports = ports.clone();
            PartitionHost::start_in_arbiter(arbiter, move |_| PartitionHost {
                config,
                ports,
                partitions: HashMap::default(),
                releasing: Releasing::default(),
            })
        });
        TargetStageHandle { hosts: hosts.collect(), revoke_within: config.revoke_within }
    }
}

/// Handle to the target stage; can be used from any thread.
#[derive(Clone, Debug)]
pub struct TargetStageHandle {
    hosts: Arc<[Addr<PartitionHost>]>,
    revoke_within: Duration,
}

impl TargetStageHandle {
    fn host_of(&self, partition: PartitionId) -> &Addr<PartitionHost> {
        &self.hosts[partition.0 as usize % self.hosts.len()]
    }

    /// Begins to work on these partitions.
    ///
    /// # Errors
    /// [`Closed`] when the stage was drained.
    pub async fn assign(&self, partitions: &[PartitionId]) -> Result<(), Closed> {
        for partition in partitions {
            deliver_to(self.host_of(*partition), Assign(*partition)).await?;
        }
        Ok(())
    }

    /// Ends what is in flight for these partitions, writes their cursors and gives them up; `true` when nothing was cut off.
    pub async fn revoke(&self, partitions: &[PartitionId]) -> bool {
        let deadline = Instant::now() + self.revoke_within;
        let released = partitions
            .iter()
            .map(|partition| deliver_to(self.host_of(*partition), Release { partition: Some(*partition), deadline }));
        join_all(released).await.into_iter().all(|is_clean| is_clean.unwrap_or(false))
    }

    /// Drops these partitions at once: they are somebody else's, and nothing may be written for them.
    pub async fn lose(&self, partitions: &[PartitionId]) {
        join_all(partitions.iter().map(|partition| deliver_to(self.host_of(*partition), Lose(*partition)))).await;
    }

    /// Tells all partitions what administration changed.
    pub async fn changed(&self, changes: &[ChangeEvent]) {
        let changes: Arc<[ChangeEvent]> = changes.into();
        join_all(self.hosts.iter().map(|host| deliver_to(host, Changed(Arc::clone(&changes))))).await;
    }

    /// Lets all partitions read every configuration and request again.
    pub async fn full_scan(&self) {
        join_all(self.hosts.iter().map(|host| deliver_to(host, FullScan))).await;
    }

    /// How the targets of this node looked when they were collected last, at most a second ago while something happens.
    pub async fn statuses(&self) -> Vec<TargetStatus> {
        let answers = join_all(self.hosts.iter().map(|host| deliver_to(host, Statuses))).await;
        answers.into_iter().flatten().flatten().collect()
    }

    /// Ends what is in flight within `deadline`, writes everything, and ends; `true` when nothing was cut off.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let release = Release { partition: None, deadline: Instant::now() + deadline };
        let answers = join_all(self.hosts.iter().map(|host| deliver_to(host, release))).await;
        let is_clean = answers.into_iter().all(|is_clean| is_clean.unwrap_or(false));
        join_all(self.hosts.iter().map(|host| deliver_to(host, StopHost))).await;
        is_clean
    }

    /// Drops everything at once, written or not, as a crash does.
    #[cfg(any(test, feature = "testing"))]
    pub async fn abandon(&self) {
        join_all(self.hosts.iter().map(|host| deliver_to(host, Abandon))).await;
        join_all(self.hosts.iter().map(|host| deliver_to(host, StopHost))).await;
    }
}
