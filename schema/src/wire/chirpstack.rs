//! ChirpStack v4 events as JSON (`shared/reference/chirpstack.md`, from chirpstack 4.20). Only what Sluse reads is typed;
//! the value in the log stays byte for byte as published.
//!
//! Traps met here: zeros inside `rxInfo` are absent; `txack` and `log` have no `deduplicationId`; `OFFLINE` is an absent state;
//! an event with `joinServerContext` is still encrypted.

use std::borrow::Cow;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::figures::UpFigures;
use crate::id::{DevEui, GatewayId};

/// Largest packet taken from the broker. An uplink heard by 40 gateways is 17.5 kB; rumqttc's default of 10 kB would loop for ever.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;

/// What every event is checked for before it is accepted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventHead<'a> {
    #[serde(borrow, default)]
    pub deduplication_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub device_info: DeviceInfo<'a>,
}

/// `deviceInfo`, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInfo<'a> {
    #[serde(borrow)]
    pub dev_eui: Cow<'a, str>,
}

/// Why an event is refused for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("not JSON of a device event: {0}")]
    Shape(String),
    #[error("deviceInfo.devEui is not 16 hex digits")]
    DevEui,
    #[error("deduplicationId is longer than {0} bytes")]
    EventId(usize),
}

impl<'a> EventHead<'a> {
    /// Parses an event's head; devEUI and deduplication id are checked.
    pub fn parse(payload: &'a [u8]) -> Result<(Self, DevEui), EventError> {
        // Checked as a whole at once: text by text it took as long as all the rest.
        let text = crate::text::of_utf8(payload).map_err(|e| EventError::Shape(e.to_string()))?;
        let head: Self = serde_json::from_str(text).map_err(|e| EventError::Shape(e.to_string()))?;
        let dev_eui = head.check()?;
        Ok((head, dev_eui))
    }

    /// Parses the head of an `up` event together with its figures, in one pass. Figures that are not what they should be do not refuse an
    /// event: it has none then.
    pub fn parse_up(payload: &'a [u8]) -> Result<(Self, DevEui, UpFigures), EventError> {
        let read = crate::text::of_utf8(payload).ok().and_then(|text| serde_json::from_str(text).ok());
        if let Some(up @ UpEvent { device_info: Some(_), .. }) = read {
            let figures = up.figures();
            if let UpEvent { deduplication_id, device_info: Some(device_info), .. } = up {
                let head = Self { deduplication_id, device_info };
                let dev_eui = head.check()?;
                return Ok((head, dev_eui, figures));
            }
        }
        let (head, dev_eui) = Self::parse(payload)?;
        Ok((head, dev_eui, UpFigures::default()))
    }

    fn check(&self) -> Result<DevEui, EventError> {
        let dev_eui = self.device_info.dev_eui.parse().map_err(|_| EventError::DevEui)?;
        let max = crate::uplink::EVENT_ID_BYTES_MAX;
        if self.deduplication_id.as_ref().is_some_and(|id| id.len() > max) {
            return Err(EventError::EventId(max));
        }
        Ok(dev_eui)
    }
}

/// The topic of a device event, taken apart: `application/{id}/device/{devEui}/event/{event}`.
pub fn event_of_topic(topic: &str) -> Option<&str> {
    let mut levels = topic.split('/');
    let is_event = levels.next() == Some("application")
        && levels.next().is_some_and(|l| !l.is_empty())
        && levels.next() == Some("device")
        && levels.next().is_some_and(|l| !l.is_empty())
        && levels.next() == Some("event");
    let event = levels.next()?;
    (is_event && levels.next().is_none()).then_some(event)
}

/// Whether a topic is a gateway's connection state, with or without a region prefix.
pub fn gateway_of_state_topic(topic: &str) -> Option<&str> {
    let (rest, tail) = topic.rsplit_once("/state/")?;
    let gateway = rest.strip_prefix("gateway/").or_else(|| rest.split_once("/gateway/").map(|(_, g)| g))?;
    (tail == "conn" && !gateway.contains('/')).then_some(gateway)
}

/// An `up` event, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UpEvent<'a> {
    #[serde(borrow)]
    deduplication_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    device_info: Option<DeviceInfo<'a>>,
    time: EventTime,
    dr: Option<u8>,
    f_cnt: Option<u32>,
    rx_info: Reception,
}

impl UpEvent<'_> {
    fn figures(&self) -> UpFigures {
        let Reception { num_gateways, rssi_dbm, snr_db } = self.rx_info;
        let EventTime(event_at_ms) = self.time;
        UpFigures { event_at_ms, rssi_dbm, snr_db, num_gateways, dr: self.dr, f_cnt: self.f_cnt }
    }
}

