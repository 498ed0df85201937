//! The task behind an MQTT target: connects when there is something to send, keeps publishes in flight, hands acknowledgements
//! back, and ends a connection that cannot be trusted any more.
//!
//! A connection is never mended, always replaced, event loop and all: that is the answer to a lost session (rumqttc forgets what
//! was unacknowledged), to a PUBREC that refused (rumqttc never frees its slot), and to rumqtt#1056 (it can stop writing while it
//! stays connected; seen as a publish that nobody acknowledged within its timeout). What was in flight then is `Transient`: the
//! target's actor offers it again under the same `Idempotency-Key`.

use std::sync::Arc;
use std::time::Duration;

use sluse_schema::delivery::{Attempt, AttemptClass};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics;
use super::mqtt::{Outgoing, Settings};
use super::mqtt_in_flight::InFlight;
use super::mqtt_v5::{BrokerLimits, Ended, Happened, Session};
use super::relay::Relay;

/// How long a closing connection may take over its DISCONNECT.
const DISCONNECT_MAX: Duration = Duration::from_secs(1);

/// Serves `inbox` until `closed`, over one connection after another.
pub(super) async fn run(settings: Arc<Settings>, mut inbox: mpsc::Receiver<Outgoing>, closed: CancellationToken) {
    let mut is_cautious = false;
    loop {
        let first = tokio::select! {
            () = closed.cancelled() => return,
            first = inbox.recv() => first,
        };
        let Some(first) = first else { return };
        let mut connection = Connection::new(&settings, first, is_cautious);
        let mut ended = connection.serve(&mut inbox, &closed).await;
        let (was_connected, denied) = (connection.limits.is_some(), connection.denied.take());
        let is_shared = !was_connected || denied.is_some();
        is_cautious = was_connected && (denied.is_some() || connection.in_flight.len() > 0);
        if let Some(denied) = denied {
            ended.attempt = denied;
        }
        connection.fail_all(&ended);
        metrics::mqtt_ended(ended.cause);
        if closed.is_cancelled() {
            return;
        }
        let (place, message) = (settings.broker.place(), ended.attempt.message.as_str());
        tracing::debug!(client_id = %settings.client_id, %place, cause = ended.cause, message, "mqtt connection ended");
        if is_shared {
            // They came for this very connection, to publish to the same topic: they share its outcome.
            while let Ok(outgoing) = inbox.try_recv() {
                let _ = outgoing.reply.send(ended.attempt.clone());
            }
        }
    }
}

/// Connects once and says what came of it, within the target's timeout.
pub(super) async fn check(settings: &Arc<Settings>) -> Attempt {
    let place = settings.broker.place();
    let relay =
        match Relay::open(Arc::clone(&settings.policy), settings.broker.host.clone(), settings.broker.port).await {
            Ok(relay) => relay,
            Err(error) => return Ended::transient("relay", format!("no port for the egress relay: {error}")).attempt,
        };
    let (session, mut event_loop) = Session::open(settings, &relay);
    let connected = async {
        loop {
            if let Happened::Connected(limits) = event_loop.next(settings, &relay).await? {
                return Ok::<_, Ended>(limits);
            }
        }
    };
    let attempt = match timeout(settings.timeout, connected).await {
        Ok(Ok(limits)) if settings.qos > limits.qos_max => qos_too_high(settings.qos, &limits).attempt,
        Ok(Ok(_)) => Attempt { message: "Connection successful".to_owned(), ..Attempt::delivered(None) },
        Ok(Err(ended)) => return ended.attempt,
        Err(_) => {
            let message = format!("no connection to {place} within {} ms", settings.timeout.as_millis());
            return Attempt::failed(AttemptClass::Transient, message);
        }
    };
    let _ = timeout(DISCONNECT_MAX, session.disconnect(&mut event_loop, settings, &relay)).await;
    attempt
}

fn qos_too_high(qos: u8, limits: &BrokerLimits) -> Ended {
    let message = format!("the broker takes QoS {} at most, the target has {qos}", limits.qos_max);
    Ended::misconfigured("qos", message)
}

