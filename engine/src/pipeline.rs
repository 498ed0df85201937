//! The map: one function builds the whole pipeline, from where readings end up to where they come in.
//!
//! ```text
//! ChirpStack MQTT ─┐              ┌──────────── device stage ───────────┐              ┌─ target stage ─┐
//! HTTP ────────────┴─► gate ─► uplinks log ─► partition ─► device ─► step ─► deliveries log ─► target ─► receiver
//!                                                  └─► device rows (PostgreSQL)               └─► cursors (PostgreSQL)
//! ```
//!
//! Whatever is built first is stopped last; [`Pipeline::stop_phases`] is the same order the other way round.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use sluse_actors::device::WindowPolicy;
use sluse_actors::intake::{Directory, Gate, GateConfig, UnknownLister};
use sluse_actors::partition::config::ConfigCache;
use sluse_actors::partition::{DevicePorts, DeviceStage, DeviceStageConfig};
use sluse_actors::reload::Reloader;
use sluse_actors::reload::reloader::DecoderSubscriber;
use sluse_actors::tail::Tail;
use sluse_actors::target::{Clock, TargetPorts, TargetStage, TargetStageConfig, TargetStageHandle};
use sluse_http::{HttpConfig, HttpServer, Ports};
use sluse_schema::port::{Assignment, CallersEpoch, Log, Mailer};
use tokio::task::JoinHandle;

use crate::callers::CallersSubscriber;
use crate::config::{Config, Durability as ConfiguredDurability};
use crate::data_dir::Keys;
use crate::decoder::{DecoderConfig, DecoderPool};
use crate::identity::Identities;
use crate::log::{Durability, EmbeddedLog, EmbeddedLogConfig};
use crate::mail::{NoMailer, SmtpMailer};
use crate::metrics::Metrics;
use crate::probe::Probes;
use crate::readiness::NodeReadiness;
use crate::send::{EgressPolicy, Senders};
use crate::shutdown::Shutdown;
use crate::sigfox::SigfoxClient;
use crate::source::{ChirpstackConfig, ChirpstackSource};
use crate::store::Store;
use crate::store::admin::PgAdminStore;

/// Senders of whom is remembered who they are.
const NUM_SENDERS_CACHED_MAX: usize = 200_000;
/// Device configurations remembered beyond their actors, for when PostgreSQL is away.
const NUM_CONFIGS_CACHED_MAX: usize = 200_000;

