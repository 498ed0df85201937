//! A delivery: the duty to send one body to one target, its attempts, and what it ends as (I4).

use serde::{Deserialize, Serialize};

use crate::id::{ApplicationId, DecoderId, DeviceId, OrganizationId, TargetId};
use crate::record::{HeaderError, HeaderName, HeadersWriter, NewRecord, Record};

/// What the value of a delivery record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryKind {
    /// The body to send: a decoder's result, or the payload as it came in when the connection has no decoder.
    Body,
    /// The raw uplink, because its decoder failed: becomes a dead letter, and is decoded when that is replayed.
    Undecoded,
}

impl DeliveryKind {
    /// Text form for headers, API and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Undecoded => "undecoded",
        }
    }
}

/// What the headers of a delivery record say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryMeta {
    pub target: TargetId,
    pub device: DeviceId,
    pub application: ApplicationId,
    pub organization: OrganizationId,
    pub decoder: Option<DecoderId>,
    pub kind: DeliveryKind,
    /// See [`crate::uplink::UplinkMeta::event_key`].
    pub event_key: u128,
    /// Received-at of the uplink, Unix milliseconds.
    pub received_at_ms: i64,
    pub content_type: String,
    /// Why decoding failed, for [`DeliveryKind::Undecoded`].
    pub error: Option<String>,
}

impl DeliveryMeta {
    /// The record of this delivery with its body or raw uplink.
    pub fn into_record(self, value: bytes::Bytes) -> NewRecord {
        let mut event_key = [0; 32];
        let flat = HeadersWriter::default()
            .number(HeaderName::Target, self.target.0)
            .number(HeaderName::Device, self.device.0)
            .number(HeaderName::Application, self.application.0)
            .number(HeaderName::Organization, self.organization.0)
            .text(HeaderName::Kind, self.kind.as_str())
            .text(HeaderName::EventKey, hex_of(self.event_key, &mut event_key))
            .number(HeaderName::ReceivedAt, self.received_at_ms)
            .text(HeaderName::ContentType, &self.content_type);
        let flat = match self.decoder {
            Some(decoder) => flat.number(HeaderName::Decoder, decoder.0),
            None => flat,
        };
        let headers = flat.optional(HeaderName::Error, self.error.as_deref()).finish();
        NewRecord { key: self.target.0, timestamp_ms: self.received_at_ms, headers, value }
    }

    /// Reads the headers of a delivery record.
    ///
    /// # Errors
    /// Names the header that is missing or wrong.
    pub fn of_record(record: &Record) -> Result<Self, HeaderError> {
        let (mut target, mut device, mut application, mut organization) = (None, None, None, None);
        let (mut kind, mut event_key, mut received_at, mut decoder) = (None, None, None, None);
        let (mut content_type, mut error) = (None, None);
        for (name, text) in record.headers.iter() {
            match name {
                HeaderName::Target => target = text.parse().ok().map(TargetId),
                HeaderName::Device => device = text.parse().ok().map(DeviceId),
                HeaderName::Application => application = text.parse().ok().map(ApplicationId),
                HeaderName::Organization => organization = text.parse().ok().map(OrganizationId),
                HeaderName::Decoder => decoder = Some(text.parse().map(DecoderId)),
                HeaderName::Kind => {
                    kind = [DeliveryKind::Body, DeliveryKind::Undecoded].into_iter().find(|k| k.as_str() == text);
                }
                HeaderName::EventKey => event_key = u128::from_str_radix(text, 16).ok(),
                HeaderName::ReceivedAt => received_at = text.parse().ok(),
                HeaderName::ContentType => content_type = Some(text.to_owned()),
                HeaderName::Error => error = Some(text.to_owned()),
                _ => {}
            }
        }
        Ok(Self {
            target: target.ok_or(HeaderError::Missing("target"))?,
            device: device.ok_or(HeaderError::Missing("device"))?,
            application: application.ok_or(HeaderError::Missing("application"))?,
            organization: organization.ok_or(HeaderError::Missing("organization"))?,
            decoder: decoder.transpose().map_err(|_| HeaderError::Invalid("decoder"))?,
            kind: kind.ok_or(HeaderError::Missing("kind"))?,
            event_key: event_key.ok_or(HeaderError::Missing("event-key"))?,
            received_at_ms: received_at.ok_or(HeaderError::Missing("received-at"))?,
            content_type: content_type.unwrap_or_else(|| "application/json".to_owned()),
            error,
        })
    }

    /// The key under which a receiver recognises a repeat: stable over retries, restarts, rewinds and replays.
    pub fn idempotency_key(&self) -> String {
        let (mut event_key, mut number) = ([0; 32], itoa::Buffer::new());
        // Of the event's key, two numbers and what parts them: it never grows.
        let mut text = String::with_capacity(80);
        text.push_str(hex_of(self.event_key, &mut event_key));
        text.push('|');
        text.push_str(number.format(self.target.0));
        text.push('|');
        text.push_str(number.format(self.decoder.map_or(0, |decoder| decoder.0)));
        hex_of(xxhash_rust::xxh3::xxh3_128(text.as_bytes()), &mut event_key).to_owned()
    }
}

