//! An accepted uplink: what its headers say. The value beside them is the payload exactly as it came in.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::figures::UpFigures;
use crate::id::{DeviceId, OrganizationId};
use crate::record::{HeaderError, HeaderName, HeadersWriter, LogIdentity, NewRecord, Offset, Record};

/// Longest event id that is kept; longer ones are refused at the edge.
pub const EVENT_ID_BYTES_MAX: usize = 128;

/// Where an uplink came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    Chirpstack,
    Http,
}

impl SourceKind {
    /// Text form for headers and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chirpstack => "chirpstack",
            Self::Http => "http",
        }
    }

    fn of_str(text: &str) -> Option<Self> {
        [Self::Chirpstack, Self::Http].into_iter().find(|s| s.as_str() == text)
    }
}

/// What kind of event a record carries. Only [`EventType::Up`] is decoded and delivered; the others are for the device's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A transmission of the device.
    Up,
    Join,
    Status,
    Ack,
    /// "Accepted by the gateway", written `txack` by ChirpStack.
    TxAck,
    Log,
    Location,
    /// Older ChirpStack servers' `integration`, and what may come: kept as opaque JSON.
    Other,
}

impl EventType {
    const ALL: [Self; 8] =
        [Self::Up, Self::Join, Self::Status, Self::Ack, Self::TxAck, Self::Log, Self::Location, Self::Other];

    /// Text form for headers and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Join => "join",
            Self::Status => "status",
            Self::Ack => "ack",
            Self::TxAck => "txack",
            Self::Log => "log",
            Self::Location => "location",
            Self::Other => "other",
        }
    }

    /// The event type of a topic's last level. Unknown names are [`EventType::Other`].
    pub fn of_topic(name: &str) -> Self {
        Self::ALL.into_iter().find(|e| e.as_str() == name).unwrap_or(Self::Other)
    }
}

/// What the headers of an uplink record say.
#[derive(Clone, Debug, PartialEq)]
pub struct UplinkMeta {
    pub device: DeviceId,
    pub organization: OrganizationId,
    pub source: SourceKind,
    pub event: EventType,
    /// When Sluse accepted it, Unix milliseconds; never goes back within a partition.
    pub received_at_ms: i64,
    /// The sender's id of this event: ChirpStack's `deduplicationId`, an HTTP sender's `Idempotency-Key`.
    pub event_id: Option<String>,
    pub content_type: String,
    /// What was read of the payload where it came in; `None` when nothing was.
    pub figures: Option<UpFigures>,
}

impl UplinkMeta {
    /// The record of this uplink with its payload.
    pub fn into_record(self, value: bytes::Bytes) -> NewRecord {
        let headers = HeadersWriter::default()
            .number(HeaderName::Device, self.device.0)
            .number(HeaderName::Organization, self.organization.0)
            .text(HeaderName::Source, self.source.as_str())
            .text(HeaderName::Event, self.event.as_str())
            .number(HeaderName::ReceivedAt, self.received_at_ms)
            .text(HeaderName::ContentType, &self.content_type)
            .optional(HeaderName::EventId, self.event_id.as_deref())
            .optional(HeaderName::Figures, self.figures.map(UpFigures::to_text).as_deref())
            .finish();
        NewRecord { key: self.device.0, timestamp_ms: self.received_at_ms, headers, value }
    }

