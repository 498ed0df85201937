//! The target stage's metrics. Labels are the target's kind and, for conservation and lag, its id: targets are bounded by
//! administration, devices are not and are never a label.

use std::collections::BTreeMap;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use sluse_schema::delivery::{AttemptClass, DeadReason};
use sluse_schema::id::TargetId;
use sluse_schema::target::TargetStatus;

use super::input::Ended;

/// Records read by the consumers. No label.
pub const CONSUMED: &str = "sluse_target_records_consumed_total";
/// Records read for lagging targets. No label.
pub const SWEPT: &str = "sluse_target_records_swept_total";
/// Targets made lagging because the partition's window was full. No label.
pub const EVICTIONS: &str = "sluse_target_evictions_total";
/// Attempts by class. Labels: `kind`, `class`.
pub const ATTEMPTS: &str = "sluse_target_attempts_total";
/// Duration of one attempt. Label: `kind`.
pub const ATTEMPT_SECONDS: &str = "sluse_target_attempt_seconds";
/// From receipt at the edge to the receiver's answer. Label: `kind`.
pub const DELIVERY_SECONDS: &str = "sluse_target_delivery_seconds";
/// Dead letters by reason. Labels: `kind`, `reason`.
pub const DEAD_LETTERS: &str = "sluse_target_dead_letters_total";
/// Conservation, one series per term. Labels: `target`, `term`.
pub const CONSERVATION: &str = "sluse_target_records";
/// Deliveries in flight. Labels: `partition`, `kind`.
pub const IN_FLIGHT: &str = "sluse_target_in_flight";
/// Unfinished records, and the age of the oldest one. Labels: `partition`, `kind`.
pub const KIND_LAG_RECORDS: &str = "sluse_target_kind_lag_records";
pub const KIND_LAG_SECONDS_MAX: &str = "sluse_target_kind_lag_seconds_max";
/// Targets by the state of their breaker, and by how they are fed. Labels: `partition`, `state`; `partition`, `feed`.
pub const BREAKERS: &str = "sluse_target_breakers";
pub const FEEDS: &str = "sluse_target_feeds";
/// Unfinished records. Label: `target`.
pub const LAG_RECORDS: &str = "sluse_target_lag_records";
/// Age of the oldest unfinished record. Label: `target`.
pub const LAG_SECONDS: &str = "sluse_target_lag_seconds";
/// Records of all targets of a partition in memory. Label: `partition`.
pub const LOADED: &str = "sluse_target_loaded_records";
/// Writes of cursors. Label: `outcome` (stored, unavailable, fenced, refused).
pub const FLUSHES: &str = "sluse_target_flushes_total";
/// Duration of a write. No label.
pub const FLUSH_SECONDS: &str = "sluse_target_flush_seconds";

/// Registers help texts and units.
pub fn describe() {
    describe_counter!(CONSUMED, Unit::Count, "Records of the deliveries log read by the partitions' consumers");
    describe_counter!(SWEPT, Unit::Count, "Records of the deliveries log read for lagging targets");
    describe_counter!(EVICTIONS, Unit::Count, "Targets that became lagging because their partition's window was full");
    describe_counter!(ATTEMPTS, Unit::Count, "Attempts to deliver, by what their outcome means");
    describe_histogram!(ATTEMPT_SECONDS, Unit::Seconds, "Duration of one attempt to deliver");
    describe_histogram!(DELIVERY_SECONDS, Unit::Seconds, "From receipt at the edge to the receiver's answer");
    describe_counter!(DEAD_LETTERS, Unit::Count, "Deliveries that became dead letters, by reason");
    describe_gauge!(
        CONSERVATION,
        Unit::Count,
        "accepted + offered_again = delivered + dead + expired + discarded + pending, each counted by itself"
    );
    describe_gauge!(IN_FLIGHT, Unit::Count, "Deliveries in flight");
    describe_gauge!(KIND_LAG_RECORDS, Unit::Count, "Records that are not finished, of all targets of a kind");
    describe_gauge!(KIND_LAG_SECONDS_MAX, Unit::Seconds, "Age of the oldest record that is not finished, of a kind");
    describe_gauge!(BREAKERS, Unit::Count, "Targets by the state of their circuit breaker");
    describe_gauge!(FEEDS, Unit::Count, "Targets by how they are fed");
    describe_gauge!(LAG_RECORDS, Unit::Count, "Records that are not finished");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "Age of the oldest record that is not finished");
    describe_gauge!(LOADED, Unit::Count, "Records of all targets of a partition in memory");
    describe_counter!(FLUSHES, Unit::Count, "Transactions that wrote cursors, by outcome");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "Duration of a transaction that writes cursors");
}

/// Handles of one target, looked up once.
pub(super) struct TargetMeters {
    target: String,
    kind: &'static str,
    attempts: [Counter; 4],
    attempt_seconds: Histogram,
    delivery_seconds: Histogram,
    gauges: [Gauge; 2],
    terms: [Gauge; 7],
}

