//! Records as Kafka holds them: the value is the payload byte for byte, the key is the id as decimal text, each header is one of
//! Kafka's with its text, so that any Kafka tool can read them.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message, OwnedHeaders};
use sluse_schema::record::{HeaderName, Headers, NewRecord, Offset, Record};

/// No record has more; with fewer, librdkafka makes room again and again.
const NUM_HEADERS: usize = 16;

/// The headers of a record that is to be sent.
pub fn headers_of(record: &NewRecord) -> OwnedHeaders {
    record.headers.iter().fold(OwnedHeaders::new_with_capacity(NUM_HEADERS), |headers, (name, text)| {
        headers.insert(Header { key: name.as_str(), value: Some(text) })
    })
}

/// The key of a record that is to be sent.
pub fn key_of(record: &NewRecord) -> String {
    record.key.to_string()
}

/// A record as it was read; `None` when somebody else wrote it: its key is no id. Headers that are none of ours are left out.
pub fn record_of(message: &BorrowedMessage<'_>) -> Option<Record> {
    let key = std::str::from_utf8(message.key()?).ok()?.parse().ok()?;
    let pairs = message.headers().into_iter().flat_map(|headers| {
        headers.iter().filter_map(|header| {
            Some((HeaderName::of_str(header.key)?, std::str::from_utf8(header.value.unwrap_or_default()).ok()?))
        })
    });
    Some(Record {
        offset: Offset(u64::try_from(message.offset()).ok()?),
        key,
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        headers: Headers::from_pairs(pairs),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    })
}
