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
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, ArbiterHandle};
use sluse_actors::device::WindowPolicy;
use sluse_actors::intake::{Directory, EntranceLimit, Gate, GateConfig, LimitConfig, UnknownLister};
use sluse_actors::partition::config::ConfigCache;
use sluse_actors::partition::{DevicePorts, DeviceStage, DeviceStageConfig};
use sluse_actors::reload::Reloader;
use sluse_actors::reload::reloader::DecoderSubscriber;
use sluse_actors::tail::Tail;
use sluse_actors::target::{Clock, TargetPorts, TargetStage, TargetStageConfig, TargetStageHandle};
use sluse_http::login::LogInProviders;
use sluse_http::{HttpConfig, HttpServer, Ports};
use sluse_schema::beat::Beat;
use sluse_schema::port::{CallersEpoch, Log, Mailer, NetworkServer, SenderFactory, SharedLimits};
use tokio::task::JoinHandle;

use crate::assigned::Assigned;
use crate::callers::CallersSubscriber;
use crate::chirpstack_api::{ChirpstackApi, ChirpstackApiConfig};
use crate::config::{Config, Durability as ConfiguredDurability, SenderLimit};
use crate::data_dir::Keys;
use crate::decoder::{DecoderConfig, DecoderPool};
use crate::identity::Identities;
use crate::kafka_log::own::SILENT_AFTER;
use crate::kafka_log::{KafkaLog, KafkaLogConfig, LeasedSenders};
use crate::log::{Durability, EmbeddedLog, EmbeddedLogConfig};
use crate::login::{Kombit, LogInSettingsError, Oidc};
use crate::lorawan_jobs::LorawanJobs;
use crate::mail::{NoMailer, SmtpMailer};
use crate::metrics::Metrics;
use crate::probe::Probes;
use crate::readiness::NodeReadiness;
use crate::redis::Redis;
use crate::send::tls::Authorities;
use crate::send::{EgressPolicy, Senders};
use crate::shutdown::Shutdown;
use crate::sigfox::SigfoxClient;
use crate::source::{ChirpstackConfig, SessionOwner};
use crate::store::Store;
use crate::store::admin::PgAdminStore;

/// Senders of whom is remembered who they are.
const NUM_SENDERS_CACHED_MAX: usize = 200_000;
/// Device configurations remembered beyond their actors, for when PostgreSQL is away.
const NUM_CONFIGS_CACHED_MAX: usize = 200_000;
/// The moments at which rounds of appends begin on Kafka, and those at which partitions read, their steps with them: a request costs this
/// node and Kafka as much for one record as for a hundred, and a transaction what 50 uplinks cost otherwise. At 50 ms an uplink costs this
/// node a seventh and Kafka a third more, and is delivered 20 ms sooner; beyond 80 ms little is saved.
pub const KAFKA_MOMENTS: Duration = Duration::from_millis(80);
const _: () =
    assert!(SILENT_AFTER.as_millis() >= 2 * KAFKA_MOMENTS.as_millis(), "or what this node wrote is fetched back");
/// The events of the broker are handed over shortly before.
const KAFKA_HAND_OVER_BEFORE_APPEND: Duration = Duration::from_millis(5);
/// A round is durable by then, mostly: it is read at once.
const KAFKA_READ_AFTER_APPEND: Duration = Duration::from_millis(15);

/// How long each phase of a stop may take.
const SOURCES_STOP_WITHIN: Duration = Duration::from_secs(10);
const PARTITIONS_DRAIN_WITHIN: Duration = Duration::from_secs(20);
const TARGETS_DRAIN_WITHIN: Duration = Duration::from_secs(10);
const REST_STOPS_WITHIN: Duration = Duration::from_secs(10);
/// Beyond what the stage itself is given.
const GRACE: Duration = Duration::from_secs(1);
/// All phases of [`Pipeline::stop_phases`] together.
pub const STOPS_WITHIN: Duration = Duration::from_secs(
    SOURCES_STOP_WITHIN.as_secs()
        + PARTITIONS_DRAIN_WITHIN.as_secs()
        + TARGETS_DRAIN_WITHIN.as_secs()
        + 3 * REST_STOPS_WITHIN.as_secs()
        + 4 * GRACE.as_secs(),
);

