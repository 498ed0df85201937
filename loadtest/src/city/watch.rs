//! Looking at a run while it goes on: figures for the live table, and for the account of what faults cost.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::City;
use crate::cli::Cli;
use crate::meter::Meter;
use crate::report::{LiveTable, Moment, Row, quantile_ms};
use crate::scenario::Scenario;

/// What a run remembers between looks.
pub(super) struct Watch {
    pub(super) table: LiveTable,
    pub(super) meter: Meter,
    pub(super) is_quiet: bool,
    pub(super) is_stopped_early: bool,
    pub(super) seconds: Option<f64>,
    pub(super) period: Duration,
    pub(super) looked_at: Instant,
    pub(super) accepted: u64,
    pub(super) engine_cpu_seconds: f64,
    pub(super) engine_rss_bytes_max: u64,
}

impl Watch {
    pub(super) fn new(cli: &Cli, scenario: &Scenario, dir: &Path) -> Self {
        Self {
            table: LiveTable::new(std::io::stdout().is_terminal()),
            meter: Meter::new(dir),
            is_quiet: cli.json,
            is_stopped_early: false,
            seconds: scenario.load.seconds,
            period: Duration::from_millis(if cli.json { 250 } else { 1000 }),
            looked_at: Instant::now(),
            accepted: 0,
            engine_cpu_seconds: 0.0,
            engine_rss_bytes_max: 0,
        }
    }
}

impl City {
    /// One look: waits for the next moment and shows it.
    pub(super) async fn look(&mut self, watch: &mut Watch, is_draining: bool) -> anyhow::Result<()> {
        if is_draining && watch.is_quiet {
            sleep(Duration::from_millis(50)).await;
            return Ok(());
        }
        sleep(watch.period.saturating_sub(watch.looked_at.elapsed())).await;
        let since = watch.looked_at.elapsed().as_secs_f64();
        watch.looked_at = Instant::now();
        let usages = watch.meter.read(&self.world.pids());
        watch.engine_rss_bytes_max = watch.engine_rss_bytes_max.max(usages.engine.rss_bytes);
        if watch.is_quiet {
            return Ok(());
        }
        let states = self.states().await;
        let mut rows = Vec::new();
        let mut plain = hdrhistogram::Histogram::<u64>::new(3)?;
        for (i, receiver) in self.receivers.iter().enumerate() {
            let latencies = self.oracle.take_recent_latencies_us(receiver.duties());
            if receiver.target.is_plain() {
                plain.add(&latencies)?;
            }
            rows.push(Row {
                name: receiver.target.name.clone(),
                status: states.as_ref().and_then(|s| s.get(i).cloned()),
                figures: self.figures(receiver),
                p50_ms: quantile_ms(&latencies, 0.5),
                p99_ms: quantile_ms(&latencies, 0.99),
            });
        }
        let (sent, accepted) = self.oracle.totals();
        let moment = Moment {
            elapsed_s: self.clock.load_elapsed().as_secs_f64(),
            seconds: watch.seconds,
            is_draining,
            sent,
            accepted,
            rate: (accepted - watch.accepted) as f64 / since.max(0.001),
            p50_ms: quantile_ms(&plain, 0.5),
            p99_ms: quantile_ms(&plain, 0.99),
            engine_cores: (usages.engine.cpu_seconds - watch.engine_cpu_seconds) / since.max(0.001),
            usages,
            rows: &rows,
        };
        watch.accepted = accepted;
        watch.engine_cpu_seconds = usages.engine.cpu_seconds;
        let text = watch.table.draw(&moment);
        std::io::stdout().write_all(text.as_bytes())?;
        std::io::stdout().flush()?;
        Ok(())
    }
}