/// How long each phase of a stop may take.
const SOURCES_STOP_WITHIN: Duration = Duration::from_secs(10);
const PARTITIONS_DRAIN_WITHIN: Duration = Duration::from_secs(20);
const TARGETS_DRAIN_WITHIN: Duration = Duration::from_secs(10);
const REST_STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Why the pipeline could not be built. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("log: {0}")]
    OpenLog(#[from] crate::log::OpenLogError),
    #[error("log: {0}")]
    Log(#[from] sluse_schema::port::LogError),
    #[error("decoders: {0}")]
    Decoder(#[from] crate::decoder::PoolError),
    #[error("SLUSE_ALLOW_PRIVATE_TARGETS: {0}")]
    Egress(#[from] crate::send::EgressSettingError),
    #[error("targets: {0}")]
    Senders(#[from] crate::send::SendersError),
    #[error("ChirpStack: {0}")]
    Source(#[from] crate::source::SourceError),
    #[error("SLUSE_SIGFOX_API_URL: {0}")]
    Sigfox(#[from] crate::sigfox::SigfoxSetUpError),
    #[error("mail: {0}")]
    Mail(#[from] crate::mail::MailSetupError),
    #[error("HTTP: {0}")]
    Http(#[from] sluse_http::StartError),
    #[error(transparent)]
    Store(#[from] sluse_schema::port::StoreError),
    #[error("a thread of the pipeline ended while it was built")]
    Arbiter,
    #[error("this program's own path is not known, so it cannot start decoder workers: {0}")]
    OwnPath(#[source] std::io::Error),
}

/// A node at work.
#[derive(Debug)]
pub struct Pipeline {
    decoder: Arc<DecoderPool>,
    log: Arc<EmbeddedLog>,
    targets: TargetStageHandle,
    devices: DeviceStage,
    chirpstack: Option<ChirpstackSource>,
    http: HttpServer,
    tasks: Vec<JoinHandle<()>>,
    /// Kept: dropping an arbiter's handle stops nothing, but its thread must be joined at the end.
    arbiters: Vec<Arbiter>,
}

/// Builds the pipeline, sink to source, and lets it begin.
///
/// # Errors
/// A [`BuildError`]; what was started by then ends with the process.
pub async fn build(
    config: &Config,
    keys: &Keys,
    store: &Arc<Store>,
    metrics: &Metrics,
) -> Result<Pipeline, BuildError> {
    let mut arbiters: Vec<Arbiter> = (0..num_cores()).map(|_| Arbiter::new()).collect();
    let handles: Vec<ArbiterHandle> = arbiters.iter().map(Arbiter::handle).collect();

    // ── receivers: how a delivery leaves ────────────────────────────────────────────────────────────────────────────
    let egress = EgressPolicy::from_setting(&config.target.allow_private)?;
    let user_agent = concat!("sluse/", env!("CARGO_PKG_VERSION"));
    let senders = Senders::for_node(egress, config.target.ca_certificates.clone(), user_agent, &keys.node_id)?;

    // ── decoders: users' code, in processes of its own ──────────────────────────────────────────────────────────────
    let decoder = DecoderPool::start(decoder_config(config)?)?;

    // ── the log between the stages ──────────────────────────────────────────────────────────────────────────────────
    let log = EmbeddedLog::open(log_config(config))?;

    // ── target stage: deliveries log ─► receivers ───────────────────────────────────────────────────────────────────
    let target_ports = TargetPorts {
        log: Arc::clone(&log) as Arc<dyn Log>,
        store: Arc::clone(store) as _,
        senders: Arc::clone(&senders) as _,
        decoder: Arc::clone(&decoder) as _,
        clock: Clock::system(),
    };
    let targets = TargetStage::start(TargetStageConfig::default(), &target_ports, &handles);

    // ── device stage: uplinks log ─► devices ─► deliveries log ──────────────────────────────────────────────────────
    let tail = Tail::default();
    let device_ports = DevicePorts {
        log: Arc::clone(&log) as _,
        store: Arc::clone(store) as _,
        decoder: Arc::clone(&decoder) as _,
        tail: Arc::clone(&tail.0),
        configs: Arc::new(ConfigCache::new(NUM_CONFIGS_CACHED_MAX)),
    };
    let devices = DeviceStage::start(stage_config(config), &device_ports, &handles);

    // ── the gate: who sent it, and is it durable ────────────────────────────────────────────────────────────────────
    let directory = Arc::new(Directory::new(NUM_SENDERS_CACHED_MAX));
    let strangers = UnknownLister::default();
    let gate = Gate::open(
        Arc::clone(&log) as _,
        Arc::clone(store) as _,
        Arc::clone(&directory),
        strangers.clone(),
        GateConfig::default(),
    );
    let gate = Arc::new(gate.await?);

    // ── mail: what people are written ───────────────────────────────────────────────────────────────────────────────
    let mailer: Arc<dyn Mailer> = match &config.mail {
        Some(mail) => Arc::new(SmtpMailer::new(mail)?),
        None => Arc::new(NoMailer),
    };

    // ── administration reaches running actors ───────────────────────────────────────────────────────────────────────
    let reloader = Reloader::new(Arc::clone(store) as _).await?;
    let callers = Arc::new(CallersEpoch::default());
    let reloader = reloader
        .with(Arc::new(CallersSubscriber(Arc::clone(&callers))))
        .with(directory)
        .with(Arc::new(DecoderSubscriber(Arc::clone(&decoder) as _)))
        .with(Arc::new(devices.clone()))
        .with(Arc::new(targets.clone()));
    let mut tasks = vec![
        tokio::spawn(reloader.run()),
        tokio::spawn(strangers.run(Arc::clone(store) as _)),
        tokio::spawn(follow_assignments(Arc::clone(&log) as _, devices.clone(), targets.clone())),
    ];

    // ── sources: how an uplink gets in ──────────────────────────────────────────────────────────────────────────────
    let chirpstack = match &config.chirpstack.mqtt_url {
        None => None,
        Some(url) => {
            let mut source = ChirpstackConfig::new(url.reveal(), format!("sluse-{}", keys.node_id));
            source.ca_file = config.chirpstack.ca_certificates.clone();
            source.receive_max = config.chirpstack.receive_maximum;
            // With the gate behind it, a thread of its own: what reads, checks and acknowledges is a steady load that neither
            // administration nor a busy partition is to wait for.
            let (intake, gateways) = (Arc::clone(&gate), Arc::clone(store));
            let arbiter = Arbiter::new();
            let started =
                on_arbiter(&arbiter, move || ChirpstackSource::start(source, intake as _, gateways as _)).await;
            arbiters.push(arbiter);
            Some(started.ok_or(BuildError::Arbiter)??)
        }
    };
    let render = {
        let metrics = metrics.clone();
        Arc::new(move || metrics.render())
    };
    let http = sluse_http::start(
        http_config(config, keys),
        Ports {
            intake: gate,
            admin: Arc::new(PgAdminStore::new(store)),
            decoder: Arc::clone(&decoder) as _,
            tail: Arc::new(tail),
            identities: Arc::new(Identities::new(store)),
            sigfox: Arc::new(SigfoxClient::new(&config.sigfox_api_url)?),
            probe: Arc::new(Probes::new(store, &senders)),
            readiness: Arc::new(NodeReadiness::new(
                Arc::clone(store),
                Arc::clone(&log) as _,
                chirpstack.as_ref().map(ChirpstackSource::health_cell),
            )),
            mailer,
            callers,
            render_metrics: render,
        },
    )?;
    tasks.push(tokio::spawn(Arc::clone(store).keep_house()));
    Ok(Pipeline { decoder, log, targets, devices, chirpstack, http, tasks, arbiters })
}

/// Runs `start` on an arbiter's thread, so that the tasks it spawns live there; `None` when the arbiter is gone.
async fn on_arbiter<T: Send + 'static>(arbiter: &Arbiter, start: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        // Nobody waits any more when the build was given up.
        let _ = tell.send(start());
    });
    told.await.ok()
}

/// Hands partitions to the stages and takes them back, as the log says. Uplinks and deliveries partitions go together.
async fn follow_assignments(log: Arc<dyn Log>, devices: DeviceStage, targets: TargetStageHandle) {
    loop {
        match log.next_assignment().await {
            Assignment::Assigned(partitions) => {
                if targets.assign(&partitions).await.and(devices.assign(&partitions).await).is_err() {
                    tracing::error!(?partitions, "a stage is gone, these partitions are not worked on");
                }
            }
            Assignment::Revoked { partitions, done } => {
                let is_clean = devices.revoke(&partitions).await & targets.revoke(&partitions).await;
                tracing::info!(?partitions, is_clean, "partitions given up");
                drop(done);
            }
        }
    }
}

impl Pipeline {
    /// Where the API listens.
    pub fn addresses(&self) -> &[std::net::SocketAddr] {
        &self.http.addrs
    }

    /// Adds this pipeline's phases to a stop, source to sink.
    pub fn stop_phases(self, shutdown: Shutdown) -> Shutdown {
        let Self { decoder, log, targets, devices, chirpstack, http, tasks, arbiters } = self;
        http.stop_intake();
        shutdown
            .phase("sources stop", SOURCES_STOP_WITHIN + Duration::from_secs(1), async move {
                let is_clean = match chirpstack {
                    Some(source) => source.stop(SOURCES_STOP_WITHIN).await,
                    None => true,
                };
                is_clean.then_some(()).ok_or_else(|| "the broker sends what is unacknowledged again".to_owned())
            })
            .phase("partitions drain", PARTITIONS_DRAIN_WITHIN + Duration::from_secs(1), async move {
                let is_clean = devices.drain(PARTITIONS_DRAIN_WITHIN).await;
                is_clean.then_some(()).ok_or_else(|| "open uplinks are read again at the next start".to_owned())
            })
            .phase("targets drain", TARGETS_DRAIN_WITHIN + Duration::from_secs(1), async move {
                let is_clean = targets.drain(TARGETS_DRAIN_WITHIN).await;
                is_clean.then_some(()).ok_or_else(|| "deliveries in flight are sent again at the next start".to_owned())
            })
            .phase("the API stops", REST_STOPS_WITHIN + Duration::from_secs(1), async move {
                let is_clean = http.stop(REST_STOPS_WITHIN).await;
                is_clean.then_some(()).ok_or_else(|| "requests were cut off".to_owned())
            })
            .phase("the log closes", REST_STOPS_WITHIN, async move {
                for task in tasks {
                    task.abort();
                }
                log.close().await.map_err(|error| error.to_string())
            })
            .phase("decoders stop", REST_STOPS_WITHIN, async move {
                decoder.stop().await;
                for arbiter in arbiters {
                    arbiter.stop();
                }
                Ok(())
            })
    }
}

fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn decoder_config(config: &Config) -> Result<DecoderConfig, BuildError> {
    let own_path = std::env::current_exe().map_err(BuildError::OwnPath)?;
    let mut decoder = DecoderConfig::new(vec![own_path.to_string_lossy().into_owned(), "decoder-worker".to_owned()]);
    decoder.num_workers = config.decoder.num_workers.unwrap_or_else(num_cores);
    decoder.watchdog = config.decoder.timeout;
    decoder.limits.memory_bytes_max = usize::try_from(config.decoder.memory_bytes_max).unwrap_or(usize::MAX);
    Ok(decoder)
}

fn log_config(config: &Config) -> EmbeddedLogConfig {
    let mut log = EmbeddedLogConfig::new(config.data_dir.join("log"), config.log.num_partitions);
    log.retention_ms = u64::try_from(config.log.retention.as_millis()).unwrap_or(u64::MAX);
    log.retention_bytes_max = config.log.retention_bytes_max;
    log.free_space_reserve_bytes = config.log.free_bytes_reserve;
    log.durability = match config.log.durability {
        ConfiguredDurability::Fsync => Durability::FsyncBeforeAck,
        ConfiguredDurability::Written => Durability::FsyncEveryMs(100),
    };
    log
}

fn stage_config(config: &Config) -> DeviceStageConfig {
    let window = match config.device.window_age {
        Some(age) => WindowPolicy::Within(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        None => WindowPolicy::Last(config.device.window_length),
    };
    DeviceStageConfig { window, passivate_after: config.device.passivate_after, ..DeviceStageConfig::default() }
}

fn http_config(config: &Config, keys: &Keys) -> HttpConfig {
    let mut http = HttpConfig::new(config.http.listen, keys.jwt_secret.clone());
    http.metrics_listen = config.metrics.listen;
    http.frontend_base_url = config.http.frontend_base_url.clone();
    http.token_lifetime = config.http.token_lifetime;
    http.backend_base_url = config.http.backend_base_url.clone();
    http.mqtt_broker_hostname = config.mqtt_broker_hostname.clone();
    http.trusted_proxies = config.http.trusted_proxies.clone();
    http.num_workers = config.http.num_workers;
    http
}
