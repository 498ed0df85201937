//! Log lines: structured, to standard output, as text or JSON; warnings and errors to the system log as well.
//!
//! The filter is for Sluse's own lines. What the libraries say below `info` is never logged: the database's driver tells the parameters
//! of every statement there, HTTP and mail clients their headers and log-ins.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TracingConfig};
use crate::system_log::{self, SystemLogFeed};

/// Whether a line may be logged at all.
fn is_loggable(line: &Metadata<'_>) -> bool {
    let is_ours = line.target().starts_with("sluse") || line.target() == "audit";
    is_ours || *line.level() <= Level::INFO
}

/// What is logged: the configured filter, within what may be.
///
/// Without a hint of its own the second filter would take the first one's away, and every trace line of every library would be
/// made before it is thrown away: the Kafka client has several per record.
fn filter<S>(configured: &str) -> anyhow::Result<impl Filter<S> + use<S>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + 'static,
{
    let configured = EnvFilter::try_new(configured)
        .map_err(|error| anyhow::anyhow!("tracing.filter (SLUSE_LOG) is not understood: {error}"))?;
    Ok(configured.and(filter_fn(is_loggable).with_max_level_hint(LevelFilter::TRACE)))
}

/// Begins to log; what comes back is what the system log is to hold.
///
/// # Errors
/// When the filter is not understood.
pub fn start(config: &TracingConfig) -> anyhow::Result<SystemLogFeed> {
    let filter = filter(&config.filter)?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(std::io::stdout().is_terminal());
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (picks_up, feed) = system_log::layer();
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(picks_up.with_filter(LevelFilter::WARN))
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot log: {error}"))?;
    Ok(feed)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn lines_that_nobody_sees_are_not_even_made() {
        let hint = |configured: &str| filter::<Registry>(configured).unwrap().max_level_hint();
        assert_eq!(hint("info"), Some(LevelFilter::INFO));
        assert_eq!(hint("warn,sluse_engine=debug"), Some(LevelFilter::DEBUG));
        assert!(filter::<Registry>("sluse=loud").is_err());
    }
}
