//! What a published event must be to be taken in, and why others are refused for good. Pure. The payload goes on byte for byte.
//!
//! Decided here: the devEUI of the topic and of the body must be the same (brokers grant rights by topic, Sluse looks senders up by
//! body); a retained event is an old one that the broker repeats at every subscription, so it is refused; protobuf is refused and
//! counted by itself, because one setting of ChirpStack mends it (`integration.mqtt json = true`).

use bytes::Bytes;
use serde::de::IgnoredAny;
use sluse_schema::id::{DevEui, DeviceKey};
use sluse_schema::port::Arrival;
use sluse_schema::uplink::{EventType, SourceKind};
use sluse_schema::wire::chirpstack::{EventError, EventHead, event_of_topic};

/// Why an event is refused for good. It is acknowledged and counted, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedEvent {
    #[error("the topic is none of a device event or gateway state")]
    Topic,
    #[error("the event is encoded as protobuf: set `json = true` in [integration.mqtt] of chirpstack.toml")]
    Protobuf,
    #[error("the event is not JSON in UTF-8")]
    NotJson,
    #[error("{0}")]
    Shape(String),
    #[error("the event has no deviceInfo with a devEui")]
    NoDeviceInfo,
    #[error("deviceInfo.devEui is not 16 hex digits")]
    DevEui,
    #[error("deviceInfo.devEui is another than the topic's")]
    DevEuiOfTopic,
    #[error("deduplicationId is too long")]
    EventId,
    #[error("the event is retained by the broker: it was published before")]
    Retained,
}

impl RefusedEvent {
    /// The metric label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Protobuf => "protobuf",
            Self::NotJson => "not_json",
            Self::Shape(_) => "shape",
            Self::NoDeviceInfo => "no_device_info",
            Self::DevEui => "dev_eui",
            Self::DevEuiOfTopic => "dev_eui_of_topic",
            Self::EventId => "event_id",
            Self::Retained => "retained",
        }
    }
}

/// The text of the topic's devEUI level, whatever it holds: what keeps a device's events in one lane.
pub fn device_level(topic: &[u8]) -> &[u8] {
    topic.split(|b| *b == b'/').nth(3).unwrap_or(topic)
}

/// Checks an event and makes an arrival of it.
///
/// # Errors
/// Why it can never be taken in.
pub fn examine(topic: &[u8], payload: &Bytes, is_retained: bool) -> Result<Arrival, RefusedEvent> {
    let topic = std::str::from_utf8(topic).map_err(|_| RefusedEvent::Topic)?;
    let event = event_of_topic(topic).ok_or(RefusedEvent::Topic)?;
    if is_retained {
        return Err(RefusedEvent::Retained);
    }
    let event = EventType::of_topic(event);
    let read = match event {
        EventType::Up => EventHead::parse_up(payload).map(|(head, dev_eui, figures)| (head, dev_eui, Some(figures))),
        _ => EventHead::parse(payload).map(|(head, dev_eui)| (head, dev_eui, None)),
    };
    let (head, dev_eui, figures) = read.map_err(|error| refusal(error, payload))?;
    let of_topic = device_level(topic.as_bytes());
    let is_of_topic = std::str::from_utf8(of_topic).ok().and_then(|t| t.parse::<DevEui>().ok()) == Some(dev_eui);
    if !is_of_topic {
        return Err(RefusedEvent::DevEuiOfTopic);
    }
    let event_id = head.deduplication_id.filter(|id| !id.is_empty()).map(|id| id.into_owned());
    Ok(Arrival {
        sender: DeviceKey::DevEui(dev_eui),
        source: SourceKind::Chirpstack,
        event,
        event_id,
        content_type: "application/json".to_owned(),
        figures,
        payload: payload.clone(),
    })
}

/// Tells the refusals of the parser apart; only ever called for what is refused.
fn refusal(error: EventError, payload: &[u8]) -> RefusedEvent {
    match error {
        EventError::DevEui => RefusedEvent::DevEui,
        EventError::EventId(_) => RefusedEvent::EventId,
        EventError::Shape(_) if !is_json(payload) => not_json(payload),
        EventError::Shape(text) if text.contains("missing field") => RefusedEvent::NoDeviceInfo,
        EventError::Shape(text) => RefusedEvent::Shape(text),
    }
}