/// `time`, in Unix milliseconds; a text that is no time is none.
#[derive(Clone, Copy, Debug, Default)]
struct EventTime(Option<i64>);

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = EventTime;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time")
            }

            fn visit_str<E>(self, text: &str) -> Result<EventTime, E> {
                Ok(EventTime(unix_ms(text)))
            }

            fn visit_unit<E>(self) -> Result<EventTime, E> {
                Ok(EventTime(None))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// `rxInfo`: the best figures over all gateways.
#[derive(Clone, Copy, Debug, Default)]
struct Reception {
    num_gateways: u16,
    rssi_dbm: Option<i32>,
    snr_db: Option<f32>,
}

/// One gateway's reception. An absent figure is a zero that protobuf left out, provided that the other one is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RxFigures {
    rssi: Option<f64>,
    snr: Option<f64>,
}

impl Reception {
    fn add(&mut self, rx: &RxFigures) {
        self.num_gateways = self.num_gateways.saturating_add(1);
        if rx.rssi.is_none() && rx.snr.is_none() {
            return;
        }
        let (rssi_dbm, snr_db) = (rx.rssi.unwrap_or(0.0) as i32, rx.snr.unwrap_or(0.0) as f32);
        self.rssi_dbm = Some(self.rssi_dbm.map_or(rssi_dbm, |best| best.max(rssi_dbm)));
        self.snr_db = Some(self.snr_db.map_or(snr_db, |best| best.max(snr_db)));
    }
}

impl<'de> Deserialize<'de> for Reception {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Reception;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of receptions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Reception, A::Error> {
                let mut reception = Reception::default();
                while let Some(rx) = seq.next_element()? {
                    reception.add(&rx);
                }
                Ok(reception)
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

/// The figures of an `up` event that nobody has read yet; what does not parse has none.
pub fn figures_of_up(payload: &[u8]) -> UpFigures {
    let read = crate::text::of_utf8(payload).ok().and_then(|text| serde_json::from_str::<UpEvent<'_>>(text).ok());
    read.map(|up| up.figures()).unwrap_or_default()
}

/// An RFC 3339 time as Unix milliseconds.
pub fn unix_ms(time: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(time).ok().map(|t| t.timestamp_millis())
}

/// `status`: battery and margin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusEvent {
    pub time: Option<String>,
    pub margin: i32,
    pub external_power_source: bool,
    pub battery_level_unavailable: bool,
    pub battery_level: f32,
}

/// `join`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JoinEvent {
    pub time: Option<String>,
    pub dev_addr: String,
}

/// `ack` and `txack`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownlinkEvent {
    pub time: Option<String>,
    pub queue_item_id: String,
    pub f_cnt_down: Option<u32>,
    pub acknowledged: Option<bool>,
}

/// `log`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogEvent {
    pub time: Option<String>,
    pub level: String,
    pub code: String,
    pub description: String,
}

/// `location`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LocationEvent {
    pub location: Option<Location>,
}

/// A place; zeros are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Location {
    pub latitude: f64,
    pub longitude: f64,
}

/// `gw.ConnState` in protobuf; JSON gateways send the same names in lowerCamelCase.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnState {
    #[prost(bytes = "vec", tag = "1")]
    pub gateway_id_legacy: Vec<u8>,
    /// 0 OFFLINE, 1 ONLINE.
    #[prost(int32, tag = "2")]
    pub state: i32,
    #[prost(string, tag = "3")]
    pub gateway_id: String,
}

/// `gw.ConnState` in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConnStateJson {
    gateway_id: String,
    gateway_id_legacy: String,
    state: serde_json::Value,
}

