//! Looking at a run while it goes on: figures for the live table, and for the account of what faults cost.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::City;
use crate::catch_up::CatchUpWatch;
use crate::cli::Cli;
use crate::meter::Meter;
use crate::oracle::histogram;
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
    pub(super) catch_up: CatchUpWatch,
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
            catch_up: CatchUpWatch::new(&scenario.targets, &histogram()),
        }
    }
}

impl City {
    /// One look: waits for the next moment and shows it.
    pub(super) async fn look(&mut self, watch: &mut Watch, is_draining: bool) -> anyhow::Result<()> {
        if is_draining && watch.is_quiet {
            sleep(Duration::from_millis(50)).await;
            if watch.catch_up.is_needed() {
                let latencies = self.take_recent_latencies();
                self.look_for_catch_ups(watch, &latencies);
            }
            return Ok(());
        }
        sleep(watch.period.saturating_sub(watch.looked_at.elapsed())).await;
        let since = watch.looked_at.elapsed().as_secs_f64();
        watch.looked_at = Instant::now();
        let usages = watch.meter.read(&self.world.pids());
        watch.engine_rss_bytes_max = watch.engine_rss_bytes_max.max(usages.engine.rss_bytes);
        if watch.is_quiet && !watch.catch_up.is_needed() {
            return Ok(());
        }
        let latencies = self.take_recent_latencies();
        let plain = self.look_for_catch_ups(watch, &latencies);
        if watch.is_quiet {
            return Ok(());
        }
        let states = self.states().await;
        let rows: Vec<Row> = (self.receivers.iter().zip(&latencies).enumerate())
            .map(|(i, (receiver, latencies))| Row {
                name: receiver.target.name.clone(),
                status: states.as_ref().and_then(|s| s.get(i).cloned()),
                figures: self.figures(receiver),
                p50_ms: quantile_ms(latencies, 0.5),
                p99_ms: quantile_ms(latencies, 0.99),
            })
            .collect();
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

    /// Latencies of every receiver since the last look.
    fn take_recent_latencies(&self) -> Vec<Histogram<u64>> {
        self.receivers.iter().map(|receiver| self.oracle.take_recent_latencies_us(receiver.duties())).collect()
    }

    /// Looks after receivers that catch up; the latencies of those that answer at once, together.
    fn look_for_catch_ups(&self, watch: &mut Watch, latencies: &[Histogram<u64>]) -> Histogram<u64> {
        let mut plain = histogram();
        for (_, latencies) in self.receivers.iter().zip(latencies).filter(|(receiver, _)| receiver.target.is_plain()) {
            // The bounds are the same everywhere: adding cannot fail.
            let _ = plain.add(latencies);
        }
        watch.catch_up.look(
            self.clock.load_elapsed().as_secs_f64(),
            self.clock.now_us(),
            |i| self.figures(&self.receivers[i]),
            |i| self.oracle.oldest_owed_us(self.receivers[i].duties()),
            &plain,
        );
        plain
    }
}