/// In UTF-8 as a whole, which the parser alone would not ask of what it skips.
fn is_json(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// ChirpStack's messages begin with field 1: a UUID or timestamp (0x0a) or a number (0x08). JSON may begin with a line feed (0x0a
/// as well), but then something printable follows, where protobuf has a length.
fn not_json(payload: &[u8]) -> RefusedEvent {
    match payload {
        [0x08, ..] | [0x0a, 1..=0x24, ..] => RefusedEvent::Protobuf,
        _ => RefusedEvent::NotJson,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOPIC: &[u8] = b"application/1/device/a81758fffe0000a1/event/up";

    fn refused(payload: &'static [u8]) -> RefusedEvent {
        examine(TOPIC, &Bytes::from_static(payload), false).unwrap_err()
    }

    fn event(text: &str) -> Bytes {
        Bytes::from(text.to_owned())
    }

    #[test]
    fn what_is_refused_has_its_reason() {
        assert_eq!(refused(b"nope"), RefusedEvent::NotJson);
        assert_eq!(refused(b""), RefusedEvent::NotJson);
        assert_eq!(
            refused(b"{\"deviceInfo\":{\"devEui\":\"a81758fffe0000a1\"},\"x\":\"\xff\"}"),
            RefusedEvent::NotJson
        );
        assert_eq!(refused(b"{\"deviceInfo\":{\"devEui\":\"a81758fffe0000a1\"}} x"), RefusedEvent::NotJson);
        assert!(matches!(refused(b"[1,2]"), RefusedEvent::Shape(_)));
        assert!(matches!(refused(b"{\"deviceInfo\":7}"), RefusedEvent::Shape(_)));
        assert_eq!(refused(b"{\"data\":\"AQ==\"}"), RefusedEvent::NoDeviceInfo);
        assert_eq!(refused(b"{\"deviceInfo\":{}}"), RefusedEvent::NoDeviceInfo);
        assert_eq!(refused(b"{\"deviceInfo\":{\"devEui\":\"a1\"}}"), RefusedEvent::DevEui);
        assert_eq!(refused(b"{\"deviceInfo\":{\"devEui\":\"a81758fffe0000a2\"}}"), RefusedEvent::DevEuiOfTopic);
        assert_eq!(refused(b"\x0a\x24df0eae92-3b6e-442c-ad58-7afe2bcdb858\x12\x0c"), RefusedEvent::Protobuf);
        assert_eq!(refused(b"\x08\x8f\xc2\xe8\x07\x12\x00"), RefusedEvent::Protobuf);
        assert_eq!(refused(b"\n  nope"), RefusedEvent::Protobuf, "a guess by two bytes; refused either way");
    }

    #[test]
    fn what_real_networks_send_is_taken_in() {
        let capitals = event(r#"{"deviceInfo":{"devEui":"A81758FFFE0000A1"},"deduplicationId":"","rxInfo":[]}"#);
        let arrival = examine(TOPIC, &capitals, false).unwrap();
        assert_eq!((arrival.event_id, arrival.event), (None, EventType::Up));
        assert_eq!(arrival.sender, DeviceKey::DevEui(DevEui(0xa817_58ff_fe00_00a1)));
        let f_port_0 = event("\n {\"fPort\":0,\"data\":\"\",\"deviceInfo\":{\"devEui\":\"a81758fffe0000a1\"}}");
        assert_eq!(examine(TOPIC, &f_port_0, false).unwrap().payload, f_port_0);
        let capital_topic = b"application/1/device/A81758FFFE0000A1/event/integration";
        assert_eq!(examine(capital_topic, &capitals, false).unwrap().event, EventType::Other);
    }

    #[test]
    fn other_topics_and_retained_events_are_refused() {
        let good = event(r#"{"deviceInfo":{"devEui":"a81758fffe0000a1"}}"#);
        assert_eq!(examine(b"application/1/device/2/command/down", &good, false).unwrap_err(), RefusedEvent::Topic);
        assert_eq!(examine(b"\xff", &good, false).unwrap_err(), RefusedEvent::Topic);
        assert_eq!(examine(TOPIC, &good, true).unwrap_err(), RefusedEvent::Retained);
    }

    proptest! {
        /// I7: whatever is published, the answer is a value.
        #[test]
        fn nothing_that_is_published_panics(topic in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), is_retained in any::<bool>()) {
            let payload = Bytes::from(payload);
            let _ = examine(&topic, &payload, is_retained);
            let _ = examine(TOPIC, &payload, is_retained);
        }
    }
}
