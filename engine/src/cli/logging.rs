//! Log lines: structured, to standard output, as text or JSON; warnings and errors to the system log as well.
//!
//! The filter is for Sluse's own lines. What the libraries say below `info` is never logged: the database's driver tells the parameters
//! of every statement there, HTTP and mail clients their headers and log-ins.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TracingConfig};
use crate::system_log::{self, SystemLogFeed};

/// Whether a line may be logged at all.
fn is_loggable(line: &Metadata<'_>) -> bool {
    let is_ours = line.target().starts_with("sluse") || line.target() == "audit";
    is_ours || *line.level() <= Level::INFO
}

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
        .with(lines.with_filter(filter.and(filter_fn(is_loggable))))
        .with(picks_up.with_filter(tracing_subscriber::filter::LevelFilter::WARN))
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot log: {error}"))?;
    Ok(feed)
}
