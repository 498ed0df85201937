//! What stands in the log: a record is a value, byte for byte as it came in or will be sent, with headers beside it.
//! Positions name their log, so that an offset of one log is never used in another.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::partition::PartitionId;

/// The two topics of Sluse. Names carry a version: a change of format or partition count means a new topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// What devices sent, keyed by device.
    Uplinks,
    /// What targets are owed, keyed by target.
    Deliveries,
}

impl Topic {
    /// The name of the topic in Kafka and on metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplinks => "sluse.uplinks.v1",
            Self::Deliveries => "sluse.deliveries.v1",
        }
    }
}

/// The position of a record in its partition. `next` offsets are one past the last record handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of an untrimmed partition.
    pub const ZERO: Self = Self(0);

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which log a position belongs to: an embedded store with its incarnation, or a Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogIdentity {
    /// `embedded:<uuid of the store>` or `kafka:<cluster id>`.
    pub store: String,
    /// Raised at every unclean start of an embedded store; 0 for Kafka.
    pub incarnation: u64,
}

/// An offset together with the log it belongs to. What is kept outside the log (state position, cursors) is kept as this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The log that `offset` counts in.
    pub log: LogIdentity,
    /// The next offset to read.
    pub offset: Offset,
}

/// What a stored position means for the log that is open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Read from here. A position of an older incarnation is cut at where that one ended.
    At(Offset),
    /// The records from the stored position up to `start` are no longer kept.
    Expired {
        /// First offset that is still there.
        start: Offset,
    },
    /// The position counts in another log and says nothing about this one.
    OtherLog,
}

/// Header names. The text form is what a Kafka tool shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HeaderName {
    Device = 1,
    Organization = 2,
    Source = 3,
    Event = 4,
    ReceivedAt = 5,
    EventId = 6,
    ContentType = 7,
    Target = 8,
    Application = 9,
    Decoder = 10,
    Kind = 11,
    EventKey = 12,
    Error = 13,
    Topic = 14,
    Figures = 15,
}

impl HeaderName {
    /// Each at its byte less one.
    const ALL: [Self; 15] = [
        Self::Device,
        Self::Organization,
        Self::Source,
        Self::Event,
        Self::ReceivedAt,
        Self::EventId,
        Self::ContentType,
        Self::Target,
        Self::Application,
        Self::Decoder,
        Self::Kind,
        Self::EventKey,
        Self::Error,
        Self::Topic,
        Self::Figures,
    ];

    /// The name in Kafka.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Organization => "organization",
            Self::Source => "source",
            Self::Event => "event",
            Self::ReceivedAt => "received-at",
            Self::EventId => "event-id",
            Self::ContentType => "content-type",
            Self::Target => "target",
            Self::Application => "application",
            Self::Decoder => "decoder",
            Self::Kind => "kind",
            Self::EventKey => "event-key",
            Self::Error => "error",
            Self::Topic => "topic",
            Self::Figures => "figures",
        }
    }

    /// The header of this Kafka name, if it is one of ours.
    pub fn of_str(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.as_str() == name)
    }

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

/// The headers of a record as one flat text: `name byte, u16 length, UTF-8 text`, repeated.
///
/// Flat, because a record is written once and read once or twice: no map is built on the way.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Bytes);

/// Headers as they are being written: one after another, into one buffer.
#[derive(Debug)]
pub struct HeadersWriter(BytesMut);

impl Default for HeadersWriter {
    fn default() -> Self {
        // A delivery's are about 130 bytes.
        Self(BytesMut::with_capacity(160))
    }
}

impl HeadersWriter {
    /// One more; a text beyond 65 535 bytes is cut at a character boundary.
    #[must_use]
    pub fn text(mut self, name: HeaderName, text: &str) -> Self {
        let text = crate::text::cut(text, usize::from(u16::MAX));
        self.0.put_u8(name as u8);
        self.0.put_u16(text.len() as u16);
        self.0.put_slice(text.as_bytes());
        self
    }

    /// One more, if there is a text for it.
    #[must_use]
    pub fn optional(self, name: HeaderName, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// One more, a number in decimal.
    #[must_use]
    pub fn number(self, name: HeaderName, number: i64) -> Self {
        self.text(name, itoa::Buffer::new().format(number))
    }

    /// What was written.
    pub fn finish(self) -> Headers {
        Headers(self.0.freeze())
    }
}

impl Headers {
    /// Headers from pairs; a text beyond 65 535 bytes is cut at a character boundary.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (HeaderName, &'a str)>) -> Self {
        pairs.into_iter().fold(HeadersWriter::default(), |flat, (name, text)| flat.text(name, text)).finish()
    }

