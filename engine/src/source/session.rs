//! One connection after another with ChirpStack's broker, and the events on their way from it into the log.
//!
//! The connection never waits for the log: what comes is gathered while batches are under way, several side by side, each device
//! in one lane ([`Lanes`]), acknowledged in the order of arrival as they finish ([`AckWindow`]). An answer of "later" ends the
//! connection: what was not handed over is dropped, the broker sends it again, and nothing overtakes what was refused. A connection
//! that broke instead loses nothing that came over it: that is still taken in, and its repetition is recognised by its event id.
//!
//! Limits: the Receive Maximum bounds what is unacknowledged. At QoS 0 it does not, and Mosquitto 2.0.11 goes beyond it (863 of 300
//! seen), so reading stops at twice as much.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, DisconnectReasonCode, Filter, Packet, Publish, SubAck, SubscribeReasonCode};
use sluse_schema::beat::Beat;
use sluse_schema::port::{GatewayState, Intake, RefusedArrival};
use sluse_schema::uplink::EventType;
use sluse_schema::wire::chirpstack::{gateway_of_state_topic, parse_conn_state};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::ack_window::{AckWindow, Seq};
use super::chirpstack::{CONNECT_MAX, ChirpstackConfig, HealthCell};
use super::event::{RefusedEvent, device_level, examine};
use super::gateway_state::GatewayStateWriter;
use super::lanes::Lanes;
use super::link::{Link, LinkError, LinkOptions};
use super::metrics::{self, SourceMetrics};

/// Every event of every device, and gateways' states with and without a region's prefix.
const SUBSCRIPTIONS: [&str; 3] = ["application/+/device/+/event/+", "gateway/+/state/conn", "+/gateway/+/state/conn"];
/// How long the broker may take to hang up after our DISCONNECT.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// The wait when the log said "later" without saying how long.
const LATER_DEFAULT: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// As asked, everything finished.
    Stopped,
    /// The log cannot take more now.
    Later { after: Duration },
    /// Somebody else connected under our client id.
    TakenOver,
    /// It broke, or was never made.
    Lost,
}

/// The packet id that acknowledges an arrival; nothing does at QoS 0.
type Ack = Option<u16>;

/// An event as it came.
#[derive(Debug)]
struct Arrived {
    seq: Seq,
    topic: Bytes,
    payload: Bytes,
    is_retained: bool,
    is_at_most_once: bool,
}

/// What became of a batch.
#[derive(Debug)]
struct BatchDone {
    lane: usize,
    /// The connection that it came over: its acknowledgements are worth nothing on another.
    connection: u64,
    /// Durable or refused for good.
    finished: Vec<Seq>,
    /// The longest wait that was asked for, if any was refused for now.
    later: Option<(Duration, String)>,
}

/// The session with the broker, over all its connections.
#[derive(Debug)]
pub(super) struct Session {
    /// Host and port, for messages.
    place: String,
    client_id: String,
    intake: Arc<dyn Intake>,
    gateways: GatewayStateWriter,
    health: HealthCell,
    metrics: Arc<SourceMetrics>,
    lanes: Lanes<Arrived>,
    batches: JoinSet<BatchDone>,
    moments: Option<Beat>,
    /// Before it nothing is handed over, unless a batch is full.
    next_moment: Instant,
    /// Arrivals in the window at which reading stops.
    window_max: usize,
    /// Counts connections.
    connection: u64,
    was_ever_connected: bool,
    /// Why the last connection ended: the same twice running is not worth a second warning.
    last_trouble: String,
    /// The last connection ended with "later": until the log takes something, connections come and go without a word.
    is_put_off: bool,
}

/// One connection's part of the state.
struct Connection {
    link: Link,
    window: AckWindow<Ack>,
    /// Set when it is to end as soon as what is under way is finished and acknowledged.
    closing: Option<SessionEnd>,
    has_said_goodbye: bool,
    /// Set when the DISCONNECT is written: until when the broker may take its time to read everything before it and hang up.
    /// Whoever connects earlier throws it off in the middle of our acknowledgements, and gets those events again.
    goodbye_deadline: Option<Instant>,
    has_warned_of_qos_0: bool,
}

