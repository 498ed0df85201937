//! Names, help texts and units of the sources' metrics. Labels: `event` (an event type), `reason` (why refused), `outcome`;
//! never a device, never a gateway.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use sluse_schema::uplink::EventType;

/// Events that are durable, by event type.
pub const ACCEPTED: &str = "sluse_source_events_accepted_total";
/// Events refused for good, by reason.
pub const REFUSED: &str = "sluse_source_events_refused_total";
/// Events that could not be taken in now; the broker sends them again.
pub const LATER: &str = "sluse_source_events_later_total";
/// Events that came at QoS 0: nothing can send them again.
pub const AT_MOST_ONCE: &str = "sluse_source_events_at_most_once_total";
/// Events that came at QoS 0 and were dropped because they could not be taken in.
pub const LOST: &str = "sluse_source_events_lost_total";
/// Events received and not acknowledged.
pub const UNACKNOWLEDGED: &str = "sluse_source_events_unacknowledged";
/// Events per batch.
pub const BATCH_EVENTS: &str = "sluse_source_batch_events";
/// Time until a batch was durable.
pub const ACCEPT_SECONDS: &str = "sluse_source_accept_seconds";
/// Whether the source holds its connection: 0 or 1.
pub const CONNECTED: &str = "sluse_source_connected";
/// Connections made.
pub const CONNECTIONS: &str = "sluse_source_connections_total";
/// Gateway states, by outcome.
pub const GATEWAY_STATES: &str = "sluse_source_gateway_states_total";
/// Gateway states that wait for the database.
pub const GATEWAY_STATES_WAITING: &str = "sluse_source_gateway_states_waiting";

/// Describes every metric of this module to the installed recorder.
pub fn describe() {
    metrics::describe_counter!(ACCEPTED, Unit::Count, "Events that are durable, by event type");
    metrics::describe_counter!(REFUSED, Unit::Count, "Events refused for good, by reason");
    metrics::describe_counter!(
        LATER,
        Unit::Count,
        "Events that could not be taken in now; the broker sends them again"
    );
    metrics::describe_counter!(AT_MOST_ONCE, Unit::Count, "Events that came at QoS 0, which nothing can send again");
    metrics::describe_counter!(LOST, Unit::Count, "Events that came at QoS 0 and could not be taken in");
    metrics::describe_gauge!(UNACKNOWLEDGED, Unit::Count, "Events received from the broker and not acknowledged");
    metrics::describe_histogram!(BATCH_EVENTS, Unit::Count, "Events per batch that was handed to the log");
    metrics::describe_histogram!(ACCEPT_SECONDS, Unit::Seconds, "Time until a batch was durable");
    metrics::describe_gauge!(CONNECTED, Unit::Count, "Whether the source holds its connection to the broker (0 or 1)");
    metrics::describe_counter!(CONNECTIONS, Unit::Count, "Connections made to the source's broker");
    metrics::describe_counter!(GATEWAY_STATES, Unit::Count, "Gateway connection states heard, by what became of them");
    metrics::describe_gauge!(
        GATEWAY_STATES_WAITING,
        Unit::Count,
        "Gateway connection states that wait for the database"
    );
}

pub(super) fn refused(reason: &'static str) {
    metrics::counter!(REFUSED, "reason" => reason).increment(1);
}

pub(super) fn gateway_states(outcome: &'static str, num_states: usize) {
    metrics::counter!(GATEWAY_STATES, "outcome" => outcome).increment(num_states as u64);
}

pub(super) fn gateway_states_waiting(num_states: usize) {
    metrics::gauge!(GATEWAY_STATES_WAITING).set(num_states as f64);
}

/// The handles of the source, looked up once.
pub(super) struct SourceMetrics {
    accepted: Vec<(EventType, Counter)>,
    pub(super) later: Counter,
    pub(super) at_most_once: Counter,
    pub(super) lost: Counter,
    pub(super) unacknowledged: Gauge,
    pub(super) connected: Gauge,
    pub(super) connections: Counter,
    batch_events: Histogram,
    accept_seconds: Histogram,
}

impl std::fmt::Debug for SourceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceMetrics")
    }
}

impl SourceMetrics {
    pub(super) fn new() -> Self {
        use EventType::{Ack, Join, Location, Log, Other, Status, TxAck, Up};
        let accepted = [Up, Join, Status, Ack, TxAck, Log, Location, Other];
        Self {
            accepted: accepted.map(|event| (event, metrics::counter!(ACCEPTED, "event" => event.as_str()))).into(),
            later: metrics::counter!(LATER),
            at_most_once: metrics::counter!(AT_MOST_ONCE),
            lost: metrics::counter!(LOST),
            unacknowledged: metrics::gauge!(UNACKNOWLEDGED),
            connected: metrics::gauge!(CONNECTED),
            connections: metrics::counter!(CONNECTIONS),
            batch_events: metrics::histogram!(BATCH_EVENTS),
            accept_seconds: metrics::histogram!(ACCEPT_SECONDS),
        }
    }

    pub(super) fn accepted(&self, event: EventType) {
        if let Some((_, counter)) = self.accepted.iter().find(|(of, _)| *of == event) {
            counter.increment(1);
        }
    }

    pub(super) fn batch(&self, num_events: usize, took: Duration) {
        self.batch_events.record(num_events as f64);
        self.accept_seconds.record(took.as_secs_f64());
    }
}
