//! The end of a run in figures: what the oracle, the engine's counters and the kernel say, side by side.

use std::sync::atomic::Ordering::Relaxed;

use super::City;
use crate::meter::Usages;
use crate::oracle::DutyId;
use crate::receivers::Receiver;
use crate::report::{Report, TargetReport, megabytes, quantile_ms, us_per_uplink};
use crate::scenario::Scenario;
use crate::verdict::TargetEnd;

impl City {
    pub(super) fn report(
        &self,
        scenario: &Scenario,
        ends: &[TargetEnd],
        before: &Usages,
        after: &Usages,
        rss: u64,
    ) -> Report {
        let (uplinks_sent, uplinks_accepted) = self.oracle.totals();
        let may_repeat = scenario.may_repeat();
        let targets: Vec<TargetReport> =
            ends.iter().zip(&self.receivers).map(|(e, r)| self.target_report(e, r)).collect();
        let plain: Vec<DutyId> =
            self.receivers.iter().filter(|r| r.target.is_plain()).flat_map(|r| r.duties()).collect();
        let latencies = self.oracle.latencies_us(if plain.is_empty() { self.oracle.duties().collect() } else { plain });
        let sum = |figure: fn(&TargetReport) -> u64| targets.iter().map(figure).sum();
        let cost = |before: f64, after: f64| us_per_uplink(after - before, uplinks_accepted);
        let mut failures: Vec<String> = ends.iter().flat_map(|e| e.failures(may_repeat)).collect();
        for missing in self.oracle.missing(5).iter().filter(|_| ends.iter().any(|e| e.num_missing() > 0)) {
            let eui = self.fleet.dev_eui(missing.uplink.device);
            failures.push(format!("for example device {eui}, uplink {} (duty {})", missing.uplink.seq, missing.duty.0));
        }
        Report {
            scenario: scenario.name.clone(),
            uplinks_sent,
            uplinks_accepted,
            deliveries_accepted: sum(|t| t.accepted),
            offered_again: sum(|t| t.offered_again),
            delivered: sum(|t| t.delivered),
            dead: sum(|t| t.dead),
            expired: sum(|t| t.expired),
            discarded: sum(|t| t.discarded),
            pending: sum(|t| t.pending),
            missing: sum(|t| t.missing),
            duplicated: sum(|t| t.duplicated),
            out_of_order: sum(|t| t.out_of_order),
            unexpected: ends.iter().map(|e| e.figures.num_unexpected).sum(),
            p50_ms: quantile_ms(&latencies, 0.5),
            p99_ms: quantile_ms(&latencies, 0.99),
            max_ms: quantile_ms(&latencies, 1.0),
            engine_cpu_us_per_uplink: cost(before.engine.cpu_seconds, after.engine.cpu_seconds),
            engine_rss_mb: megabytes(rss.max(after.engine.rss_bytes)),
            database_cpu_us_per_uplink: cost(before.database.cpu_seconds, after.database.cpu_seconds),
            database_rss_mb: megabytes(after.database.rss_bytes),
            broker_cpu_us_per_uplink: cost(before.broker.cpu_seconds, after.broker.cpu_seconds),
            kafka_cpu_us_per_uplink: cost(before.kafka.cpu_seconds, after.kafka.cpu_seconds),
            loadtest_cpu_us_per_uplink: cost(before.loadtest.cpu_seconds, after.loadtest.cpu_seconds),
            rate_wanted: scenario.load.rate,
            rate_accepted: 0.0,
            devices: scenario.load.devices,
            load_seconds: 0.0,
            drain_seconds: 0.0,
            network_repeats: 0,
            other_events: 0,
            http_retries: 0,
            targets,
            recoveries: Vec::new(),
            catch_ups: None,
            failures,
            warnings: ends.iter().flat_map(|e| e.warnings(may_repeat)).collect(),
        }
    }

    fn target_report(&self, end: &TargetEnd, receiver: &Receiver) -> TargetReport {
        let latencies = self.oracle.latencies_us(receiver.duties());
        let counters = end.status.as_ref().map(|s| s.counters).unwrap_or_default();
        TargetReport {
            name: end.name.clone(),
            accepted: counters.accepted,
            offered_again: counters.offered_again,
            delivered: counters.delivered,
            dead: counters.dead,
            expired: counters.expired,
            discarded: counters.discarded,
            pending: counters.pending,
            missing: end.num_missing(),
            duplicated: end.figures.num_repeated,
            out_of_order: end.figures.num_out_of_order,
            requests: receiver.num_requests.load(Relaxed),
            p50_ms: quantile_ms(&latencies, 0.5),
            p99_ms: quantile_ms(&latencies, 0.99),
        }
    }
}