impl Session {
    pub(super) fn new(
        config: &ChirpstackConfig,
        place: String,
        intake: Arc<dyn Intake>,
        gateways: GatewayStateWriter,
        health: HealthCell,
    ) -> Self {
        Self {
            place,
            client_id: config.client_id.clone(),
            intake,
            gateways,
            health,
            metrics: Arc::new(SourceMetrics::new()),
            lanes: Lanes::new(config.num_batches_max, config.batch_events_max),
            batches: JoinSet::new(),
            moments: config.moments,
            next_moment: Instant::now(),
            window_max: usize::from(config.receive_max) * 2,
            connection: 0,
            was_ever_connected: false,
            last_trouble: String::new(),
            is_put_off: false,
        }
    }

    /// Writes what gateway states wait and ends for good.
    pub(super) async fn close(self) {
        self.health.update(|health| "stopped".clone_into(&mut health.message));
        self.gateways.stop().await;
    }

    /// Connects and takes events in until the connection ends; then everything that was handed over is finished.
    pub(super) async fn serve(&mut self, options: &LinkOptions, stopping: &CancellationToken) -> SessionEnd {
        self.connection += 1;
        let connecting = timeout(CONNECT_MAX, Link::connect(options));
        let end = match stopping.run_until_cancelled(connecting).await {
            None => SessionEnd::Stopped,
            Some(Ok(Ok((link, connack)))) => self.serve_connection(link, &connack, stopping).await,
            Some(Ok(Err(error))) => self.lost(&error),
            Some(Err(_)) => {
                self.trouble(format!("no answer within {} s", CONNECT_MAX.as_secs()));
                SessionEnd::Lost
            }
        };
        if matches!(end, SessionEnd::Later { .. }) {
            self.drop_waiting();
        }
        // Before anything of the next connection may be handed over: a device's order spans connections.
        let end = match self.finish_batches().await {
            Some(after) if !matches!(end, SessionEnd::Stopped) => SessionEnd::Later { after },
            _ => end,
        };
        self.metrics.connected.set(0);
        self.metrics.unacknowledged.set(0);
        self.health.update(|health| (health.is_connected, health.num_unacknowledged) = (false, 0));
        end
    }

    async fn serve_connection(&mut self, link: Link, connack: &ConnAck, stopping: &CancellationToken) -> SessionEnd {
        let mut connection = Connection::new(link);
        if let Err(error) = self.connected(connack, &mut connection) {
            return self.lost(&error);
        }
        loop {
            match self.turn(&mut connection, stopping).await {
                Ok(()) => {}
                // Whatever it is by then: we asked for it.
                Err(_) if connection.has_said_goodbye => return connection.closing.unwrap_or(SessionEnd::Lost),
                Err(error) => {
                    let lost = self.lost(&error);
                    return connection.closing.unwrap_or(lost);
                }
            }
        }
    }

    /// Takes what was read, hands it over, acknowledges what is due, and waits until there is more to do.
    async fn turn(&mut self, connection: &mut Connection, stopping: &CancellationToken) -> Result<(), LinkError> {
        let may_read = loop {
            // Closing, everything is read, so that the broker can get rid of it and sees our goodbye.
            let may_read = connection.window.len() < self.window_max || connection.closing.is_some();
            if !may_read {
                break false;
            }
            match connection.link.next()? {
                None => break true,
                Some(Packet::Publish(publish)) => self.arrived(publish, connection)?,
                Some(Packet::SubAck(suback)) => self.subscribed(&suback)?,
                Some(_) => {
                    return Err(LinkError::Unexpected("a packet that is neither an event nor an answer of ours"));
                }
            }
        };
        let is_due = connection.closing.is_some() || Instant::now() >= self.next_moment;
        if is_due && !matches!(connection.closing, Some(SessionEnd::Later { .. })) {
            self.hand_over();
        }
        let is_awaiting_moment = !is_due && self.lanes.num_waiting() > 0;
        let next_moment = self.next_moment;
        connection.put_due_acks()?;
        if connection.closing.is_some() && self.is_idle() {
            connection.say_goodbye()?;
        }
        tokio::select! {
            done = connection.link.exchange(may_read) => done,
            Some(done) = self.batches.join_next(), if !self.batches.is_empty() => {
                self.settle(done, connection)?;
                // Whatever else is finished by now is acknowledged with the same write.
                while let Some(done) = self.batches.try_join_next() {
                    self.settle(done, connection)?;
                }
                Ok(())
            }
            () = sleep_until(next_moment), if is_awaiting_moment => Ok(()),
            () = stopping.cancelled(), if connection.closing.is_none() => {
                connection.closing = Some(SessionEnd::Stopped);
                Ok(())
            }
            () = sleep_until(connection.goodbye_deadline.unwrap_or_else(Instant::now)),
                if connection.goodbye_deadline.is_some() => Err(LinkError::Closed),
        }
    }