/// Why the pipeline could not be built. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("log: {0}")]
    OpenLog(#[from] crate::log::OpenLogError),
    #[error("log: {0}")]
    OpenKafka(#[from] crate::kafka_log::OpenKafkaError),
    #[error("log: {0}")]
    LogSwitch(#[from] crate::log_switch::SwitchError),
    #[error("log: {0}")]
    Log(#[from] sluse_schema::port::LogError),
    #[error("decoders: {0}")]
    Decoder(#[from] crate::decoder::PoolError),
    #[error(transparent)]
    Egress(#[from] crate::send::EgressSettingError),
    #[error("targets: {0}")]
    Senders(#[from] crate::send::SendersError),
    #[error("ChirpStack: {0}")]
    Source(#[from] crate::source::SourceError),
    #[error("{0}")]
    ChirpstackApi(#[from] crate::chirpstack_api::ConnectError),
    #[error("log-in: {0}")]
    LogIn(#[from] LogInSettingsError),
    #[error("SLUSE_SIGFOX_API_URL: {0}")]
    Sigfox(#[from] crate::sigfox::SigfoxSetUpError),
    #[error("mail: {0}")]
    Mail(#[from] crate::mail::MailSetupError),
    #[error(transparent)]
    Redis(#[from] crate::redis::RedisError),
    #[error("HTTP: {0}")]
    Http(#[from] sluse_http::StartError),
    #[error(transparent)]
    Store(#[from] sluse_schema::port::StoreError),
    #[error("this program's own path is not known, so it cannot start decoder workers: {0}")]
    OwnPath(#[source] std::io::Error),
}

/// A node at work.
#[derive(Debug)]
pub struct Pipeline {
    decoder: Arc<DecoderPool>,
    log: Arc<dyn Log>,
    targets: TargetStageHandle,
    devices: DeviceStage,
    chirpstack: Option<Arc<SessionOwner>>,
    http: HttpServer,
    tasks: Vec<JoinHandle<()>>,
    /// Kept: dropping an arbiter's handle stops nothing, but its thread must be joined at the end.
    arbiters: Vec<Arbiter>,
}

/// Checks what can be checked of the settings without starting or asking anything: what is wrong is told before a database runs.
///
/// # Errors
/// The [`BuildError`] that [`build`] would end with.
pub fn check(config: &Config) -> Result<(), BuildError> {
    EgressPolicy::from_setting(&config.target.allow_private)?;
    Authorities::load(config.target.ca_certificates.as_deref()).map_err(crate::send::SendersError::from)?;
    if let Some(kafka) = kafka_config(config, "") {
        kafka.check_properties()?;
    }
    if let Some(redis) = &config.redis {
        redis.client()?;
    }
    if let Some(source) = source_config(config, "", Instant::now()) {
        source.check()?;
    }
    log_in_providers(config)?;
    SigfoxClient::new(&config.sigfox_api_url)?;
    if let Some(mail) = &config.mail {
        SmtpMailer::new(mail)?;
    }
    Ok(())
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
    let started_at = Instant::now();
    let mut arbiters: Vec<Arbiter> = (0..num_cores()).map(|_| Arbiter::new()).collect();
    let handles: Vec<ArbiterHandle> = arbiters.iter().map(Arbiter::handle).collect();

    // ── receivers: how a delivery leaves ────────────────────────────────────────────────────────────────────────────
    let egress = EgressPolicy::from_setting(&config.target.allow_private)?;
    let user_agent = concat!("sluse/", env!("CARGO_PKG_VERSION"));
    let senders = Senders::for_node(egress, config.target.ca_certificates.clone(), user_agent, &keys.node_id)?;

    // ── decoders: users' code, in processes of its own ──────────────────────────────────────────────────────────────
    let decoder = DecoderPool::start(decoder_config(config)?)?;

    // ── the log between the stages ──────────────────────────────────────────────────────────────────────────────────
    let (log, leased_senders) = open_log(config, keys, &senders, started_at).await?;
    crate::log_switch::check(store, log.as_ref(), &config.log.leave, &log_config(config)).await?;

    // ── target stage: deliveries log ─► receivers ───────────────────────────────────────────────────────────────────
    let target_ports = TargetPorts {
        log: Arc::clone(&log),
        store: Arc::clone(store) as _,
        senders: leased_senders,
        decoder: Arc::clone(&decoder) as _,
        clock: Clock::system(),
    };
    let targets = TargetStage::start(TargetStageConfig::default(), &target_ports, &handles);

    // ── device stage: uplinks log ─► devices ─► deliveries log ──────────────────────────────────────────────────────
    let tail = Tail::default();
    let device_ports = DevicePorts {
        log: Arc::clone(&log),
        store: Arc::clone(store) as _,
        decoder: Arc::clone(&decoder) as _,
        tail: Arc::clone(&tail.0),
        configs: Arc::new(ConfigCache::new(NUM_CONFIGS_CACHED_MAX)),
    };
    let devices = DeviceStage::start(stage_config(config, started_at), &device_ports, &handles);

    // ── Redis: what nodes share, if there is one ────────────────────────────────────────────────────────────────────
    let installation = store.cluster_id().await?;
    let redis = config.redis.as_ref().map(|redis| Redis::open(redis, &installation)).transpose()?;
    let shared_limits = redis.as_ref().map(|redis| Arc::clone(redis) as Arc<dyn SharedLimits>);
    let limit = config.sender_limit.map(|SenderLimit { interval, burst }| {
        Arc::new(EntranceLimit::new(LimitConfig { interval, burst }, shared_limits.clone()))
    });

    // ── the gate: who sent it, and is it durable ────────────────────────────────────────────────────────────────────
    let directory = Arc::new(Directory::new(NUM_SENDERS_CACHED_MAX));
    let strangers = UnknownLister::default();
    let gate = Gate::open(
        Arc::clone(&log),
        Arc::clone(store) as _,
        Arc::clone(&directory),
        strangers.clone(),
        GateConfig::default(),
    );
    let gate = Arc::new(gate.await?.with_limit(limit.clone()));

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
    // ── sources: how an uplink gets in ──────────────────────────────────────────────────────────────────────────────
    let chirpstack = match source_config(config, &installation, started_at) {
        None => None,
        Some(source) => {
            let arbiter = Arbiter::new();
            let (thread, gate) = (arbiter.handle(), Arc::clone(&gate));
            arbiters.push(arbiter);
            Some(Arc::new(SessionOwner::new(thread, source, gate as _, Arc::clone(store) as _)?))
        }
    };
    let network = chirpstack_api(config)?;
    let assigned = Assigned { session: chirpstack.clone(), devices: devices.clone(), targets: targets.clone() };
    let mut tasks = vec![
        tokio::spawn(reloader.run()),
        tokio::spawn(strangers.run(Arc::clone(store) as _)),
        tokio::spawn(assigned.follow(Arc::clone(&log))),
        tokio::spawn(Arc::clone(store).keep_house()),
    ];
    tasks.extend(limit.map(|limit| tokio::spawn(limit.run())));
    if let Some(redis) = &redis {
        tasks.push(tokio::spawn(Arc::clone(redis).watch()));
        tasks.push(tokio::spawn(Arc::clone(redis).join_tails(Arc::clone(&tail.0), keys.node_id.clone())));
    }
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
            log_in: log_in_providers(config)?,
            identities: Arc::new(Identities::new(store)),
            sigfox: Arc::new(SigfoxClient::new(&config.sigfox_api_url)?),
            probe: Arc::new(Probes::new(store, &senders)),
            readiness: Arc::new(NodeReadiness::new(
                Arc::clone(store),
                Arc::clone(&log),
                chirpstack.as_ref().map(|session| session.health()),
                redis,
                Arc::clone(&decoder),
            )),
            network: network.clone(),
            mailer: Arc::clone(&mailer),
            limits: shared_limits,
            callers,
            render_metrics: render,
        },
    )?;
    if let Some(network) = network {
        let frontend_base_url = config.http.frontend_base_url.clone();
        tasks.extend(LorawanJobs { admin: PgAdminStore::new(store), network, mailer, frontend_base_url }.spawn(store));
    }
    Ok(Pipeline { decoder, log, targets, devices, chirpstack, http, tasks, arbiters })
}

/// The embedded log, or Kafka; on Kafka, nothing is sent but under the lease on what this node owns.
async fn open_log(
    config: &Config,
    keys: &Keys,
    senders: &Arc<Senders>,
    started_at: Instant,
) -> Result<(Arc<dyn Log>, Arc<dyn SenderFactory>), BuildError> {
    let Some(mut kafka) = kafka_config(config, &keys.node_id) else {
        return Ok((EmbeddedLog::open(log_config(config))?, Arc::clone(senders) as _));
    };
    kafka.moments = Beat::new(started_at, KAFKA_MOMENTS);
    let log = KafkaLog::open(kafka).await?;
    let senders = LeasedSenders::new(Arc::clone(senders) as _, log.lease());
    Ok((log, senders))
}

impl Pipeline {
    /// Where the API listens.
    pub fn addresses(&self) -> &[std::net::SocketAddr] {
        &self.http.addrs
    }

    /// Where it listens for TLS.
    pub fn tls_addresses(&self) -> &[std::net::SocketAddr] {
        &self.http.tls_addrs
    }

    /// Reads the TLS listener's certificate and key again.
    pub fn reload_certificates(&self) {
        self.http.reload_certificates();
    }

    /// Adds this pipeline's phases to a stop, source to sink.
    pub fn stop_phases(self, shutdown: Shutdown) -> Shutdown {
        let Self { decoder, log, targets, devices, chirpstack, http, tasks, arbiters } = self;
        http.stop_intake();
        shutdown
            .phase("sources stop", SOURCES_STOP_WITHIN + GRACE, async move {
                let is_clean = match chirpstack {
                    Some(session) => session.stop(SOURCES_STOP_WITHIN).await,
                    None => true,
                };
                is_clean.then_some(()).ok_or_else(|| "the broker sends what is unacknowledged again".to_owned())
            })
            .phase("partitions drain", PARTITIONS_DRAIN_WITHIN + GRACE, async move {
                let is_clean = devices.drain(PARTITIONS_DRAIN_WITHIN).await;
                is_clean.then_some(()).ok_or_else(|| "open uplinks are read again at the next start".to_owned())
            })
            .phase("targets drain", TARGETS_DRAIN_WITHIN + GRACE, async move {
                let is_clean = targets.drain(TARGETS_DRAIN_WITHIN).await;
                is_clean.then_some(()).ok_or_else(|| "deliveries in flight are sent again at the next start".to_owned())
            })
            .phase("the API stops", REST_STOPS_WITHIN + GRACE, async move {
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

/// ChirpStack's broker, if it is configured. Every node has the session's one name.
fn source_config(config: &Config, installation: &str, started_at: Instant) -> Option<ChirpstackConfig> {
    let said = &config.chirpstack;
    let mut source = ChirpstackConfig::new(said.mqtt_url.as_ref()?.reveal(), format!("sluse-{installation}"));
    source.ca_file = said.ca_certificates.clone();
    source.client_certificate = said.client_certificate.clone();
    source.receive_max = said.receive_maximum;
    let first_moment = started_at + (KAFKA_MOMENTS - KAFKA_HAND_OVER_BEFORE_APPEND);
    source.moments = config.kafka.is_some().then(|| Beat::new(first_moment, KAFKA_MOMENTS));
    Some(source)
}

/// ChirpStack's API, if it is configured.
fn chirpstack_api(config: &Config) -> Result<Option<Arc<dyn NetworkServer>>, BuildError> {
    let Some((url, key)) = &config.chirpstack.api else { return Ok(None) };
    let ca_file = config.chirpstack.ca_certificates.clone();
    let api = ChirpstackApi::new(&ChirpstackApiConfig { url: url.clone(), key: key.clone(), ca_file })?;
    Ok(Some(Arc::new(api)))
}

/// Log-in providers as far as they are configured. The provider's own certificate may come from whom the targets' may.
fn log_in_providers(config: &Config) -> Result<LogInProviders, LogInSettingsError> {
    let mut providers = LogInProviders::default();
    if let Some(settings) = &config.log_in.kombit {
        providers.kombit = Some(Arc::new(Kombit::new(settings)?));
    }
    if let Some(settings) = &config.log_in.oidc {
        let authorities = Authorities::load(config.target.ca_certificates.as_deref())?;
        providers.oidc = Some(Arc::new(Oidc::new(settings.clone(), &authorities)?));
    }
    Ok(providers)
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

/// Kafka as this node sees it, if it is configured.
pub(crate) fn kafka_config(config: &Config, node_id: &str) -> Option<KafkaLogConfig> {
    let said = config.kafka.as_ref()?;
    let mut kafka = KafkaLogConfig::new(&said.brokers, node_id, config.log.num_partitions);
    kafka.properties = said.properties.clone();
    kafka.prefix = said.prefix.clone();
    kafka.replication = said.replication;
    kafka.retention_ms = u64::try_from(config.log.retention.as_millis()).ok();
    kafka.retention_bytes_max = Some(config.log.retention_bytes_max);
    Some(kafka)
}

fn stage_config(config: &Config, started_at: Instant) -> DeviceStageConfig {
    let window = match config.device.window_age {
        Some(age) => WindowPolicy::Within(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        None => WindowPolicy::Last(config.device.window_length),
    };
    let mut stage =
        DeviceStageConfig { window, passivate_after: config.device.passivate_after, ..DeviceStageConfig::default() };
    if config.kafka.is_some() {
        (stage.read_interval, stage.step_interval) = (KAFKA_MOMENTS, KAFKA_MOMENTS);
        stage.moments_from = Some(started_at + KAFKA_READ_AFTER_APPEND);
    }
    stage
}

fn http_config(config: &Config, keys: &Keys) -> HttpConfig {
    let mut http = HttpConfig::new(config.http.listen, keys.jwt_secret.clone());
    http.metrics_listen = config.metrics.listen;
    http.frontend_base_url = config.http.frontend_base_url.clone();
    http.token_lifetime = config.http.token_lifetime;
    http.backend_base_url = config.http.backend_base_url.clone();
    http.tls = config.http.tls.clone();
    http.mqtt_broker_hostname = config.mqtt_broker_hostname.clone();
    http.trusted_proxies = config.http.trusted_proxies.clone();
    http.num_workers = config.http.num_workers;
    http.stats_days = config.chirpstack.stats_days;
    http
}
