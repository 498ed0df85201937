//! The device stage of this node: its uplinks partitions, spread over the arbiters, each under a supervisor.
//!
//! A device lives on the arbiter of its partition, which is a hash of its id: its messages never cross threads.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, Context, Handler, Message, ResponseFuture};
use actix_rt::ArbiterHandle;
use futures_util::future::join_all;
use sluse_schema::beat::Beat;
use sluse_schema::change::ChangeEvent;
use sluse_schema::partition::PartitionId;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::config::{DevicePorts, DeviceStageConfig};
use super::consumer::PartitionConsumer;
use super::message::{Abandon, Changed, Drain, ReloadAll};
use crate::mailbox::{Closed, deliver_to, offer_to};
use crate::releasing::Releasing;
use crate::supervise::{Supervised, supervise};
use crate::table::HashMap;

/// The partitions of one arbiter.
#[derive(Debug)]
struct PartitionHost {
    config: DeviceStageConfig,
    beat: Beat,
    ports: DevicePorts,
    consumers: HashMap<PartitionId, Supervised<PartitionConsumer>>,
    releasing: Releasing,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Assign(Vec<PartitionId>);

/// `None`: all. What is not finished at the deadline is read again by the next owner.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
struct Release {
    partitions: Option<Vec<PartitionId>>,
    deadline: Option<Instant>,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Lose(PartitionId);

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Stop;

impl Actor for PartitionHost {
    type Context = Context<Self>;
}

impl Handler<Assign> for PartitionHost {
    type Result = ();

    fn handle(&mut self, Assign(partitions): Assign, _: &mut Self::Context) {
        for partition in partitions {
            let (config, beat, ports) = (self.config, self.beat, self.ports.clone());
            self.consumers.entry(partition).or_insert_with(|| {
                supervise("partition", format!("uplinks/{partition}"), move |guard| {
                    let ports = ports.clone();
                    PartitionConsumer::create(move |ctx| {
                        // Every device's actor may report all that is open.
                        ctx.set_mailbox_capacity(config.limits.num_open_max + 16);
                        PartitionConsumer::new(partition, config, beat, ports, guard)
                    })
                })
            });
        }
    }
}

impl Handler<Release> for PartitionHost {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, Release { partitions, deadline }: Release, _: &mut Self::Context) -> Self::Result {
        let by_others = self.releasing.under_way(partitions.as_deref());
        let partitions = partitions.unwrap_or_else(|| self.consumers.keys().copied().collect());
        let released: Vec<_> = partitions
            .into_iter()
            .filter_map(|partition| {
                let consumer = self.consumers.remove(&partition)?;
                Some(self.releasing.begin(partition, give_up(partition, consumer, deadline)))
            })
            .collect();
        Box::pin(async move {
            let by_others = join_all(by_others);
            let by_others = match deadline {
                Some(deadline) => timeout_at(deadline, by_others).await.unwrap_or_else(|_| vec![false]),
                None => by_others.await,
            };
            join_all(released).await.into_iter().chain(by_others).all(|is_clean| is_clean)
        })
    }
}

/// Finishes what is open in a partition, writes and tells it, and ends it. `true` when nothing was left at the deadline.
async fn give_up(partition: PartitionId, consumer: Supervised<PartitionConsumer>, deadline: Option<Instant>) -> bool {
    let Some(addr) = consumer.addr() else {
        warn!(partition = partition.0, "an uplinks partition was being started anew when it was released");
        consumer.release();
        return false;
    };
    let drained = deliver_to(&addr, Drain);
    let is_clean = match deadline {
        Some(deadline) => timeout_at(deadline, drained).await.is_ok_and(|done| done.unwrap_or(false)),
        None => drained.await.unwrap_or(false),
    };
    consumer.release();
    let _ = deliver_to(&addr, Abandon).await;
    is_clean
}

impl Handler<Changed> for PartitionHost {
    type Result = ();

    fn handle(&mut self, changed: Changed, _: &mut Self::Context) {
        for addr in self.consumers.values().filter_map(Supervised::addr) {
            if offer_to(&addr, changed.clone()).is_err() {
                warn!("a partition could not be told of changes, the periodic scan will");
            }
        }
    }
}

impl Handler<ReloadAll> for PartitionHost {
    type Result = ();

