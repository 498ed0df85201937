//! Who holds the session with ChirpStack's broker: the node that owns uplinks partition 0, and nobody else.
//!
//! Every node connects under the same client id, so that a takeover inherits the session with what waits in it, and the order. It is
//! opened when the log has confirmed the partition, and closed before the partition is given up: what is under way then is finished and
//! acknowledged, the rest stays with the broker for the next owner.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix_rt::ArbiterHandle;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{GatewayStore, Intake};
use tokio::sync::{Mutex, oneshot};

use super::chirpstack::{ChirpstackConfig, ChirpstackSource, HealthCell, SourceError, SourceHealth};

/// The partition whose owner holds the session.
pub const SESSION_PARTITION: PartitionId = PartitionId(0);

/// How the session stands, as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct SessionHealth(Arc<RwLock<Option<HealthCell>>>);

impl SessionHealth {
    /// `None` while another node holds it.
    pub fn get(&self) -> Option<SourceHealth> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(HealthCell::get)
    }

    fn set(&self, cell: Option<HealthCell>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = cell;
    }
}

#[derive(Debug)]
enum Held {
    No,
    Yes(ChirpstackSource),
    /// This node stops: it takes the session no more.
    NeverAgain,
}

/// Opens and closes the session as partitions come and go.
#[derive(Debug)]
pub struct SessionOwner {
    /// Where the session's tasks run.
    arbiter: ArbiterHandle,
    config: ChirpstackConfig,
    intake: Arc<dyn Intake>,
    gateways: Arc<dyn GatewayStore>,
    held: Mutex<Held>,
    health: SessionHealth,
}

impl SessionOwner {
    /// Holds nothing yet. The session will run on `arbiter`, with the gate's work for it: a thread of its own, since reading, checking
    /// and acknowledging is a steady load that neither administration nor a busy partition is to wait for.
    ///
    /// # Errors
    /// The configuration cannot work: better told at the start than at a takeover.
    pub fn new(
        arbiter: ArbiterHandle,
        config: ChirpstackConfig,
        intake: Arc<dyn Intake>,
        gateways: Arc<dyn GatewayStore>,
    ) -> Result<Self, SourceError> {
        config.check()?;
        Ok(Self { arbiter, config, intake, gateways, held: Mutex::new(Held::No), health: SessionHealth::default() })
    }

    /// Where its health can be read.
    pub fn health(&self) -> SessionHealth {
        self.health.clone()
    }

    /// These partitions are ours now.
    pub async fn assigned(&self, partitions: &[PartitionId]) {
        if !partitions.contains(&SESSION_PARTITION) {
            return;
        }
        let mut held = self.held.lock().await;
        if !matches!(*held, Held::No) {
            return;
        }
        match self.open().await {
            None => tracing::error!("the session with chirpstack's broker cannot be opened: its thread has ended"),
            Some(Ok(source)) => {
                tracing::info!(
                    client_id = self.config.client_id,
                    "this node holds the session with chirpstack's broker"
                );
                self.health.set(Some(source.health_cell()));
                *held = Held::Yes(source);
            }
            // What was checked at the start has changed since: a certificate file, say.
            Some(Err(error)) => tracing::error!(%error, "the session with chirpstack's broker cannot be opened"),
        }
    }

    /// Starts the source on its arbiter, so that the tasks it spawns live there; `None` when that thread is gone.
    async fn open(&self) -> Option<Result<ChirpstackSource, SourceError>> {
        let (config, intake, gateways) = (self.config.clone(), Arc::clone(&self.intake), Arc::clone(&self.gateways));
        let (tell, told) = oneshot::channel();
        self.arbiter.spawn_fn(move || {
            // Nobody waits any more when the assignment was given up meanwhile: the source then stops as it is dropped.
            let _ = tell.send(ChirpstackSource::start(config, intake, gateways));
        });
        told.await.ok()
    }

    /// These partitions are to be given up. Whether what was under way could be finished within that time.
    pub async fn revoked(&self, partitions: &[PartitionId], within: Duration) -> bool {
        if !partitions.contains(&SESSION_PARTITION) {
            return true;
        }
        let mut held = self.held.lock().await;
        if matches!(*held, Held::NeverAgain) {
            return true;
        }
        self.close(std::mem::replace(&mut *held, Held::No), within).await
    }

    /// This node stops.
    pub async fn stop(&self, within: Duration) -> bool {
        let mut held = self.held.lock().await;
        self.close(std::mem::replace(&mut *held, Held::NeverAgain), within).await
    }

    async fn close(&self, held: Held, within: Duration) -> bool {
        self.health.set(None);
        match held {
            Held::Yes(source) => source.stop(within).await,
            Held::No | Held::NeverAgain => true,
        }
    }
}