    fn connected(&mut self, connack: &ConnAck, connection: &mut Connection) -> Result<(), LinkError> {
        let (place, client_id, is_session_present) = (&self.place, &self.client_id, connack.session_present);
        if self.is_put_off {
            tracing::debug!(place, client_id, is_session_present, "connected to chirpstack's broker");
        } else {
            tracing::info!(place, client_id, is_session_present, "connected to chirpstack's broker");
        }
        if self.was_ever_connected && !is_session_present {
            tracing::warn!(
                place,
                client_id,
                "the broker lost our session: what it held for us while we were away is gone"
            );
        }
        self.was_ever_connected = true;
        self.metrics.connections.increment(1);
        // At every connection, although the session knows them: the broker then repeats the gateways' retained states.
        let filters = SUBSCRIPTIONS.map(|topic| Filter::new(topic.to_owned(), QoS::AtLeastOnce));
        connection.link.subscribe(filters)
    }

    fn subscribed(&mut self, suback: &SubAck) -> Result<(), LinkError> {
        for (topic, code) in SUBSCRIPTIONS.iter().zip(&suback.return_codes) {
            match code {
                SubscribeReasonCode::Success(QoS::AtMostOnce) => {
                    tracing::warn!(place = self.place, topic, "the broker grants only qos 0: events can be lost");
                }
                SubscribeReasonCode::Success(_) => {}
                refused if *topic == SUBSCRIPTIONS[0] => {
                    return Err(LinkError::NotSubscribed { topic, reason: *refused });
                }
                refused => tracing::warn!(place = self.place, topic, ?refused, "the broker refused a subscription"),
            }
        }
        self.metrics.connected.set(1);
        self.health.update(|health| health.is_connected = true);
        if !self.is_put_off {
            self.all_is_well();
        }
        Ok(())
    }

