//! How a record stands on disk, within its batch: its value carries what searching and trimming need.
//!
//! A value is `running maximum of the timestamps (i64), bytes of all records before this one (u64), timestamp (i64), key (i64),
//! length of the headers (u32), headers, payload`, integers big-endian. The two running figures rise with the offset, so that a
//! place is found by time or by size with a binary search although deliveries' timestamps may go back a little.

use bytes::{BufMut, Bytes, BytesMut};
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{Headers, NewRecord, Offset, Record, Topic};

/// Bytes in front of the headers.
const HEAD_BYTES: usize = 36;

/// What runs along a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The largest timestamp up to and including this record.
    pub max_timestamp_ms: i64,
    /// Size of all records before this one, as they are read.
    pub bytes_before: u64,
}

/// Where the records from an offset on stand within their keyspace: what their batch's key begins with.
pub const fn offset_key(offset: Offset) -> [u8; 8] {
    offset.0.to_be_bytes()
}

/// The offset of a record's key.
pub fn offset_of_key(key: &[u8]) -> Option<Offset> {
    Some(Offset(u64::from_be_bytes(key.try_into().ok()?)))
}

/// Bytes that the value of a record takes.
pub fn encoded_len(new: &NewRecord) -> usize {
    HEAD_BYTES + new.headers.as_bytes().len() + new.value.len()
}

/// Appends the value of a record.
pub fn encode(new: &NewRecord, running: Running, flat: &mut BytesMut) {
    let headers = new.headers.as_bytes();
    flat.put_i64(running.max_timestamp_ms);
    flat.put_u64(running.bytes_before);
    flat.put_i64(new.timestamp_ms);
    flat.put_i64(new.key);
    flat.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
    flat.put_slice(headers);
    flat.put_slice(&new.value);
}

/// Reads a value back; `None` when it is not one.
pub fn decode(offset: Offset, flat: &Bytes) -> Option<(Record, Running)> {
    let int = |at: usize| Some(u64::from_be_bytes(flat.get(at..at + 8)?.try_into().ok()?));
    let running = Running { max_timestamp_ms: int(0)? as i64, bytes_before: int(8)? };
    let (timestamp_ms, key) = (int(16)? as i64, int(24)? as i64);
    let headers_len = u32::from_be_bytes(flat.get(32..HEAD_BYTES)?.try_into().ok()?) as usize;
    let value_at = HEAD_BYTES.checked_add(headers_len).filter(|at| *at <= flat.len())?;
    let headers = Headers::from_bytes(flat.slice(HEAD_BYTES..value_at)).ok()?;
    Some((Record { offset, key, timestamp_ms, headers, value: flat.slice(value_at..) }, running))
}

/// The name of a partition's keyspace.
pub fn keyspace_name(topic: Topic, partition: PartitionId) -> String {
    format!("{}-{partition}", short_name(topic))
}

/// Where the committed position of an uplinks partition stands.
pub fn committed_key(partition: PartitionId) -> Vec<u8> {
    format!("committed/{partition}").into_bytes()
}

/// Where the first kept offset of a partition stands.
pub fn start_key(topic: Topic, partition: PartitionId) -> Vec<u8> {
    format!("start/{}/{partition}", short_name(topic)).into_bytes()
}

const fn short_name(topic: Topic) -> &'static str {
    match topic {
        Topic::Uplinks => "uplinks",
        Topic::Deliveries => "deliveries",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluse_schema::record::HeaderName;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            key: i64, timestamp_ms: i64, max_timestamp_ms: i64, bytes_before: u64, text in ".{0,60}",
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let headers = Headers::from_pairs([(HeaderName::EventId, text.as_str())]);
            let new = NewRecord { key, timestamp_ms, headers: headers.clone(), value: Bytes::from(value.clone()) };
            let running = Running { max_timestamp_ms, bytes_before };
            let mut flat = BytesMut::new();
            encode(&new, running, &mut flat);
            prop_assert_eq!(flat.len(), encoded_len(&new));
            let (back, back_running) = decode(Offset(7), &flat.freeze()).unwrap();
            prop_assert_eq!(back_running, running);
            prop_assert_eq!((back.key, back.timestamp_ms, &back.headers), (key, timestamp_ms, &headers));
            prop_assert_eq!(&back.value[..], &value[..]);
        }

        #[test]
        fn bytes_that_are_no_record_are_refused_not_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let flat = Bytes::from(bytes);
            if let Some((record, _)) = decode(Offset(0), &flat) {
                prop_assert!(record.value.len() + HEAD_BYTES <= flat.len());
            }
        }
    }

    #[test]
    fn keys_sort_like_offsets() {
        let offsets = [0, 1, 255, 256, 65_535, 1 << 40, u64::MAX];
        assert!(offsets.map(|o| offset_key(Offset(o))).is_sorted());
        assert_eq!(offset_of_key(&offset_key(Offset(1 << 40))), Some(Offset(1 << 40)));
        assert_eq!(offset_of_key(b"short"), None);
    }
}
