//! rumqttc's MQTT v5 client, reduced to what a target's connection needs: what happened, and what an end means. Everything that
//! knows rumqttc's types or MQTT's reason codes (MQTT 5.0, 2.4) is here.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, PubAckReason, PubCompReason, PubRecReason, PublishProperties,
};
use rumqttc::v5::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, Proxy, ProxyAuth, ProxyType, StateError,
    TlsError,
};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use sluse_schema::delivery::{Attempt, AttemptClass};

use super::mqtt::{NUM_IN_FLIGHT_MAX, Outgoing, Settings};
use super::relay::{Relay, RelayError, USERNAME};
use super::resolve::ResolveError;
use super::tls;

/// Pings are sent this often when nothing else is.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the broker said it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokerLimits {
    pub(super) num_in_flight_max: usize,
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) qos_max: u8,
}

/// What a connection saw.
#[derive(Debug)]
pub(super) enum Happened {
    Connected(BrokerLimits),
    /// The next publish in line is on the wire under this packet id; 0 at QoS 0.
    Written(u16),
    /// The next publish in line waits for its packet id to become free.
    Collided,
    /// The broker's last word on a publish.
    Acknowledged {
        packet_id: u16,
        attempt: Attempt,
        /// rumqttc goes on counting it as in flight.
        is_slot_lost: bool,
    },
    Nothing,
}

/// Why a connection ended, or was never made.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// What it means for whatever was in flight.
    pub(super) attempt: Attempt,
    /// The metric label.
    pub(super) cause: &'static str,
}

impl Ended {
    pub(super) fn transient(cause: &'static str, message: String) -> Self {
        Self { attempt: Attempt::failed(AttemptClass::Transient, message), cause }
    }

    pub(super) fn misconfigured(cause: &'static str, message: String) -> Self {
        Self { attempt: Attempt::failed(AttemptClass::Misconfigured, message), cause }
    }

    /// Whether the broker hung up because a packet was too large for it.
    pub(super) fn is_packet_too_large(&self) -> bool {
        self.cause == "disconnected" && self.attempt.status_code == Some(DisconnectReasonCode::PacketTooLarge as u16)
    }

    fn with_status(mut self, status_code: u16) -> Self {
        self.attempt.status_code = Some(status_code);
        self
    }
}

/// The hand that publishes.
pub(super) struct Session {
    client: AsyncClient,
}

/// The event loop that does the work.
pub(super) struct Loop {
    event_loop: EventLoop,
    is_connected: bool,
    /// Why it ended, while acknowledgements that came just before are still to be told: rumqttc reads packets in runs, and a run
    /// that ends in an error leaves what it read before in its queue.
    ended: Option<Ended>,
}

impl Session {
    /// A session that will connect through `relay` when its loop is polled.
    pub(super) fn open(settings: &Settings, relay: &Relay) -> (Self, Loop) {
        let mut options = MqttOptions::new(&settings.client_id, &settings.broker.host, settings.broker.port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options
            .set_clean_start(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_outgoing_inflight_upper_limit(NUM_IN_FLIGHT_MAX)
            .set_network_options(network)
            // Ours is the shorter one; this only ends what ours has given up.
            .set_connection_timeout(settings.timeout.as_secs() + 1)
            .set_proxy(Proxy {
                ty: ProxyType::Http,
                auth: ProxyAuth::Basic { username: USERNAME.to_owned(), password: relay.password().to_owned() },
                addr: "127.0.0.1".to_owned(),
                port: relay.port(),
            });
        if !settings.username.is_empty() {
            options.set_credentials(&settings.username, settings.password.reveal());
        }
        if let Some(config) = &settings.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config.clone())));
        }
        // As many places as there can be publishes in flight, plus the DISCONNECT: handing over never fails for want of room.
        let (client, event_loop) = AsyncClient::new(options, usize::from(NUM_IN_FLIGHT_MAX) + 1);
        (Self { client }, Loop { event_loop, is_connected: false, ended: None })
    }

    /// Hands a publish to the event loop; whether it took it.
    pub(super) fn publish(&self, settings: &Settings, outgoing: &Outgoing) -> bool {
        let properties = PublishProperties {
            content_type: Some(outgoing.content_type.clone()),
            user_properties: vec![("Idempotency-Key".to_owned(), outgoing.idempotency_key.clone())],
            ..PublishProperties::default()
        };
        let qos = match settings.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let topic = settings.topic.as_str();
        self.client.try_publish_with_properties(topic, qos, false, outgoing.body.clone(), properties).is_ok()
    }

    /// Says goodbye and returns when it is written.
    pub(super) async fn disconnect(&self, event_loop: &mut Loop, settings: &Settings, relay: &Relay) {
        if self.client.try_disconnect().is_err() {
            return;
        }
        loop {
            match event_loop.event_loop.poll().await {
                Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(error) => {
                    let ended = ended_by(error, settings, relay, true);
                    tracing::debug!(message = ended.attempt.message, "mqtt connection broke while it was closed");
                    return;
                }
            }
        }
    }
}

