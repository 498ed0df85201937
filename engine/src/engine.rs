//! One node, from its configuration to its end: what is started, in which order, and stopped in the opposite one.

use std::sync::Arc;
use std::time::Duration;

use sluse_schema::secret::Secret;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::metrics::Metrics;
use crate::shutdown::{Shutdown, StopReport};
use crate::store::bootstrap::NewCredentials;
use crate::store::private_postgres::{PrivatePostgres, PrivatePostgresError};
use crate::store::{Cipher, CipherError, OpenError, Store, StoreConfig};
use crate::system_log::SystemLogFeed;

/// Writing what is left, and PostgreSQL, if it is ours.
const ADAPTERS_CLOSE_WITHIN: Duration = Duration::from_secs(45);
/// The longest that a stop may take: a service manager that kills earlier makes it an unclean one.
pub const STOPS_WITHIN: Duration =
    Duration::from_secs(crate::pipeline::STOPS_WITHIN.as_secs() + ADAPTERS_CLOSE_WITHIN.as_secs());

/// Why a node could not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Bootstrap(#[from] crate::store::admin::BootstrapError),
    #[error(transparent)]
    Postgres(#[from] PrivatePostgresError),
    #[error(transparent)]
    Cipher(#[from] CipherError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    StoreCall(#[from] sluse_schema::port::StoreError),
    #[error(transparent)]
    Build(#[from] crate::pipeline::BuildError),
    #[error("metrics cannot be kept: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("signals cannot be heard: {0}")]
    Signals(std::io::Error),
}

/// Runs a node until SIGTERM or SIGINT, and says how the stop went. Call it inside an `actix::System`.
///
/// # Errors
/// A [`RunError`] when it could not start.
pub async fn run(config: Config, system_log: SystemLogFeed) -> Result<StopReport, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    // The process's default for every TLS connection; an error means that it is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    crate::pipeline::check(&config)?;
    let metrics = Metrics::install()?;
    let upkeep = tokio::spawn(metrics.clone().upkeep());

    let data_dir = DataDir::open(&config.data_dir)?;
    let keys = data_dir.keys(&config)?;
    let postgres = match &config.database.url {
        Some(_) => None,
        None => Some(PrivatePostgres::start(data_dir.path()).await?),
    };
    let url = match (&config.database.url, &postgres) {
        (Some(url), _) => url.clone(),
        (None, Some(postgres)) => postgres.url(),
        (None, None) => Secret::default(),
    };
    let cipher = Arc::new(Cipher::new(&keys.secret_key)?);
    let store_config = StoreConfig { url, num_connections_max: config.database.num_connections_max };
    let store = Store::connect(store_config, cipher, config.log.num_partitions).await?;
    if let Some(made) = store.bootstrap(&config.admin.email, config.admin.password.as_ref()).await? {
        print_credentials(&made);
    }

    let system_log = tokio::spawn(system_log.run(Arc::clone(&store), keys.node_id.clone()));
    let audit = tokio::spawn(Arc::clone(&store).expire_logs_hourly(config.audit));
    let pipeline = crate::pipeline::build(&config, &keys, &store, &metrics).await?;
    for address in pipeline.addresses() {
        tracing::info!(%address, "the API listens");
    }
    for address in pipeline.tls_addresses() {
        tracing::info!(%address, "the API listens for TLS");
    }
    notify_systemd(sd_notify::NotifyState::Ready);
    tracing::info!(node_id = %keys.node_id, data_dir = %data_dir.path().display(), "ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM, stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT, stopping"),
            _ = hang_up.recv() => {
                tracing::info!("SIGHUP, reading what can be read again");
                pipeline.reload_certificates();
                continue;
            }
        }
        break;
    }
    notify_systemd(sd_notify::NotifyState::Stopping);
    let report = pipeline
        .stop_phases(Shutdown::new())
        .phase("adapters close", ADAPTERS_CLOSE_WITHIN, async move {
            audit.abort();
            system_log.abort();
            store.close();
            upkeep.abort();
            let is_clean = match postgres {
                Some(postgres) => postgres.stop().await,
                None => true,
            };
            if is_clean { Ok(()) } else { Err("PostgreSQL had to be stopped by force".to_owned()) }
        })
        .run()
        .await;
    Ok(report)
}

/// Tells systemd, if it started us (`Type=notify` in deploy/sluse.service).
fn notify_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Once, on standard output and not in the log.
fn print_credentials(made: &NewCredentials) {
    let Some(password) = &made.generated_password else {
        tracing::info!(email = %made.email, "made the first administrator with the configured password");
        return;
    };
    println!(
        "\n  The first administrator. This password is shown once; `sluse admin reset-password` makes another.\n\
         \n    e-mail:   {}\n    password: {}\n",
        made.email,
        password.reveal()
    );
}