    /// Reads the headers of an uplink record.
    ///
    /// # Errors
    /// Names the header that is missing or wrong.
    pub fn of_record(record: &Record) -> Result<Self, HeaderError> {
        let (mut device, mut organization, mut source, mut event, mut received_at) = (None, None, None, None, None);
        let (mut event_id, mut content_type, mut figures) = (None, None, None);
        for (name, text) in record.headers.iter() {
            match name {
                HeaderName::Device => device = text.parse().ok().map(DeviceId),
                HeaderName::Organization => organization = text.parse().ok().map(OrganizationId),
                HeaderName::Source => source = SourceKind::of_str(text),
                HeaderName::Event => event = Some(EventType::of_topic(text)),
                HeaderName::ReceivedAt => received_at = text.parse().ok(),
                HeaderName::EventId => event_id = Some(text.to_owned()),
                HeaderName::ContentType => content_type = Some(text.to_owned()),
                HeaderName::Figures => figures = UpFigures::of_text(text),
                _ => {}
            }
        }
        Ok(Self {
            device: device.ok_or(HeaderError::Missing("device"))?,
            organization: organization.ok_or(HeaderError::Missing("organization"))?,
            source: source.ok_or(HeaderError::Missing("source"))?,
            event: event.ok_or(HeaderError::Missing("event"))?,
            received_at_ms: received_at.ok_or(HeaderError::Missing("received-at"))?,
            event_id,
            content_type: content_type.unwrap_or_else(|| "application/json".to_owned()),
            figures,
        })
    }

    /// What recognises a repeat within this device: event type *and* event id, since ChirpStack's `up` and its `status` or
    /// `ack` share one `deduplicationId`. `None` when the sender gave no id: then nothing is a repeat.
    pub fn repeat_key(&self) -> Option<u64> {
        let id = self.event_id.as_deref()?;
        let mut bytes = Vec::with_capacity(id.len() + 1);
        bytes.push(self.event as u8);
        bytes.extend_from_slice(id.as_bytes());
        Some(xxh3_64(&bytes))
    }

    /// The stable identity of this event, the base of every `Idempotency-Key` made of it: the sender's id if there is one,
    /// otherwise the place in the log.
    pub fn event_key(&self, log: &LogIdentity, partition: u32, offset: Offset) -> u128 {
        let Some(id) = &self.event_id else {
            let text = format!("{}|{}|{partition}|{offset}", log.store, log.incarnation);
            return xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        };
        // For every uplink: `format!` grows its text piece by piece.
        let mut text = String::with_capacity(32 + id.len());
        text.push_str(itoa::Buffer::new().format(self.device.0));
        text.push('|');
        text.push_str(self.event.as_str());
        text.push('|');
        text.push_str(id);
        xxhash_rust::xxh3::xxh3_128(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn meta() -> UplinkMeta {
        UplinkMeta {
            device: DeviceId(12),
            organization: OrganizationId(3),
            source: SourceKind::Chirpstack,
            event: EventType::Up,
            received_at_ms: 1_780_000_000_000,
            event_id: Some("b59e2877-5e24-43a0-a356-6399320f7e51".into()),
            content_type: "application/json".into(),
            figures: Some(UpFigures { rssi_dbm: Some(-91), f_cnt: Some(7), ..UpFigures::default() }),
        }
    }

    #[test]
    fn an_uplink_comes_back_from_its_record() {
        let new = meta().into_record(Bytes::from_static(b"{}"));
        let record = Record {
            offset: Offset(4),
            key: new.key,
            timestamp_ms: new.timestamp_ms,
            headers: new.headers,
            value: new.value,
        };
        assert_eq!(UplinkMeta::of_record(&record), Ok(meta()));
        let unread = UplinkMeta { figures: None, ..meta() };
        let headers = unread.clone().into_record(Bytes::new()).headers;
        assert_eq!(UplinkMeta::of_record(&Record { headers, ..record }), Ok(unread));
    }

    #[test]
    fn up_and_status_with_one_deduplication_id_are_two_events() {
        let status = UplinkMeta { event: EventType::Status, ..meta() };
        assert_ne!(meta().repeat_key(), status.repeat_key());
    }

    #[test]
    fn without_an_event_id_the_place_in_the_log_is_the_identity() {
        let log = LogIdentity { store: "embedded:x".into(), incarnation: 1 };
        let anonymous = UplinkMeta { event_id: None, ..meta() };
        assert_eq!(anonymous.repeat_key(), None);
        assert_ne!(anonymous.event_key(&log, 0, Offset(1)), anonymous.event_key(&log, 0, Offset(2)));
        assert_eq!(meta().event_key(&log, 0, Offset(1)), meta().event_key(&log, 1, Offset(9)));
    }
}