impl Loop {
    /// Waits for the next thing to happen. Must not be dropped before it returns, unless the whole loop is.
    pub(super) async fn next(&mut self, settings: &Settings, relay: &Relay) -> Result<Happened, Ended> {
        if self.ended.is_none() {
            match self.event_loop.poll().await {
                Ok(event) => return Ok(self.tell(event)),
                Err(error) => self.ended = Some(ended_by(error, settings, relay, self.is_connected)),
            }
        }
        if let Some(event) = self.event_loop.state.events.pop_front() {
            return Ok(self.tell(event));
        }
        let unexplained = || Ended::transient("broken", "the connection ended".to_owned());
        Err(self.ended.take().unwrap_or_else(unexplained))
    }

    fn tell(&mut self, event: Event) -> Happened {
        match event {
            Event::Incoming(Incoming::ConnAck(connack)) => {
                self.is_connected = true;
                let limits = connack.properties.as_ref();
                let receive_max = limits.and_then(|p| p.receive_max).unwrap_or(u16::MAX).max(1);
                Happened::Connected(BrokerLimits {
                    num_in_flight_max: usize::from(receive_max.min(NUM_IN_FLIGHT_MAX)),
                    packet_bytes_max: limits.and_then(|p| p.max_packet_size),
                    qos_max: limits.and_then(|p| p.max_qos).unwrap_or(2),
                })
            }
            Event::Incoming(Incoming::PubAck(ack)) => {
                Happened::Acknowledged { packet_id: ack.pkid, attempt: of_puback(ack.reason), is_slot_lost: false }
            }
            Event::Incoming(Incoming::PubRec(rec)) => match of_pubrec(rec.reason) {
                attempt if attempt.class == AttemptClass::Delivered => Happened::Nothing,
                attempt => Happened::Acknowledged { packet_id: rec.pkid, attempt, is_slot_lost: true },
            },
            Event::Incoming(Incoming::PubComp(comp)) => match comp.reason {
                PubCompReason::Success => Happened::Acknowledged {
                    packet_id: comp.pkid,
                    attempt: Attempt::delivered(None),
                    is_slot_lost: false,
                },
                PubCompReason::PacketIdentifierNotFound => Happened::Acknowledged {
                    packet_id: comp.pkid,
                    attempt: reason(AttemptClass::Transient, 0x92, "packet identifier not found"),
                    is_slot_lost: true,
                },
            },
            Event::Outgoing(rumqttc::Outgoing::Publish(packet_id)) => Happened::Written(packet_id),
            Event::Outgoing(rumqttc::Outgoing::AwaitAck(_)) => Happened::Collided,
            _ => Happened::Nothing,
        }
    }
}

fn reason(class: AttemptClass, code: u16, text: &str) -> Attempt {
    Attempt { status_code: Some(code), ..Attempt::failed(class, format!("the broker answered: {text} (0x{code:02x})")) }
}

fn of_puback(code: PubAckReason) -> Attempt {
    use AttemptClass::{Misconfigured, Refused, Transient};
    match code {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Attempt::delivered(None),
        PubAckReason::UnspecifiedError => reason(Transient, 0x80, "unspecified error"),
        PubAckReason::ImplementationSpecificError => reason(Transient, 0x83, "implementation specific error"),
        PubAckReason::NotAuthorized => reason(Misconfigured, 0x87, "not authorized to publish to the target's topic"),
        PubAckReason::TopicNameInvalid => reason(Refused, 0x90, "topic name invalid"),
        PubAckReason::PacketIdentifierInUse => reason(Transient, 0x91, "packet identifier in use"),
        PubAckReason::QuotaExceeded => reason(Transient, 0x97, "quota exceeded"),
        PubAckReason::PayloadFormatInvalid => reason(Refused, 0x99, "payload format invalid"),
    }
}

fn of_pubrec(code: PubRecReason) -> Attempt {
    of_puback(match code {
        PubRecReason::Success => PubAckReason::Success,
        PubRecReason::NoMatchingSubscribers => PubAckReason::NoMatchingSubscribers,
        PubRecReason::UnspecifiedError => PubAckReason::UnspecifiedError,
        PubRecReason::ImplementationSpecificError => PubAckReason::ImplementationSpecificError,
        PubRecReason::NotAuthorized => PubAckReason::NotAuthorized,
        PubRecReason::TopicNameInvalid => PubAckReason::TopicNameInvalid,
        PubRecReason::PacketIdentifierInUse => PubAckReason::PacketIdentifierInUse,
        PubRecReason::QuotaExceeded => PubAckReason::QuotaExceeded,
        PubRecReason::PayloadFormatInvalid => PubAckReason::PayloadFormatInvalid,
    })
}

