//! ChirpStack v4 events as JSON (`shared/reference/chirpstack.md`, from chirpstack 4.20). Only what Sluse reads is typed;
//! the value in the log stays byte for byte as published.
//!
//! Traps met here: zeros inside `rxInfo` are absent; `txack` and `log` have no `deduplicationId`; `OFFLINE` is an absent state;
//! an event with `joinServerContext` is still encrypted.

use std::borrow::Cow;

use serde::Deserialize;

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
        let text = std::str::from_utf8(payload).map_err(|e| EventError::Shape(e.to_string()))?;
        let head: Self = serde_json::from_str(text).map_err(|e| EventError::Shape(e.to_string()))?;
        let dev_eui = head.device_info.dev_eui.parse().map_err(|_| EventError::DevEui)?;
        let max = crate::uplink::EVENT_ID_BYTES_MAX;
        if head.deduplication_id.as_ref().is_some_and(|id| id.len() > max) {
            return Err(EventError::EventId(max));
        }
        Ok((head, dev_eui))
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

/// Signal and frame figures of an `up` event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpFigures<'a> {
    #[serde(borrow)]
    pub time: Option<Cow<'a, str>>,
    pub dr: Option<u8>,
    pub f_cnt: Option<u32>,
    pub rx_info: Vec<RxFigures>,
}

/// One gateway's reception. An absent figure is a zero that protobuf left out, provided that the other one is there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RxFigures {
    pub rssi: Option<f64>,
    pub snr: Option<f64>,
}

impl<'a> UpFigures<'a> {
    /// The figures of an event; what does not parse has none.
    pub fn parse(payload: &'a [u8]) -> Self {
        std::str::from_utf8(payload).ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Best RSSI over all gateways, dBm.
    pub fn best_rssi_dbm(&self) -> Option<i32> {
        let heard = self.rx_info.iter().filter(|rx| rx.rssi.is_some() || rx.snr.is_some());
        heard.map(|rx| rx.rssi.unwrap_or(0.0) as i32).max()
    }

    /// Best SNR over all gateways, dB.
    pub fn best_snr_db(&self) -> Option<f32> {
        let heard = self.rx_info.iter().filter(|rx| rx.rssi.is_some() || rx.snr.is_some());
        heard.map(|rx| rx.snr.unwrap_or(0.0) as f32).max_by(f32::total_cmp)
    }

    /// Event time, Unix milliseconds.
    pub fn event_at_ms(&self) -> Option<i64> {
        unix_ms(self.time.as_deref()?)
    }
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
        assert_eq!(UpFigures::parse(unread).f_cnt, None);
        let short = EventHead::parse(br#"{"deviceInfo":{"devEui":"a1"}}"#);
        assert_eq!(short.unwrap_err(), EventError::DevEui);
    }

    #[test]
    fn best_figures_take_absent_zeros_for_zeros() {
        let up: UpFigures<'_> =
            serde_json::from_str(r#"{"rxInfo":[{"rssi":-91,"snr":-1.5},{"rssi":-60}],"fCnt":3}"#).unwrap();
        assert_eq!((up.best_rssi_dbm(), up.best_snr_db()), (Some(-60), Some(0.0)));
        let none: UpFigures<'_> = serde_json::from_str(r#"{"rxInfo":[{}]}"#).unwrap();
        assert_eq!((none.best_rssi_dbm(), none.best_snr_db()), (None, None));
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