/// 32 hex digits; the formatter of the standard library takes 128 bits apart one by one, for every delivery.
fn hex_of(number: u128, digits: &mut [u8; 32]) -> &str {
    hex::encode_to_slice(number.to_be_bytes(), digits).expect("16 bytes are 32 digits");
    std::str::from_utf8(digits).expect("hex digits are ASCII")
}

/// What an attempt means for its delivery. The class decides; the text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptClass {
    /// The receiver has it.
    Delivered,
    /// The receiver refuses this message for good: dead letter.
    Refused,
    /// The target's configuration is wrong, not the message: the breaker opens, nothing is lost.
    Misconfigured,
    /// Not now: retried with backoff.
    Transient,
}

impl AttemptClass {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Misconfigured => "misconfigured",
            Self::Transient => "transient",
        }
    }

    /// The class of an HTTP answer. Redirects are not followed, so they are configuration.
    pub const fn of_http_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Delivered,
            400 | 409 | 413 | 415 | 422 => Self::Refused,
            300..=399 | 401 | 403 | 404 | 405 | 410 => Self::Misconfigured,
            _ => Self::Transient,
        }
    }
}

/// One attempt to deliver, finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub class: AttemptClass,
    /// HTTP status or MQTT reason code, where there was one.
    pub status_code: Option<u16>,
    /// Status text, or what went wrong, for people. Never holds a secret.
    pub message: String,
    /// First kilobyte of the receiver's answer when it refused.
    pub answer: bytes::Bytes,
    /// How long the receiver asked us to wait (Retry-After).
    pub retry_after_ms: Option<u64>,
}

impl Attempt {
    /// Longest part of an answer that is kept.
    pub const ANSWER_BYTES_MAX: usize = 1024;

    /// A delivery that arrived.
    pub fn delivered(status_code: Option<u16>) -> Self {
        Self {
            class: AttemptClass::Delivered,
            status_code,
            message: "OK".to_owned(),
            answer: bytes::Bytes::new(),
            retry_after_ms: None,
        }
    }

    /// A failure without an answer.
    pub fn failed(class: AttemptClass, message: impl Into<String>) -> Self {
        Self { class, status_code: None, message: message.into(), answer: bytes::Bytes::new(), retry_after_ms: None }
    }
}

/// Why a delivery became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The receiver refused it for good.
    Refused,
    /// It failed again and again while others succeeded.
    Exhausted,
    /// It was older than the target's `max_age`.
    TooOld,
    /// Its decoder failed; replaying decodes again.
    Undecoded,
}

impl DeadReason {
    /// Text form for the API, the database and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Exhausted => "exhausted",
            Self::TooOld => "too_old",
            Self::Undecoded => "undecoded",
        }
    }
}

/// A delivery that is parked for a person to look at: it can be replayed or purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub meta: DeliveryMeta,
    /// Where it stood in the deliveries log, so that a rewind over it supersedes it.
    pub offset: u64,
    pub reason: DeadReason,
    pub num_attempts: u32,
    pub status_code: Option<u16>,
    pub message: String,
    pub answer: bytes::Bytes,
    pub body: bytes::Bytes,
    pub died_at_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Offset;
    use bytes::Bytes;

    fn meta() -> DeliveryMeta {
        DeliveryMeta {
            target: TargetId(5),
            device: DeviceId(12),
            application: ApplicationId(2),
            organization: OrganizationId(3),
            decoder: Some(DecoderId(9)),
            kind: DeliveryKind::Undecoded,
            event_key: 77,
            received_at_ms: 1_780_000_000_000,
            content_type: "application/json".into(),
            error: Some("ReferenceError: x is not defined".into()),
        }
    }

    #[test]
    fn a_delivery_comes_back_from_its_record() {
        let new = meta().into_record(Bytes::from_static(b"{}"));
        let record = Record {
            offset: Offset(1),
            key: new.key,
            timestamp_ms: new.timestamp_ms,
            headers: new.headers,
            value: new.value,
        };
        assert_eq!(DeliveryMeta::of_record(&record), Ok(meta()));
    }

    #[test]
    fn the_idempotency_key_differs_by_event_target_and_decoder_and_by_nothing_else() {
        let key = meta().idempotency_key();
        assert_ne!(key, DeliveryMeta { event_key: 78, ..meta() }.idempotency_key());
        assert_ne!(key, DeliveryMeta { target: TargetId(6), ..meta() }.idempotency_key());
        assert_ne!(key, DeliveryMeta { decoder: None, ..meta() }.idempotency_key());
        assert_eq!(key, DeliveryMeta { kind: DeliveryKind::Body, error: None, ..meta() }.idempotency_key());
    }

    #[test]
    fn statuses_fall_into_the_classes_of_the_design() {
        for (status, class) in [
            (204, AttemptClass::Delivered),
            (400, AttemptClass::Refused),
            (422, AttemptClass::Refused),
            (401, AttemptClass::Misconfigured),
            (302, AttemptClass::Misconfigured),
            (408, AttemptClass::Transient),
            (425, AttemptClass::Transient),
            (429, AttemptClass::Transient),
            (503, AttemptClass::Transient),
        ] {
            assert_eq!(AttemptClass::of_http_status(status), class, "{status}");
        }
    }
}
