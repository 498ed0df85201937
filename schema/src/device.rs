//! A device as the data path sees it: its configuration (from administration) and its state (from the log).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{ApplicationId, DecoderId, DeviceId, OrganizationId, TargetId};
use crate::record::LogIdentity;
use crate::record_text::RecordText;

/// What a source needs to know of a sender before it accepts anything from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRef {
    pub device: DeviceId,
    pub organization: OrganizationId,
}

/// How a decoder's code wants to be called; see `shared/reference/decoders.md` for where each comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// `decode(payload, metadata)`: the whole event and the device's record.
    Os2iot,
    /// `decodeUplink(input)`: LoRa Alliance TS013, ChirpStack v4, The Things Stack v3.
    Ts013,
    /// `driver.decodeUplink(input)`: Actility.
    Actility,
    /// `Decode(fPort, bytes, variables)`: ChirpStack v3.
    Chirpstack3,
    /// `Decoder(bytes, port)`: The Things Network v2.
    Ttn2,
}

impl Dialect {
    /// Every dialect, in the order in which they are offered.
    pub const ALL: [Self; 5] = [Self::Os2iot, Self::Ts013, Self::Actility, Self::Chirpstack3, Self::Ttn2];

    /// The text form in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Os2iot => "os2iot",
            Self::Ts013 => "ts013",
            Self::Actility => "actility",
            Self::Chirpstack3 => "chirpstack3",
            Self::Ttn2 => "ttn2",
        }
    }

    /// The dialect of this name.
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == text)
    }
}

/// A payload decoder's code in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderScript {
    pub id: DecoderId,
    /// Hash of source and dialect: two versions with the same hash decode alike.
    pub version: u64,
    pub source: Arc<str>,
    /// `None`: recognised from the source.
    pub dialect: Option<Dialect>,
}

impl DecoderScript {
    /// A script with its version worked out.
    pub fn new(id: DecoderId, source: impl Into<Arc<str>>, dialect: Option<Dialect>) -> Self {
        let source = source.into();
        let salt = dialect.map_or(0, |d| d as u64 + 1);
        let version = xxhash_rust::xxh3::xxh3_64_with_seed(source.as_bytes(), salt);
        Self { id, version, source, dialect }
    }
}

/// One duty of a device: send what it transmits, through this decoder or as it is, to this target.
/// Distinct per (target, decoder) pair, whatever number of connections says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub target: TargetId,
    pub decoder: Option<Arc<DecoderScript>>,
}

/// What administration says of a device, as far as the data path needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    pub device: DeviceId,
    pub application: ApplicationId,
    pub organization: OrganizationId,
    pub name: String,
    /// The device's record as decoders see it (`metadata`), JSON text without any secret.
    pub metadata: RecordText,
    pub routes: Arc<[Route]>,
}

/// One transmission in the rolling window, newest last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transmission {
    /// Event time clamped to received-at, Unix milliseconds.
    #[serde(rename = "t")]
    pub event_at_ms: i64,
    #[serde(rename = "o")]
    pub offset: u64,
    /// Best RSSI over all gateways.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub rssi_dbm: Option<i32>,
    /// Best SNR over all gateways.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub snr_db: Option<f32>,
    #[serde(rename = "g", default)]
    pub num_gateways: u16,
    /// Index into the region's data-rate table.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub dr: Option<u8>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub f_cnt: Option<u32>,
    /// Transmissions missing between this one and the one before, by frame counter.
    #[serde(rename = "m", default, skip_serializing_if = "is_zero")]
    pub f_cnt_gap: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The newest transmission by event time, ties and missing times by log order.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    pub event_at_ms: i64,
    pub received_at_ms: i64,
    pub offset: u64,
    pub rssi_dbm: Option<i32>,
    pub snr_db: Option<f32>,
    /// `None`: the payload that the store already has.
    pub payload: Option<Bytes>,
}

/// What the network server told of the device besides its transmissions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LinkState {
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_level_percent: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_external_power: Option<bool>,
    /// Demodulation margin of the last downlink, dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_db: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_join_at_ms: Option<i64>,
    /// 8 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_log: Option<Box<NetworkLog>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_downlink: Option<Box<DownlinkState>>,
}

/// The network server's last word about the device (`log` event).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkLog {
    pub at_ms: i64,
    pub level: String,
    pub code: String,
    pub description: String,
}

/// What became of the last downlink (`txack`, `ack`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownlinkState {
    pub queue_item_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_cnt_down: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_acknowledged: Option<bool>,
}

/// What became of one downlink, on its way to the downlink's own row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownlinkOutcome {
    pub queue_item_id: String,
    pub f_cnt_down: Option<u32>,
    pub sent_at_ms: Option<i64>,
    pub acknowledged_at_ms: Option<i64>,
    pub is_acknowledged: Option<bool>,
}

/// An event id that was seen, with where it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenEvent {
    pub repeat_key: u64,
    pub offset: u64,
    pub received_at_ms: i64,
}

/// What was counted of a device since it was registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceCounters {
    pub num_uplinks: u64,
    pub num_repeats: u64,
    pub num_decode_failures: u64,
    /// Frames that never came, by frame counter.
    pub num_f_cnt_missing: u64,
}

/// The state of a device as it follows the log: one coalesced row.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceState {
    pub device: DeviceId,
    /// The log and the offset after the last record applied; `None` for a device that never sent.
    pub applied: Option<(Arc<LogIdentity>, u64)>,
    pub latest: Option<Latest>,
    pub window: VecDeque<Transmission>,
    pub seen: VecDeque<SeenEvent>,
    /// `None`: the network server told nothing yet. Most devices never have one, and all of them are in memory.
    pub link: Option<Box<LinkState>>,
    /// Outcomes of downlinks that are not stored yet; they leave with the row.
    pub downlinks: Vec<DownlinkOutcome>,
    /// Frame counter of the last transmission, for the gap of the next one.
    pub f_cnt: Option<u32>,
    pub counters: DeviceCounters,
}

impl DeviceState {
    /// A device that never sent anything.
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            applied: None,
            latest: None,
            window: VecDeque::new(),
            seen: VecDeque::new(),
            link: None,
            downlinks: Vec::new(),
            f_cnt: None,
            counters: DeviceCounters::default(),
        }
    }
}