    fn handle(&mut self, reload: ReloadAll, _: &mut Self::Context) {
        for addr in self.consumers.values().filter_map(Supervised::addr) {
            let _ = offer_to(&addr, reload);
        }
    }
}

impl Handler<Lose> for PartitionHost {
    type Result = ();

    fn handle(&mut self, Lose(partition): Lose, _: &mut Self::Context) {
        if let Some(consumer) = self.consumers.remove(&partition) {
            abandon(consumer);
        }
    }
}

/// Drops a partition with its devices, written or not.
fn abandon(consumer: Supervised<PartitionConsumer>) {
    let addr = consumer.addr();
    consumer.release();
    if let Some(addr) = addr {
        let _ = offer_to(&addr, Abandon);
    }
}

impl Handler<Stop> for PartitionHost {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        for (_, consumer) in self.consumers.drain() {
            abandon(consumer);
        }
        ctx.stop();
    }
}

/// Handle to the device stage; can be used from any thread.
#[derive(Clone, Debug)]
pub struct DeviceStage {
    hosts: Arc<[Addr<PartitionHost>]>,
    revoke_within: Duration,
}

impl DeviceStage {
    /// Starts the stage on these arbiters, with no partition yet.
    pub fn start(config: DeviceStageConfig, ports: &DevicePorts, arbiters: &[ArbiterHandle]) -> Self {
        assert!(!arbiters.is_empty(), "a stage needs an arbiter to run on");
        let start = config.moments_from.unwrap_or_else(|| Instant::now().into_std());
        let beat = Beat::new(start, config.read_interval);
        let hosts = arbiters.iter().map(|arbiter| {
            let ports = ports.clone();
            PartitionHost::start_in_arbiter(arbiter, move |_| PartitionHost {
                config,
                beat,
                ports,
                consumers: HashMap::default(),
                releasing: Releasing::default(),
            })
        });
        Self { hosts: hosts.collect(), revoke_within: config.revoke_within }
    }

    fn host_of(&self, partition: PartitionId) -> &Addr<PartitionHost> {
        &self.hosts[partition.0 as usize % self.hosts.len()]
    }

    /// Begins to work on these partitions.
    pub async fn assign(&self, partitions: &[PartitionId]) -> Result<(), Closed> {
        for partition in partitions {
            deliver_to(self.host_of(*partition), Assign(vec![*partition])).await?;
        }
        Ok(())
    }

    /// Finishes and gives up these partitions, at the latest after [`DeviceStageConfig::revoke_within`]; `true` when nothing of them was
    /// left unfinished.
    pub async fn revoke(&self, partitions: &[PartitionId]) -> bool {
        let deadline = Some(Instant::now() + self.revoke_within);
        let released =
            partitions.iter().map(|p| deliver_to(self.host_of(*p), Release { partitions: Some(vec![*p]), deadline }));
        join_all(released).await.into_iter().all(|is_clean| is_clean.unwrap_or(false))
    }

    /// Drops these partitions at once: they are somebody else's, and nothing may be written for them.
    pub async fn lose(&self, partitions: &[PartitionId]) {
        join_all(partitions.iter().map(|p| deliver_to(self.host_of(*p), Lose(*p)))).await;
    }

    /// Tells all partitions what administration changed.
    pub async fn changed(&self, changes: Arc<[ChangeEvent]>) {
        join_all(self.hosts.iter().map(|host| deliver_to(host, Changed(Arc::clone(&changes))))).await;
    }

    /// Lets all partitions read every active device's configuration again.
    pub async fn reload_all(&self) {
        join_all(self.hosts.iter().map(|host| deliver_to(host, ReloadAll))).await;
    }

    /// Finishes everything within `deadline`, then ends; `true` when nothing was left.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let release = |host| deliver_to(host, Release { partitions: None, deadline: None });
        let released = join_all(self.hosts.iter().map(release));
        let is_clean = match tokio::time::timeout(deadline, released).await {
            Ok(answers) => answers.into_iter().all(|is_clean| is_clean.unwrap_or(false)),
            Err(_) => false,
        };
        self.abandon().await;
        is_clean
    }

    /// Drops everything at once. What is open is read again by the next owner.
    pub async fn abandon(&self) {
        join_all(self.hosts.iter().map(|host| deliver_to(host, Stop))).await;
    }
}