const CLASSES: [AttemptClass; 4] =
    [AttemptClass::Delivered, AttemptClass::Refused, AttemptClass::Misconfigured, AttemptClass::Transient];
const TERMS: [&str; 7] = ["accepted", "offered_again", "delivered", "dead", "expired", "discarded", "pending"];

impl TargetMeters {
    pub(super) fn new(target: TargetId) -> Self {
        let target = target.to_string();
        let gauges = [LAG_RECORDS, LAG_SECONDS].map(|name| gauge!(name, "target" => target.clone()));
        let terms = TERMS.map(|term| gauge!(CONSERVATION, "target" => target.clone(), "term" => term));
        let mut meters = Self {
            target,
            kind: "unknown",
            attempts: CLASSES.map(|_| Counter::noop()),
            attempt_seconds: Histogram::noop(),
            delivery_seconds: Histogram::noop(),
            gauges,
            terms,
        };
        meters.set_kind("unknown");
        meters
    }

    pub(super) fn set_kind(&mut self, kind: &'static str) {
        self.kind = kind;
        self.attempts = CLASSES.map(|class| counter!(ATTEMPTS, "kind" => kind, "class" => class.as_str()));
        self.attempt_seconds = histogram!(ATTEMPT_SECONDS, "kind" => kind);
        self.delivery_seconds = histogram!(DELIVERY_SECONDS, "kind" => kind);
    }

    pub(super) fn tried(&self, class: AttemptClass, latency_ms: i64) {
        if let Some(i) = CLASSES.iter().position(|c| *c == class) {
            self.attempts[i].increment(1);
        }
        self.attempt_seconds.record(latency_ms as f64 / 1e3);
    }

    pub(super) fn ended(&self, ended: Ended) {
        match ended {
            Ended::Delivered { latency_ms } => self.delivery_seconds.record(latency_ms.max(0) as f64 / 1e3),
            Ended::Dead(reason) => self.dead(reason),
            Ended::Discarded | Ended::Expired { .. } => {}
        }
    }

    fn dead(&self, reason: DeadReason) {
        counter!(DEAD_LETTERS, "kind" => self.kind, "reason" => reason.as_str()).increment(1);
    }

    /// Shows how the target looks now.
    pub(super) fn gauge(&self, status: &TargetStatus) {
        let figures = [status.lag_records as f64, status.lag_seconds];
        for (gauge, figure) in self.gauges.iter().zip(figures) {
            gauge.set(figure);
        }
        let c = &status.counters;
        let terms = [c.accepted, c.offered_again, c.delivered, c.dead, c.expired, c.discarded, status.pending];
        for (gauge, term) in self.terms.iter().zip(terms) {
            gauge.set(term as f64);
        }
    }

    /// The target is not ours any more: what is in flight or late is another node's to show.
    pub(super) fn forget(&self) {
        for gauge in &self.gauges {
            gauge.set(0.0);
        }
    }
}

impl std::fmt::Debug for TargetMeters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetMeters").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Figures of all targets of one partition, by kind.
#[derive(Debug, Default)]
pub(super) struct PartitionTotals {
    kinds: BTreeMap<&'static str, KindTotals>,
    breakers: [u32; 3],
    feeds: [u32; 2],
}

#[derive(Debug, Default)]
struct KindTotals {
    num_in_flight: u32,
    lag_records: u64,
    lag_seconds_max: f64,
}

impl PartitionTotals {
    /// Adds a target.
    pub(super) fn add(&mut self, kind: &'static str, status: &TargetStatus) {
        let totals = self.kinds.entry(kind).or_default();
        totals.num_in_flight += status.num_in_flight;
        totals.lag_records += status.lag_records;
        totals.lag_seconds_max = totals.lag_seconds_max.max(status.lag_seconds);
        self.breakers[status.breaker as usize] += 1;
        self.feeds[status.feed as usize] += 1;
    }

    /// Shows the figures.
    pub(super) fn show(&self, partition: &str) {
        for (kind, totals) in &self.kinds {
            let labels = [("partition", partition.to_owned()), ("kind", (*kind).to_owned())];
            gauge!(IN_FLIGHT, &labels).set(f64::from(totals.num_in_flight));
            gauge!(KIND_LAG_RECORDS, &labels).set(totals.lag_records as f64);
            gauge!(KIND_LAG_SECONDS_MAX, &labels).set(totals.lag_seconds_max);
        }
        for (state, num) in ["closed", "open", "half_open"].into_iter().zip(self.breakers) {
            gauge!(BREAKERS, "partition" => partition.to_owned(), "state" => state).set(f64::from(num));
        }
        for (feed, num) in ["live", "lagging"].into_iter().zip(self.feeds) {
            gauge!(FEEDS, "partition" => partition.to_owned(), "feed" => feed).set(f64::from(num));
        }
    }
}
