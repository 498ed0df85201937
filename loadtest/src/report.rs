//! What a run says: the live table while it goes on, and the verdict at its end. Figures of deliveries come from the engine's own
//! counters, everything about loss and order from the oracle, CPU and memory from the kernel.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use sluse_schema::target::{BreakerState, Feed};

use crate::admin_api::TargetState;
use crate::catch_up::{CatchUp, CatchUps};
use crate::meter::Usages;
use crate::oracle::DutyFigures;
use crate::recovery::Recovery;

/// One target at the end.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    pub name: String,
    pub accepted: u64,
    pub offered_again: u64,
    pub delivered: u64,
    pub dead: u64,
    pub expired: u64,
    pub discarded: u64,
    pub pending: u64,
    pub missing: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    pub requests: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// The last line of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub uplinks_sent: u64,
    /// Acknowledged to the fleet: PUBACK or 2xx.
    pub uplinks_accepted: u64,
    pub deliveries_accepted: u64,
    pub offered_again: u64,
    pub delivered: u64,
    pub dead: u64,
    pub expired: u64,
    pub discarded: u64,
    pub pending: u64,
    pub missing: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    pub unexpected: u64,
    /// From the sensor's sending to the receiver's taking, over targets that answer at once.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Sluse and its decoder workers.
    pub engine_cpu_us_per_uplink: f64,
    pub engine_rss_mb: f64,
    pub database_cpu_us_per_uplink: f64,
    pub database_rss_mb: f64,
    pub broker_cpu_us_per_uplink: f64,
    /// All brokers of the Kafka cluster, where there is one.
    pub kafka_cpu_us_per_uplink: f64,
    pub loadtest_cpu_us_per_uplink: f64,
    /// What was to be sent per second, and what was accepted per second of sending.
    pub rate_wanted: f64,
    pub rate_accepted: f64,
    pub devices: u32,
    pub load_seconds: f64,
    /// From the last uplink until everything had arrived.
    pub drain_seconds: f64,
    /// Events published again, and `status` and `join` events, besides the uplinks.
    pub network_repeats: u64,
    pub other_events: u64,
    pub http_retries: u64,
    pub targets: Vec<TargetReport>,
    pub recoveries: Vec<Recovery>,
    /// Receivers that were away and caught up.
    pub catch_ups: Option<CatchUps>,
    /// Each makes the exit code 1.
    pub failures: Vec<String>,
    pub warnings: Vec<String>,
}

/// A quantile in milliseconds; 0 when nothing was recorded.
pub fn quantile_ms(latencies_us: &Histogram<u64>, quantile: f64) -> f64 {
    let us = if latencies_us.is_empty() { 0 } else { latencies_us.value_at_quantile(quantile) };
    (us as f64 / 10.0).round() / 100.0
}

/// Bytes as megabytes with one decimal.
pub fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 100_000.0).round() / 10.0
}

/// Microseconds per uplink between two readings of one group.
pub fn us_per_uplink(seconds: f64, num_uplinks: u64) -> f64 {
    if num_uplinks == 0 { 0.0 } else { (seconds * 1e7 / num_uplinks as f64).round() / 10.0 }
}

/// One moment for the live table.
#[derive(Debug)]
pub struct Moment<'a> {
    pub elapsed_s: f64,
    pub seconds: Option<f64>,
    pub is_draining: bool,
    pub sent: u64,
    pub accepted: u64,
    /// Accepted per second since the last moment.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub engine_cores: f64,
    pub usages: Usages,
    pub rows: &'a [Row],
}

/// One target in the live table.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    /// `None` while the engine does not answer.
    pub status: Option<TargetState>,
    pub figures: DutyFigures,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Shows moments: redrawn in place on a terminal, a line per moment elsewhere.
#[derive(Debug)]
pub struct LiveTable {
    is_terminal: bool,
    num_lines_drawn: usize,
}

impl LiveTable {
    /// A table for standard output or, where `is_terminal` is false, plain lines.
    pub const fn new(is_terminal: bool) -> Self {
        Self { is_terminal, num_lines_drawn: 0 }
    }

    /// The text that shows a moment.
    pub fn draw(&mut self, moment: &Moment<'_>) -> String {
        if !self.is_terminal {
            return plain_line(moment);
        }
        let text = table(moment);
        let mut out = String::new();
        if self.num_lines_drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.num_lines_drawn);
        }
        for line in text.lines() {
            let _ = writeln!(out, "\x1b[2K{line}");
        }
        self.num_lines_drawn = text.lines().count();
        out
    }
}

fn plain_line(m: &Moment<'_>) -> String {
    let mut out = format!(
        "{:>6.1}s {} {:>7.0}/s accepted={} p50={:.1}ms p99={:.1}ms",
        m.elapsed_s,
        if m.is_draining { "draining" } else { "sending " },
        m.rate,
        m.accepted,
        m.p50_ms,
        m.p99_ms
    );
    for row in m.rows {
        let (state, dead) = row.status.as_ref().map_or(("away", 0), |s| (state_word(s), s.counters.dead));
        let _ = write!(out, " | {} {state} owed={} dead={dead}", row.name, row.figures.num_open);
    }
    out.push('\n');
    out
}

fn state_word(status: &TargetState) -> &'static str {
    match (status.breaker, status.feed) {
        (Some(BreakerState::Open), _) => "broken",
        (Some(BreakerState::HalfOpen), _) => "probing",
        (_, Some(Feed::Lagging)) => "lagging",
        (_, Some(Feed::Live)) => "live",
        (_, None) => "new",
    }
}