    fn arrived(&mut self, publish: Publish, connection: &mut Connection) -> Result<(), LinkError> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(LinkError::Unexpected("an event at qos 2, which was not asked for"));
        }
        let is_at_most_once = publish.qos == QoS::AtMostOnce;
        if connection.closing.is_some() {
            // Not acknowledged, so the broker keeps it for the next connection.
            self.metrics.lost.increment(u64::from(is_at_most_once));
            return Ok(());
        }
        let seq = connection.window.push((!is_at_most_once).then_some(publish.pkid));
        if !publish.topic.starts_with(b"application/") {
            self.heard_gateway(&publish);
            connection.window.finish(seq);
            return Ok(());
        }
        if is_at_most_once {
            self.metrics.at_most_once.increment(1);
            connection.warn_of_qos_0(&self.place);
        }
        let Publish { topic, payload, retain: is_retained, .. } = publish;
        let lane = lane_hash(&topic);
        if self.lanes.push(lane, Arrived { seq, topic, payload, is_retained, is_at_most_once }) {
            self.hand_over();
        }
        Ok(())
    }

    fn heard_gateway(&self, publish: &Publish) {
        let of_topic = std::str::from_utf8(&publish.topic).ok().and_then(gateway_of_state_topic);
        match (of_topic, parse_conn_state(&publish.payload)) {
            (Some(of_topic), Some((gateway, is_online))) if of_topic.parse() == Ok(gateway) => {
                self.gateways.heard(GatewayState {
                    gateway,
                    is_online,
                    heard_at_ms: chrono::Utc::now().timestamp_millis(),
                });
            }
            // An empty retained message is how a broker is told to forget a topic.
            (Some(_), None) if publish.payload.is_empty() => {}
            (None, _) => metrics::refused(RefusedEvent::Topic.as_str()),
            _ => metrics::refused("gateway_state"),
        }
    }

    /// Starts batches in every lane that has none under way.
    fn hand_over(&mut self) {
        if let Some(moments) = self.moments.filter(|_| self.lanes.num_waiting() > 0) {
            self.next_moment = moments.after(std::time::Instant::now()).into();
        }
        while let Some((lane, batch)) = self.lanes.next_batch() {
            let (intake, metrics) = (Arc::clone(&self.intake), Arc::clone(&self.metrics));
            self.batches.spawn(take_in(intake, metrics, lane, self.connection, batch));
        }
    }

    fn is_idle(&self) -> bool {
        self.batches.is_empty() && self.lanes.num_waiting() == 0
    }

    fn drop_waiting(&mut self) {
        let num_dropped = self.lanes.discard_waiting();
        self.metrics.later.increment(num_dropped as u64);
    }

    /// Takes note of a finished batch and acknowledges what is due.
    fn settle(&mut self, done: Result<BatchDone, JoinError>, connection: &mut Connection) -> Result<(), LinkError> {
        let later = match done {
            Ok(done) => {
                self.lanes.finish(done.lane);
                if done.connection == self.connection {
                    done.finished.into_iter().for_each(|seq| connection.window.finish(seq));
                }
                if self.is_put_off && done.later.is_none() {
                    self.is_put_off = false;
                    self.all_is_well();
                }
                done.later
            }
            Err(error) => Some(intake_ended(&error)),
        };
        connection.put_due_acks()?;
        let num_unacknowledged = connection.window.len();
        self.metrics.unacknowledged.set(num_unacknowledged as f64);
        self.health.update(|health| health.num_unacknowledged = num_unacknowledged);
        if let Some((after, reason)) = later {
            self.trouble(format!("the log cannot take events now: {reason}"));
            self.is_put_off = true;
            self.drop_waiting();
            if !matches!(connection.closing, Some(SessionEnd::Stopped)) {
                connection.closing = Some(SessionEnd::Later { after });
            }
        }
        Ok(())
    }

    /// After a connection: takes in what it brought, and waits until no batch is under way. A wait, if the log asks for one.
    async fn finish_batches(&mut self) -> Option<Duration> {
        let mut wait = None;
        loop {
            if wait.is_none() {
                self.hand_over();
            }
            let Some(done) = self.batches.join_next().await else { break };
            let later = match done {
                Ok(done) => {
                    self.lanes.finish(done.lane);
                    done.later
                }
                Err(error) => Some(intake_ended(&error)),
            };
            if let Some((after, reason)) = later {
                self.trouble(format!("the log cannot take events now: {reason}"));
                self.drop_waiting();
                wait = wait.max(Some(after));
            }
        }
        self.lanes.finish_all();
        wait
    }

    fn lost(&mut self, error: &LinkError) -> SessionEnd {
        if let LinkError::EndedByBroker(DisconnectReasonCode::SessionTakenOver) = error {
            self.trouble(format!("somebody else connected under our client id {}", self.client_id));
            return SessionEnd::TakenOver;
        }
        self.trouble(error.to_string());
        SessionEnd::Lost
    }

    fn all_is_well(&mut self) {
        self.last_trouble.clear();
        self.health.update(|health| health.message = format!("connected to {}", self.place));
    }

    /// Says what is wrong: once as a warning, while it stays the same in the debug log.
    fn trouble(&mut self, message: String) {
        let (place, client_id) = (&self.place, &self.client_id);
        if message == self.last_trouble {
            tracing::debug!(place, client_id, message, "not taking events from chirpstack's broker");
        } else {
            tracing::warn!(place, client_id, message, "not taking events from chirpstack's broker");
        }
        self.health.update(|health| health.message = format!("{}: {message}", self.place));
        self.last_trouble = message;
    }
}

impl Connection {
    fn new(link: Link) -> Self {
        Self {
            link,
            window: AckWindow::default(),
            closing: None,
            has_said_goodbye: false,
            goodbye_deadline: None,
            has_warned_of_qos_0: false,
        }
    }