/// One connection and what is in flight on it.
struct Connection<'a> {
    settings: &'a Arc<Settings>,
    in_flight: InFlight<Outgoing>,
    /// Taken from the inbox, not handed over yet.
    next: Option<Outgoing>,
    /// `None` until the broker accepted us.
    limits: Option<BrokerLimits>,
    /// A slot of rumqttc's is lost, or the broker denied us: hand nothing over any more, and end when what is in flight is done.
    is_worn_out: bool,
    /// The broker's word that the target's configuration is wrong. Mosquitto 2.0.11 hangs up right after it, so it also stands
    /// for whatever was in flight behind, on the same topic.
    denied: Option<Attempt>,
    /// The connection before this one broke under publishes: until one is acknowledged, one at a time. A broker that hangs up on
    /// several at once (Mosquitto 2.0.11 when it denies) resets the connection, and its reason is lost with it.
    is_cautious: bool,
}

impl<'a> Connection<'a> {
    fn new(settings: &'a Arc<Settings>, first: Outgoing, is_cautious: bool) -> Self {
        Self {
            settings,
            in_flight: InFlight::new(),
            next: Some(first),
            limits: None,
            is_worn_out: false,
            denied: None,
            is_cautious,
        }
    }

    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Outgoing>, closed: &CancellationToken) -> Ended {
        let settings = Arc::clone(self.settings);
        // A little less than what the senders wait, so that they hear why instead of only timing out.
        let connect_deadline = Instant::now() + settings.timeout.mul_f32(0.9);
        let broker = &settings.broker;
        let relay = match Relay::open(Arc::clone(&settings.policy), broker.host.clone(), broker.port).await {
            Ok(relay) => relay,
            Err(error) => return Ended::transient("relay", format!("no port for the egress relay: {error}")),
        };
        let (session, mut event_loop) = Session::open(&settings, &relay);
        let mut watchdog = interval((settings.timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(5)));
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gauge = None;
        loop {
            // `poll` must run to its end: rumqttc loses what it had in hand when it is dropped half-way.
            let happened = {
                let poll = event_loop.next(&settings, &relay);
                tokio::pin!(poll);
                loop {
                    let has_room = self.has_room();
                    tokio::select! {
                        happened = &mut poll => break happened,
                        () = closed.cancelled() => break Err(Ended::transient("closed", "the target's sender was closed".into())),
                        () = sleep_until(connect_deadline), if self.limits.is_none() => {
                            break Err(Ended::transient("connect_timeout", format!(
                                "no connection to {} within {} ms", broker.place(), settings.timeout.as_millis())));
                        }
                        outgoing = inbox.recv(), if has_room => match outgoing {
                            Some(outgoing) => {
                                self.next = Some(outgoing);
                                self.hand_over(&session);
                            }
                            None => break Err(Ended::transient("closed", "the target's sender was closed".into())),
                        },
                        _ = watchdog.tick(), if self.in_flight.len() > 0 => {
                            if let Some(ended) = self.overdue() {
                                break Err(ended);
                            }
                        }
                    }
                }
            };
            match happened {
                Ok(happened) => {
                    if matches!(happened, Happened::Connected(_)) {
                        gauge = Some(OpenConnection::count());
                    }
                    if let Err(ended) = self.take_in(happened) {
                        return ended;
                    }
                    self.hand_over(&session);
                }
                Err(ended) => {
                    if gauge.is_some() && ended.cause == "closed" {
                        let goodbye = session.disconnect(&mut event_loop, &settings, &relay);
                        let _ = timeout(DISCONNECT_MAX, goodbye).await;
                    }
                    return ended;
                }
            }
        }
    }

    /// Whether another publish may be taken from the inbox.
    fn has_room(&self) -> bool {
        self.next.is_none() && !self.is_worn_out && self.is_below_limit()
    }

    fn is_below_limit(&self) -> bool {
        let Some(limits) = &self.limits else { return false };
        self.in_flight.len() < if self.is_cautious { 1 } else { limits.num_in_flight_max }
    }

    fn take_in(&mut self, happened: Happened) -> Result<(), Ended> {
        match happened {
            Happened::Connected(limits) => {
                if self.settings.qos > limits.qos_max {
                    return Err(qos_too_high(self.settings.qos, &limits));
                }
                self.limits = Some(limits);
            }
            Happened::Written(packet_id) => {
                if let Some(outgoing) = self.in_flight.write(packet_id) {
                    self.is_cautious = false;
                    let _ = outgoing.reply.send(Attempt::delivered(None));
                }
            }
            Happened::Collided => self.in_flight.collide(),
            Happened::Acknowledged { packet_id, attempt, is_slot_lost } => {
                self.is_cautious &= attempt.class != AttemptClass::Delivered;
                if attempt.class == AttemptClass::Misconfigured {
                    self.denied = Some(attempt.clone());
                }
                self.is_worn_out |= is_slot_lost || self.denied.is_some();
                if let Some(outgoing) = self.in_flight.finish(packet_id) {
                    let _ = outgoing.reply.send(attempt);
                }
            }
            Happened::Nothing => {}
        }
        if self.is_worn_out && self.in_flight.len() == 0 {
            return Err(Ended::transient("worn_out", "the connection is renewed after a refusal".into()));
        }
        Ok(())
    }

    /// Gives the publish that waits to the event loop, if the broker has room for it.
    fn hand_over(&mut self, session: &Session) {
        let Some(limits) = &self.limits else { return };
        if self.is_worn_out || !self.is_below_limit() {
            return;
        }
        let Some(outgoing) = self.next.take() else { return };
        if outgoing.reply.is_closed() {
            return;
        }
        if limits.packet_bytes_max.is_some_and(|max| packet_bytes_estimate(self.settings, &outgoing) > max as usize) {
            let message = "the message is larger than the broker's maximum packet size";
            let _ = outgoing.reply.send(Attempt::failed(AttemptClass::Refused, message));
        } else if session.publish(self.settings, &outgoing) {
            self.in_flight.hand(outgoing);
        } else {
            // Its queue is as long as all that may be in flight, so this is an event loop that is gone.
            let _ =
                outgoing.reply.send(Attempt::failed(AttemptClass::Transient, "the MQTT client takes no more messages"));
        }
    }

    /// Whether a publish was not acknowledged though its sender waited its whole timeout.
    fn overdue(&self) -> Option<Ended> {
        let now = Instant::now();
        let is_overdue = self.in_flight.iter().any(|outgoing| outgoing.deadline <= now);
        is_overdue.then(|| {
            let place = self.settings.broker.place();
            Ended::transient("unacknowledged", format!("{place} is connected but does not acknowledge"))
        })
    }

    fn fail_all(&mut self, ended: &Ended) {
        let mut in_flight = self.in_flight.take();
        if ended.is_packet_too_large() {
            // It does not say which one it meant. The others come again, and the next largest then, if it was not this one.
            let largest =
                (0..in_flight.len()).max_by_key(|idx| in_flight.get(*idx).map(|outgoing| outgoing.body.len()));
            if let Some(outgoing) = largest.map(|idx| in_flight.swap_remove(idx)) {
                let _ = outgoing.reply.send(Attempt { class: AttemptClass::Refused, ..ended.attempt.clone() });
            }
        }
        for outgoing in in_flight.into_iter().chain(self.next.take()) {
            let _ = outgoing.reply.send(ended.attempt.clone());
        }
    }
}

/// The size of a PUBLISH, a little more rather than less.
fn packet_bytes_estimate(settings: &Settings, outgoing: &Outgoing) -> usize {
    64 + settings.topic.len() + outgoing.body.len() + outgoing.content_type.len() + outgoing.idempotency_key.len()
}

/// Counts a connection as open while it lives.
struct OpenConnection(::metrics::Gauge);

impl OpenConnection {
    fn count() -> Self {
        let gauge = metrics::mqtt_connections();
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