fn table(m: &Moment<'_>) -> String {
    let mut out = String::new();
    let until = m.seconds.map_or_else(|| "until Ctrl-C".to_owned(), |s| format!("of {s:.0} s"));
    let doing = if m.is_draining { "draining" } else { "sending" };
    let _ = writeln!(
        out,
        "  {doing} {:.0} s {until} · {:.0} uplinks/s · {} accepted · to the receiver p50 {:.1} ms, p99 {:.1} ms",
        m.elapsed_s, m.rate, m.accepted, m.p50_ms, m.p99_ms
    );
    let _ = writeln!(
        out,
        "  engine {:.2} cores, {:.0} MB · not yet accepted {}",
        m.engine_cores,
        megabytes(m.usages.engine.rss_bytes),
        m.sent.saturating_sub(m.accepted),
    );
    let _ = writeln!(
        out,
        "  {:<22} {:<9} {:>11} {:>9} {:>7} {:>8} {:>9} {:>9}",
        "data target", "state", "delivered", "pending", "dead", "lag s", "p50 ms", "p99 ms"
    );
    for row in m.rows {
        let Some(status) = &row.status else {
            let _ = writeln!(out, "  {:<22} the engine does not answer", row.name);
            continue;
        };
        let _ = writeln!(
            out,
            "  {:<22} {:<9} {:>11} {:>9} {:>7} {:>8.1} {:>9.1} {:>9.1}",
            row.name.chars().take(22).collect::<String>(),
            state_word(status),
            status.counters.delivered,
            status.counters.pending,
            status.counters.dead,
            status.lag_seconds,
            row.p50_ms,
            row.p99_ms
        );
    }
    out
}

impl Report {
    /// The verdict for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "\n{}: {} of {} uplinks accepted ({:.0}/s of {:.0}/s wanted), {} devices, {:.1} s + {:.1} s to drain",
            self.scenario,
            self.uplinks_accepted,
            self.uplinks_sent,
            self.rate_accepted,
            self.rate_wanted,
            self.devices,
            self.load_seconds,
            self.drain_seconds
        );
        let _ = writeln!(
            out,
            "  deliveries: accepted {} + offered again {} = delivered {} + dead {} + expired {} + discarded {} + pending {}",
            self.deliveries_accepted,
            self.offered_again,
            self.delivered,
            self.dead,
            self.expired,
            self.discarded,
            self.pending
        );
        let _ = writeln!(
            out,
            "  oracle: missing {}, duplicated {}, out of order {}, unexpected {}",
            self.missing, self.duplicated, self.out_of_order, self.unexpected
        );
        let _ = writeln!(
            out,
            "  sensor to receiver: p50 {} ms, p99 {} ms, max {} ms; engine {} µs CPU per uplink, {} MB",
            self.p50_ms, self.p99_ms, self.max_ms, self.engine_cpu_us_per_uplink, self.engine_rss_mb
        );
        if let Some(catch_ups) = &self.catch_ups {
            for CatchUp { target, waited_s, num_owed, took_s, delivered_per_s } in &catch_ups.caught_up {
                let _ = writeln!(
                    out,
                    "  {target} caught up with {num_owed} in {took_s} s ({delivered_per_s}/s), reached {waited_s} s after it came back"
                );
            }
            let (meanwhile, otherwise) = (catch_ups.p99_ms_meanwhile, catch_ups.p99_ms_otherwise);
            let _ = writeln!(out, "  others meanwhile: p99 {meanwhile} ms, otherwise {otherwise} ms");
        }
        for Recovery { fault, at_s, late_for_s } in &self.recoveries {
            let _ = writeln!(
                out,
                "  {fault} at {at_s:.1} s: deliveries that should be at once were late for {late_for_s:.1} s"
            );
        }
        for failure in &self.failures {
            let _ = writeln!(out, "  FAILED: {failure}");
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "  note: {warning}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(rows: &[Row]) -> Moment<'_> {
        Moment {
            elapsed_s: 3.0,
            seconds: None,
            is_draining: false,
            sent: 12,
            accepted: 10,
            rate: 5.0,
            p50_ms: 1.0,
            p99_ms: 2.0,
            engine_cores: 0.5,
            usages: Usages::default(),
            rows,
        }
    }

    #[test]
    fn a_terminal_is_redrawn_in_place_and_a_pipe_gets_lines() {
        let rows =
            [Row { name: "hub".into(), status: None, figures: DutyFigures::default(), p50_ms: 0.0, p99_ms: 0.0 }];
        let mut terminal = LiveTable::new(true);
        assert!(!terminal.draw(&moment(&rows)).contains("\x1b[4A"));
        assert!(terminal.draw(&moment(&rows)).starts_with("\x1b[4A"), "goes back over the four lines it drew");
        let line = LiveTable::new(false).draw(&moment(&rows));
        assert!(line.contains("hub away owed=0") && !line.contains('\x1b'), "{line}");
    }

    #[test]
    fn figures_are_rounded_and_never_divide_by_nothing() {
        assert_eq!(us_per_uplink(1.0, 0), 0.0);
        assert_eq!(us_per_uplink(1.23456, 10_000), 123.5);
        assert_eq!(megabytes(1_250_000), 1.3);
        assert_eq!(quantile_ms(&Histogram::<u64>::new(3).unwrap(), 0.99), 0.0);
    }
}