    /// Acknowledges what is due, in the order of arrival, with the next write.
    fn put_due_acks(&mut self) -> Result<(), LinkError> {
        while let Some(ack) = self.window.next_due() {
            if let Some(pkid) = ack {
                self.link.ack(pkid)?;
            }
        }
        Ok(())
    }

    /// Says goodbye behind the last acknowledgements; once that is written, the broker has its time to hang up.
    fn say_goodbye(&mut self) -> Result<(), LinkError> {
        if !self.has_said_goodbye {
            self.has_said_goodbye = true;
            return self.link.disconnect();
        }
        if self.goodbye_deadline.is_none() && self.link.is_written() {
            self.goodbye_deadline = Some(Instant::now() + GOODBYE_MAX);
        }
        Ok(())
    }

    fn warn_of_qos_0(&mut self, place: &str) {
        if !self.has_warned_of_qos_0 {
            tracing::warn!(
                place,
                "events come at qos 0 and can be lost: set `qos = 1` in [integration.mqtt] of chirpstack.toml"
            );
            self.has_warned_of_qos_0 = true;
        }
    }
}

/// Checks a batch and hands it to the log. Everything that costs time is here, off the event loop.
async fn take_in(
    intake: Arc<dyn Intake>,
    metrics: Arc<SourceMetrics>,
    lane: usize,
    connection: u64,
    batch: Vec<Arrived>,
) -> BatchDone {
    let (started_at, num_events) = (Instant::now(), batch.len());
    let mut done = BatchDone { lane, connection, finished: Vec::with_capacity(num_events), later: None };
    let mut handed: Vec<(Seq, EventType, bool)> = Vec::with_capacity(num_events);
    let mut arrivals = Vec::with_capacity(num_events);
    for arrived in batch {
        match examine(&arrived.topic, &arrived.payload, arrived.is_retained) {
            Ok(arrival) => {
                handed.push((arrived.seq, arrival.event, arrived.is_at_most_once));
                arrivals.push(arrival);
            }
            Err(refused) => {
                metrics::refused(refused.as_str());
                done.finished.push(arrived.seq);
            }
        }
    }
    if arrivals.is_empty() {
        return done;
    }
    let mut answers = intake.accept_all(arrivals).await.into_iter();
    for (seq, event, is_at_most_once) in handed {
        match answers.next() {
            Some(Ok(_)) => {
                metrics.accepted(event);
                done.finished.push(seq);
            }
            Some(Err(RefusedArrival::UnknownSender)) => {
                metrics::refused("unknown_sender");
                done.finished.push(seq);
            }
            later => {
                let (after, reason) = match later {
                    Some(Err(RefusedArrival::Later { reason, retry_after_ms })) => {
                        (Duration::from_millis(retry_after_ms), reason)
                    }
                    _ => (LATER_DEFAULT, "no answer".to_owned()),
                };
                metrics.later.increment(1);
                metrics.lost.increment(u64::from(is_at_most_once));
                if done.later.as_ref().is_none_or(|(longest, _)| *longest < after) {
                    done.later = Some((after, reason));
                }
            }
        }
    }
    metrics.batch(num_events, started_at.elapsed());
    done
}

fn intake_ended(error: &JoinError) -> (Duration, String) {
    tracing::error!(%error, "taking in a batch of events panicked: the broker sends it again");
    (LATER_DEFAULT, "the intake panicked".to_owned())
}

/// A device's events share a lane, whatever the case of its devEUI.
fn lane_hash(topic: &[u8]) -> u64 {
    let level = device_level(topic);
    let mut lower = [0u8; 16];
    let num_bytes = level.len().min(lower.len());
    lower[..num_bytes].copy_from_slice(&level[..num_bytes]);
    lower.make_ascii_lowercase();
    xxh3_64(&lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_its_lane_over_events_and_spellings() {
        let up = lane_hash(b"application/1/device/a81758fffe0000a1/event/up");
        assert_eq!(up, lane_hash(b"application/2/device/A81758FFFE0000A1/event/status"));
        assert_ne!(up, lane_hash(b"application/1/device/a81758fffe0000a2/event/up"));
        let _ = lane_hash(b"");
    }
}