/// Reads a `state/conn` payload, protobuf or JSON: the gateway and whether it is online.
pub fn parse_conn_state(payload: &[u8]) -> Option<(GatewayId, bool)> {
    use base64::Engine as _;
    if payload.first() == Some(&b'{') {
        let json: ConnStateJson = serde_json::from_slice(payload).ok()?;
        let legacy = || {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&json.gateway_id_legacy).ok()?;
            hex::encode(bytes).parse().ok()
        };
        let gateway = json.gateway_id.parse().ok().or_else(legacy)?;
        return Some((gateway, json.state == "ONLINE" || json.state == 1));
    }
    let state = <ConnState as prost::Message>::decode(payload).ok()?;
    let gateway = state.gateway_id.parse().or_else(|_| hex::encode(&state.gateway_id_legacy).parse()).ok()?;
    Some((gateway, state.state == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_taken_apart() {
        assert_eq!(event_of_topic("application/1/device/2/event/up"), Some("up"));
        assert_eq!(event_of_topic("application/1/device/2/event/up/x"), None);
        assert_eq!(event_of_topic("application/1/device/2/command/down"), None);
        assert_eq!(gateway_of_state_topic("gateway/0016c001f1510001/state/conn"), Some("0016c001f1510001"));
        assert_eq!(gateway_of_state_topic("eu868/gateway/0016c001f1510001/state/conn"), Some("0016c001f1510001"));
        assert_eq!(gateway_of_state_topic("eu868/gateway/0016c001f1510001/state/other"), None);
    }

    #[test]
    fn a_head_is_read_from_capitals_and_without_deduplication_id() {
        let (head, eui) = EventHead::parse(br#"{"deviceInfo":{"devEui":"A81758FFFE0000A1"}}"#).unwrap();
        assert_eq!((head.deduplication_id, eui.0), (None, 0xa817_58ff_fe00_00a1));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_reason() {
        assert!(matches!(EventHead::parse(b"nope"), Err(EventError::Shape(_))));
        assert!(matches!(EventHead::parse(b"[]"), Err(EventError::Shape(_))));
        assert!(matches!(EventHead::parse(br#"{"data":"AQ=="}"#), Err(EventError::Shape(_))));
        assert!(matches!(EventHead::parse(b"{\"deviceInfo\":{\"devEui\":\"\xff\"}}"), Err(EventError::Shape(_))));
        // Also where nothing is read: what is in the log is text for every decoder.
        let unread = b"{\"deviceInfo\":{\"devEui\":\"a81758fffe0000a1\"},\"tags\":\"\xff\",\"fCnt\":3}";
        assert!(matches!(EventHead::parse(unread), Err(EventError::Shape(_))));
        assert_eq!(figures_of_up(unread).f_cnt, None);
        assert!(matches!(EventHead::parse_up(unread), Err(EventError::Shape(_))));
        let short = EventHead::parse(br#"{"deviceInfo":{"devEui":"a1"}}"#);
        assert_eq!(short.unwrap_err(), EventError::DevEui);
    }

    #[test]
    fn best_figures_take_absent_zeros_for_zeros() {
        let up = figures_of_up(br#"{"rxInfo":[{"rssi":-91,"snr":-1.5},{"rssi":-60}],"fCnt":3}"#);
        assert_eq!((up.rssi_dbm, up.snr_db, up.num_gateways, up.f_cnt), (Some(-60), Some(0.0), 2, Some(3)));
        let none = figures_of_up(br#"{"rxInfo":[{}]}"#);
        assert_eq!((none.rssi_dbm, none.snr_db, none.num_gateways), (None, None, 1));
    }

    #[test]
    fn an_up_is_read_in_one_pass_as_in_two() {
        let head = r#""deduplicationId":"d","deviceInfo":{"devEui":"a81758fffe0000a1"}"#;
        for (figures, has_them) in [
            (r#""time":"2026-11-22T12:38:09.559263153+00:00","dr":5,"fCnt":9,"rxInfo":[{"rssi":-60,"snr":9.5}]"#, true),
            (r#""rxInfo":[],"time":"nonsense","fCnt":9"#, true),
            (r#""time":null,"fCnt":9"#, true),
            (r#""time":7,"fCnt":9"#, false),
            (r#""fCnt":"nine""#, false),
            (r#""rxInfo":null,"fCnt":9"#, false),
            (r#""fCnt":9,"fCnt":9"#, false),
        ] {
            let event = format!("{{{head},{figures}}}");
            let (up, eui, read) = EventHead::parse_up(event.as_bytes()).unwrap();
            assert_eq!((up.deduplication_id.as_deref(), eui.0), (Some("d"), 0xa817_58ff_fe00_00a1), "{event}");
            assert_eq!(read, figures_of_up(event.as_bytes()), "{event}");
            assert_eq!(read.f_cnt, has_them.then_some(9), "{event}");
        }
        let text = |payload: &str| EventHead::parse_up(payload.as_bytes()).unwrap_err().to_string();
        assert!(text(r#"{"fCnt":9}"#).contains("missing field `deviceInfo`"));
        assert_eq!(EventHead::parse_up(br#"{"deviceInfo":{"devEui":"a1"}}"#).unwrap_err(), EventError::DevEui);
    }

    #[test]
    fn conn_state_is_read_from_both_encodings_and_absent_is_offline() {
        let online = prost::Message::encode_to_vec(&ConnState {
            gateway_id_legacy: Vec::new(),
            state: 1,
            gateway_id: "0016c001f1510001".into(),
        });
        let id = GatewayId(0x0016_c001_f151_0001);
        assert_eq!(parse_conn_state(&online), Some((id, true)));
        assert_eq!(parse_conn_state(br#"{"gatewayId":"0016c001f1510001","state":"ONLINE"}"#), Some((id, true)));
        assert_eq!(parse_conn_state(br#"{"gatewayId":"0016c001f1510001"}"#), Some((id, false)));
        assert_eq!(parse_conn_state(br#"{"gatewayIdLegacy":"ABbAAfFRAAE="}"#), Some((id, false)));
        assert_eq!(parse_conn_state(b"\xff\xff"), None);
    }
}