/// What an error of the event loop means for what was in flight.
fn ended_by(error: ConnectionError, settings: &Settings, relay: &Relay, was_connected: bool) -> Ended {
    let place = settings.broker.place();
    if let Some(failure) = relay.failure() {
        return match failure {
            RelayError::Resolve(ResolveError::Refused(refused)) => Ended::misconfigured("egress", refused.to_string()),
            other => Ended::transient("unreachable", other.to_string()),
        };
    }
    if let Some(tls) = tls::cause::<rustls::Error>(&error) {
        return Ended::misconfigured("tls", format!("TLS with {place} failed: {tls}"));
    }
    match error {
        ConnectionError::ConnectionRefused(code) => refused_by(code, &place),
        ConnectionError::Tls(TlsError::DNSName(_)) => {
            Ended::misconfigured("tls", format!("{place} is no name that a certificate can be checked against"))
        }
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            disconnected_by(reason_code, &place)
        }
        _ if !was_connected => Ended::transient(
            "connect",
            format!("{place} closed the connection before it answered (MQTT v5 is needed): {error}"),
        ),
        _ => Ended::transient("broken", format!("the connection to {place} broke: {error}")),
    }
}

fn refused_by(code: ConnectReturnCode, place: &str) -> Ended {
    use ConnectReturnCode as Code;
    let (is_configuration, status, text) = match code {
        Code::BadUserNamePassword => (true, 0x86, "bad user name or password"),
        Code::NotAuthorized => (true, 0x87, "not authorized"),
        Code::Banned => (true, 0x8a, "banned"),
        Code::BadAuthenticationMethod => (true, 0x8c, "bad authentication method"),
        Code::ClientIdentifierNotValid | Code::BadClientId => (true, 0x85, "client identifier not valid"),
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => (true, 0x84, "MQTT v5 not supported"),
        Code::UseAnotherServer => (true, 0x9c, "use another server"),
        Code::ServerMoved => (true, 0x9d, "server moved"),
        Code::ServerUnavailable | Code::ServiceUnavailable => (false, 0x88, "server unavailable"),
        Code::ServerBusy => (false, 0x89, "server busy"),
        Code::QuotaExceeded => (false, 0x97, "quota exceeded"),
        Code::ConnectionRateExceeded => (false, 0x9f, "connection rate exceeded"),
        _ => (false, 0x80, "unspecified error"),
    };
    let message = format!("{place} refused the connection: {text} (0x{status:02x})");
    if is_configuration { Ended::misconfigured("refused", message) } else { Ended::transient("refused", message) }
        .with_status(status)
}

fn disconnected_by(code: DisconnectReasonCode, place: &str) -> Ended {
    let status = code as u16;
    let message = format!("{place} closed the connection: {code:?} (0x{status:02x})");
    use DisconnectReasonCode as Code;
    match code {
        Code::NotAuthorized | Code::TopicNameInvalid | Code::QoSNotSupported | Code::ServerMoved => {
            Ended::misconfigured("disconnected", message)
        }
        _ => Ended::transient("disconnected", message),
    }
    .with_status(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fall_into_the_classes_of_the_design() {
        for (code, class) in [
            (PubAckReason::Success, AttemptClass::Delivered),
            (PubAckReason::NoMatchingSubscribers, AttemptClass::Delivered),
            (PubAckReason::NotAuthorized, AttemptClass::Misconfigured),
            (PubAckReason::QuotaExceeded, AttemptClass::Transient),
            (PubAckReason::TopicNameInvalid, AttemptClass::Refused),
            (PubAckReason::PayloadFormatInvalid, AttemptClass::Refused),
        ] {
            assert_eq!(of_puback(code).class, class, "{code:?}");
        }
    }

    #[test]
    fn wrong_credentials_are_configuration_and_a_busy_broker_is_not() {
        let class = |code| refused_by(code, "b:1883").attempt.class;
        assert_eq!(class(ConnectReturnCode::BadUserNamePassword), AttemptClass::Misconfigured);
        assert_eq!(class(ConnectReturnCode::NotAuthorized), AttemptClass::Misconfigured);
        assert_eq!(class(ConnectReturnCode::ServerBusy), AttemptClass::Transient);
        assert_eq!(refused_by(ConnectReturnCode::NotAuthorized, "b").attempt.status_code, Some(0x87));
    }
}
