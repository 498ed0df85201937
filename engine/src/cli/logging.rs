//! Log lines: structured, to standard output, as text or JSON; warnings and errors to the system log as well.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TracingConfig};
use crate::system_log::{self, SystemLogFeed};

/// Begins to log; what comes back is what the system log is to hold.
///
/// # Errors
/// When the filter is not understood.
pub fn start(config: &TracingConfig) -> anyhow::Result<SystemLogFeed> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| anyhow::anyhow!("tracing.filter (SLUSE_LOG) is not understood: {error}"))?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(std::io::stdout().is_terminal());
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (picks_up, feed) = system_log::layer();
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(picks_up.with_filter(tracing_subscriber::filter::LevelFilter::WARN))
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot log: {error}"))?;
    Ok(feed)
}
