//! What is done again and again about ChirpStack, on one node at a time ([`Job`]): what was left half done is brought in line,
//! gateways' figures are fetched and their alarms raised, and what was made in ChirpStack gets its rows.
//!
//! Everything here bears being done twice. Reading order: [`figures`], [`alarms`], [`imports`].

pub mod alarms;
pub mod figures;
pub mod imports;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use sluse_http::network::align::align_due;
use sluse_schema::permission::Principal;
use sluse_schema::policy::{Action, Permit, Resource, decide};
use sluse_schema::port::admin::lorawan::NetworkTaskStore;
use sluse_schema::port::{Mailer, NetworkServer};
use tokio::task::JoinHandle;

use crate::metrics::{CHIRPSTACK_TASK_AGE_SECONDS, CHIRPSTACK_TASKS};
use crate::store::Store;
use crate::store::admin::PgAdminStore;
use crate::store::leader::Job;

const ALIGN: Job = Job { name: "chirpstack align", every: Duration::from_secs(15) };
/// Figures of gateways, new gateways, who is offline.
pub const GATEWAYS: Job = Job { name: "gateway figures", every: Duration::from_secs(60) };
/// Whose packets of yesterday are unusual.
pub const PACKETS: Job = Job { name: "unusual packets", every: Duration::from_secs(15 * 60) };
const IMPORTS: Job = Job { name: "chirpstack imports", every: Duration::from_secs(60 * 60) };

/// Objects brought in line by one run, at most.
const NUM_ALIGNED_MAX: i64 = 500;

/// What the jobs work with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LorawanJobs {
    pub admin: PgAdminStore,
    pub network: Arc<dyn NetworkServer>,
    pub mailer: Arc<dyn Mailer>,
    /// Where the web client is: mails name its page of the gateway.
    pub frontend_base_url: String,
}

impl LorawanJobs {
    /// Starts all of them, for ever.
    pub fn spawn(self, store: &Arc<Store>) -> Vec<JoinHandle<()>> {
        let keep = |job: Job, jobs: Self, run: fn(Self) -> Run| {
            tokio::spawn(Arc::clone(store).keep_doing(job, move || run(jobs.clone())))
        };
        vec![
            keep(ALIGN, self.clone(), |jobs| Box::pin(async move { jobs.align().await })),
            keep(GATEWAYS, self.clone(), |jobs| Box::pin(async move { jobs.gateways(Utc::now()).await })),
            keep(PACKETS, self.clone(), |jobs| Box::pin(async move { jobs.unusual_packets(Utc::now()).await })),
            keep(IMPORTS, self, |jobs| Box::pin(async move { jobs.import().await })),
        ]
    }

    /// Brings in line what is due.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn align(&self) -> Result<(), String> {
        let aligned = align_due(&self.admin, self.network.as_ref(), NUM_ALIGNED_MAX).await;
        let (num, oldest_s) = self.admin.network_backlog().await.map_err(|error| error.to_string())?;
        metrics::gauge!(CHIRPSTACK_TASKS).set(num as f64);
        metrics::gauge!(CHIRPSTACK_TASK_AGE_SECONDS).set(oldest_s as f64);
        aligned.map(drop).map_err(|error| error.to_string())
    }

    /// Fetches gateways' figures, gives rows to new ones, and raises alarms: only on figures that were just fetched, so that an
    /// absent ChirpStack makes no gateway look offline.
    ///
    /// # Errors
    /// ChirpStack or the database could not be asked.
    pub async fn gateways(&self, now: chrono::DateTime<Utc>) -> Result<(), String> {
        let known = self.network.gateways().await.map_err(|error| error.to_string())?;
        self.import_gateways(&known).await?;
        self.fetch_figures(&known, now.date_naive()).await?;
        self.admin.seed_gateway_states().await.map_err(|error| error.to_string())?;
        self.offline_alarms(now).await
    }
}

type Run = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Sluse's own permission; the policy lets it do everything.
fn permit(resource: Resource) -> Result<Permit, String> {
    decide(&Principal::system(), Action::Write, resource).map_err(|error| error.to_string())
}