    /// The flat form, as the embedded log stores it.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Headers from their flat form.
    ///
    /// # Errors
    /// When the bytes are not what [`Headers::as_bytes`] gave.
    pub fn from_bytes(flat: Bytes) -> Result<Self, HeaderError> {
        let headers = Self(flat);
        let mut num_bytes_read = 0;
        for (_, text) in headers.iter() {
            num_bytes_read += 3 + text.len();
        }
        if num_bytes_read == headers.0.len() { Ok(headers) } else { Err(HeaderError::Malformed) }
    }

    /// The pairs in the order they were written; ends at the first malformed one.
    pub fn iter(&self) -> impl Iterator<Item = (HeaderName, &str)> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at_checked(3)?;
            let name = HeaderName::of_byte(head[0])?;
            let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
            let (text, tail) = tail.split_at_checked(len)?;
            rest = tail;
            Some((name, std::str::from_utf8(text).ok()?))
        })
    }

    /// The first value of `name`.
    pub fn get(&self, name: HeaderName) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, text)| text)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(n, v)| (n.as_str(), v))).finish()
    }
}

/// Why the headers of a record do not say what they must.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("headers are not in their flat form")]
    Malformed,
    #[error("header {0} is missing")]
    Missing(&'static str),
    #[error("header {0} does not hold what it must")]
    Invalid(&'static str),
}

/// A record that is to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Device id or target id: what the topic is keyed and (deliveries) indexed by.
    pub key: i64,
    /// Received-at of the uplink, Unix milliseconds; offsets are found by it.
    pub timestamp_ms: i64,
    pub headers: Headers,
    pub value: Bytes,
}

impl NewRecord {
    /// Size that counts against byte limits.
    pub fn num_bytes(&self) -> usize {
        self.headers.as_bytes().len() + self.value.len() + 24
    }

    /// The record as it is read, once it stands there.
    pub fn at(self, offset: Offset) -> Record {
        let Self { key, timestamp_ms, headers, value } = self;
        Record { offset, key, timestamp_ms, headers, value }
    }
}

/// A record as it is read.
#[derive(Clone, Debug)]
pub struct Record {
    pub offset: Offset,
    pub key: i64,
    pub timestamp_ms: i64,
    pub headers: Headers,
    pub value: Bytes,
}

impl Record {
    /// Size that counts against byte limits.
    pub fn num_bytes(&self) -> usize {
        self.headers.as_bytes().len() + self.value.len() + 24
    }
}

/// One atomic step of the device stage (I1): the deliveries of a run of uplinks, and the position behind that run.
#[derive(Clone, Debug)]
pub struct Step {
    /// Partition of the uplinks topic whose position moves.
    pub partition: PartitionId,
    /// The position before the step: a step whose predecessor was not committed is refused.
    pub from: Offset,
    /// The new position: every uplink below it is done with.
    pub next: Offset,
    /// Deliveries in the order of their uplinks, each with its partition of the deliveries topic.
    pub outputs: Vec<(PartitionId, NewRecord)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back_as_they_were(texts in proptest::collection::vec((0usize..14, ".{0,40}"), 0..8)) {
            let pairs: Vec<(HeaderName, &str)> =
                texts.iter().map(|(i, t)| (HeaderName::ALL[*i], t.as_str())).collect();
            let headers = Headers::from_pairs(pairs.clone());
            let back = Headers::from_bytes(headers.as_bytes().clone()).unwrap();
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), pairs);
        }

        #[test]
        fn malformed_headers_are_refused_not_read(bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
            if let Ok(headers) = Headers::from_bytes(Bytes::from(bytes.clone())) {
                let again = Headers::from_pairs(headers.iter());
                prop_assert_eq!(again.as_bytes().as_ref(), bytes.as_slice());
            }
        }
    }

    #[test]
    fn header_names_are_unique() {
        for (i, a) in HeaderName::ALL.iter().enumerate() {
            assert_eq!(HeaderName::of_str(a.as_str()), Some(*a));
            assert_eq!(HeaderName::of_byte(*a as u8), Some(*a));
            assert!(HeaderName::ALL[i + 1..].iter().all(|b| *b as u8 != *a as u8));
        }
        assert_eq!([HeaderName::of_byte(0), HeaderName::of_byte(HeaderName::ALL.len() as u8 + 1)], [None, None]);
    }
}
