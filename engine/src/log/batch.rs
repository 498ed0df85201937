//! Record batches: what one commit brings for a partition stands on disk as one entry, compressed as one.
//!
//! Journal, memory table, table and index of tables then handle one item where they handled a dozen, and all of them handle it
//! compressed: at 10 000 uplinks a second that is a sixth of the bytes.
//!
//! A key is `offset of the first record (u64), number of records (u32)`; a value is `form (u8), length of the records (u32),
//! records`, each of them `length (u32), value as in `[`keys`], integers big-endian. A key of eight bytes is a record by itself, as
//! format 1 of the store had them.
//!
//! Limits: a batch holds at most `RAW_BYTES_MAX`, or one record of any size; below `PACK_BYTES_MIN` it is not compressed, which the
//! tables' blocks still are.

use bytes::{BufMut, Bytes, BytesMut};
use lz4_flex::block::{self, CompressTable};
use sluse_schema::record::{NewRecord, Offset, Record};

use super::keys::{self, Running};

/// LZ4's small hash table takes inputs below 64 KiB.
const RAW_BYTES_MAX: usize = 60 << 10;
/// A single uplink compresses badly, and a block of several better.
const PACK_BYTES_MIN: usize = 4 << 10;
/// Form and length in front of the records.
const HEAD_BYTES: usize = 5;
/// The length in front of each record.
const LEN_BYTES: usize = 4;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
/// LZ4 makes at most 255 bytes of one: what claims more is damaged, and is not given the memory.
const LZ4_RATIO_MAX: usize = 255;

/// The key of a batch.
pub type BatchKey = [u8; 12];

fn key(base: Offset, num_records: u32) -> BatchKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&keys::offset_key(base));
    key[8..].copy_from_slice(&num_records.to_be_bytes());
    key
}

/// Which offsets an entry holds; `None` when the key is none of a batch.
pub fn span(key: &[u8]) -> Option<std::ops::Range<u64>> {
    let (base, num_records) = key.split_at_checked(8)?;
    let base = keys::offset_of_key(base)?.0;
    let num_records = match num_records {
        [] => 1,
        counted => u32::from_be_bytes(counted.try_into().ok()?),
    };
    Some(base..base.checked_add(u64::from(num_records))?)
}

/// Compresses; keeps the memory that takes.
#[derive(Default)]
pub struct Packer {
    table: CompressTable,
    packed: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl Packer {
    /// The value for these bytes: compressed where that saves an eighth at least.
    fn pack(&mut self, plain: Bytes) -> Bytes {
        let raw = &plain[HEAD_BYTES..];
        if raw.len() < PACK_BYTES_MIN {
            return plain;
        }
        self.packed.resize(HEAD_BYTES + block::get_maximum_output_size(raw.len()), 0);
        let packed = block::compress_into_with_table(raw, &mut self.packed[HEAD_BYTES..], &mut self.table);
        if raw.len() >= usize::from(u16::MAX) {
            // A large table serves small inputs, too, but slower.
            self.table = CompressTable::default();
        }
        match packed {
            Ok(len) if len < raw.len() - raw.len() / 8 => {
                self.packed[0] = LZ4;
                self.packed[1..HEAD_BYTES].copy_from_slice(&plain[1..HEAD_BYTES]);
                Bytes::copy_from_slice(&self.packed[..HEAD_BYTES + len])
            }
            _ => plain,
        }
    }
}

/// A batch that is being filled.
#[derive(Debug)]
pub struct OpenBatch {
    base: Offset,
    plain: BytesMut,
    /// Without their payloads, which lie in `plain`.
    records: Vec<Record>,
    /// Where each payload begins and ends in `plain`.
    payloads: Vec<(usize, usize)>,
}

/// A batch as it is written, and its records as readers get them: they share the memory that was written, or compressed.
#[derive(Debug)]
pub struct Sealed {
    pub key: BatchKey,
    pub value: Bytes,
    pub records: Vec<Record>,
}

impl OpenBatch {
    /// A batch from this offset on, with room for so many bytes of records.
    pub fn new(base: Offset, num_bytes: usize) -> Self {
        let mut plain = BytesMut::with_capacity(HEAD_BYTES + num_bytes.min(RAW_BYTES_MAX));
        plain.put_bytes(0, HEAD_BYTES);
        Self { base, plain, records: Vec::new(), payloads: Vec::new() }
    }

    /// Bytes that a record takes in a batch.
    pub fn num_bytes_of(new: &NewRecord) -> usize {
        LEN_BYTES + keys::encoded_len(new)
    }

    /// Whether this record belongs to the next batch.
    pub fn is_full_for(&self, new: &NewRecord) -> bool {
        !self.records.is_empty() && self.plain.len() - HEAD_BYTES + Self::num_bytes_of(new) > RAW_BYTES_MAX
    }

    /// The next record.
    pub fn push(&mut self, new: NewRecord, running: Running) {
        self.plain.put_u32(u32::try_from(keys::encoded_len(&new)).unwrap_or(u32::MAX));
        keys::encode(&new, running, &mut self.plain);
        let end = self.plain.len();
        self.payloads.push((end - new.value.len(), end));
        let offset = Offset(self.base.0 + self.records.len() as u64);
        let NewRecord { key, timestamp_ms, headers, value: _ } = new;
        self.records.push(Record { offset, key, timestamp_ms, headers, value: Bytes::new() });
    }

    /// Ends it.
    pub fn seal(self, packer: &mut Packer) -> Sealed {
        let Self { base, mut plain, mut records, payloads } = self;
        let len = u32::try_from(plain.len() - HEAD_BYTES).unwrap_or(u32::MAX);
        plain[0] = PLAIN;
        plain[1..HEAD_BYTES].copy_from_slice(&len.to_be_bytes());
        let plain = plain.freeze();
        for (record, (from, to)) in records.iter_mut().zip(payloads) {
            record.value = plain.slice(from..to);
        }
        let num_records = u32::try_from(records.len()).unwrap_or(u32::MAX);
        Sealed { key: key(base, num_records), value: packer.pack(plain), records }
    }
}

/// A batch that was read.
#[derive(Debug)]
pub struct RecordBatch {
    next: u64,
    end: u64,
    rest: Bytes,
    /// A record by itself, as format 1 had them: without its length.
    is_bare: bool,
}

/// An entry that is none of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

impl RecordBatch {
    /// Reads an entry.
    ///
    /// # Errors
    /// [`Damaged`]; records that do not fill it are noticed when they are read.
    pub fn read(key: &[u8], value: Bytes) -> Result<Self, Damaged> {
        let span = span(key).ok_or(Damaged)?;
        let (next, end) = (span.start, span.end);
        if key.len() == 8 {
            return Ok(Self { next, end, rest: value, is_bare: true });
        }
        let (form, len) = value.get(..HEAD_BYTES).and_then(|head| head.split_first()).ok_or(Damaged)?;
        let len = u32::from_be_bytes(len.try_into().map_err(|_| Damaged)?) as usize;
        let body = value.slice(HEAD_BYTES..);
        let rest = match *form {
            PLAIN => body,
            LZ4 if len / LZ4_RATIO_MAX <= body.len() => block::decompress(&body, len).map_err(|_| Damaged)?.into(),
            _ => return Err(Damaged),
        };
        if rest.len() == len { Ok(Self { next, end, rest, is_bare: false }) } else { Err(Damaged) }
    }

    /// Leaves out the records before `from`, without reading them.
    pub fn skip_to(&mut self, from: Offset) -> Result<(), Damaged> {
        while self.next < from.0.min(self.end) {
            self.next_value()?;
        }
        Ok(())
    }

    /// Whether this record is still to come.
    pub fn holds(&self, offset: Offset) -> bool {
        (self.next..self.end).contains(&offset.0)
    }

    /// The next record's value.
    fn next_value(&mut self) -> Result<Bytes, Damaged> {
        self.next += 1;
        if self.is_bare {
            return Ok(std::mem::take(&mut self.rest));
        }
        let len = self.rest.get(..LEN_BYTES).and_then(|len| len.try_into().ok()).ok_or(Damaged)?;
        let len = u32::from_be_bytes(len) as usize;
        if self.rest.len() - LEN_BYTES < len {
            return Err(Damaged);
        }
        let flat = self.rest.slice(LEN_BYTES..LEN_BYTES + len);
        self.rest = self.rest.slice(LEN_BYTES + len..);
        Ok(flat)
    }
}

impl Iterator for RecordBatch {
    type Item = Result<(Record, Running), Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let offset = Offset(self.next);
        Some(self.next_value().and_then(|flat| keys::decode(offset, &flat).ok_or(Damaged)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluse_schema::record::{HeaderName, Headers};

    fn new_record(key: i64, value: Vec<u8>) -> NewRecord {
        let headers = Headers::from_pairs([(HeaderName::EventId, key.to_string().as_str())]);
        NewRecord { key, timestamp_ms: key, headers, value: value.into() }
    }

    fn running(at: u64) -> Running {
        Running { max_timestamp_ms: at as i64, bytes_before: 7 * at }
    }

    fn sealed(base: u64, values: &[Vec<u8>], packer: &mut Packer) -> Sealed {
        let mut open = OpenBatch::new(Offset(base), 100);
        for (at, value) in values.iter().enumerate() {
            open.push(new_record(at as i64, value.clone()), running(at as u64));
        }
        open.seal(packer)
    }

    proptest! {
        /// Alike and unlike contents, so that both forms come up; several batches through one packer.
        #[test]
        fn a_batch_comes_back_as_it_was(
            batches in prop::collection::vec((
                any::<u32>(), any::<bool>(), prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 1..20),
            ), 1..4),
            skipped in 0u64..25,
        ) {
            let mut packer = Packer::default();
            for (base, is_alike, mut values) in batches {
                if is_alike {
                    values.iter_mut().for_each(|value| value.fill(b'x'));
                }
                let (base, num) = (u64::from(base), values.len() as u64);
                let sealed = sealed(base, &values, &mut packer);
                prop_assert_eq!(span(&sealed.key), Some(base..base + num));
                let mut batch = RecordBatch::read(&sealed.key, sealed.value.clone()).unwrap();
                batch.skip_to(Offset(base + skipped)).unwrap();
                let read: Vec<_> = batch.map(Result::unwrap).collect();
                let kept = skipped.min(num) as usize;
                prop_assert_eq!(read.len(), values.len() - kept);
                for (at, ((record, run), value)) in read.into_iter().zip(&values[kept..]).enumerate() {
                    let at = at + kept;
                    prop_assert_eq!(run, running(at as u64));
                    for record in [&record, &sealed.records[at]] {
                        prop_assert_eq!((record.offset.0, record.key), (base + at as u64, at as i64));
                        prop_assert_eq!(&record.value, value);
                        prop_assert_eq!(&record.headers, &new_record(at as i64, Vec::new()).headers);
                    }
                }
            }
        }

        #[test]
        fn bytes_that_are_no_batch_are_refused_not_read(
            key in prop::collection::vec(any::<u8>(), 0..14), mut value in prop::collection::vec(any::<u8>(), 0..200), form in 0u8..3,
        ) {
            if let Some(first) = value.first_mut() {
                *first = form;
            }
            if let Ok(batch) = RecordBatch::read(&key, value.into()) {
                // The count of the key may be anything.
                for record in batch.take(1_000) {
                    if record.is_err() {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_alike_is_compressed_and_what_is_not_is_left() {
        let mut packer = Packer::default();
        let mut state = 1u64;
        let mut noise = || {
            let byte = |_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            };
            (0..2_000).map(byte).collect::<Vec<u8>>()
        };
        let alike = sealed(0, &vec![vec![7; 2_000]; 10], &mut packer);
        let unlike = sealed(0, &(0..10).map(|_| noise()).collect::<Vec<_>>(), &mut packer);
        let small = sealed(0, &[vec![7; 2_000]], &mut packer);
        assert_eq!([alike.value[0], unlike.value[0], small.value[0]], [LZ4, PLAIN, PLAIN]);
        assert!(
            alike.value.len() < 1_000 && unlike.value.len() > 20_000,
            "{} {}",
            alike.value.len(),
            unlike.value.len()
        );
        let huge = sealed(9, &[vec![7; 300_000]], &mut packer);
        assert_eq!(RecordBatch::read(&huge.key, huge.value).unwrap().map(Result::unwrap).count(), 1);
        assert!(matches!(packer.table, CompressTable::Small(_)));
    }

    #[test]
    fn a_batch_is_full_before_the_small_table_is_but_takes_one_record_of_any_size() {
        let mut open = OpenBatch::new(Offset(0), 0);
        assert!(!open.is_full_for(&new_record(1, vec![0; 200_000])));
        while !open.is_full_for(&new_record(1, vec![0; 1_000])) {
            open.push(new_record(1, vec![0; 1_000]), running(0));
        }
        assert!(open.plain.len() < usize::from(u16::MAX) && open.plain.len() > RAW_BYTES_MAX - 2_000);
    }

    #[test]
    fn a_record_by_itself_is_read_as_format_1_wrote_it() {
        let new = new_record(5, b"old".to_vec());
        let mut flat = BytesMut::new();
        keys::encode(&new, running(3), &mut flat);
        let batch = RecordBatch::read(&keys::offset_key(Offset(11)), flat.freeze()).unwrap();
        let read: Vec<_> = batch.map(Result::unwrap).collect();
        assert_eq!((read.len(), read[0].0.offset, read[0].1), (1, Offset(11), running(3)));
        assert_eq!(&read[0].0.value[..], b"old");
    }

    #[test]
    fn what_claims_more_than_it_can_hold_is_given_no_memory() {
        let mut value = vec![LZ4];
        value.extend_from_slice(&u32::MAX.to_be_bytes());
        value.extend_from_slice(&[0; 20]);
        assert_eq!(RecordBatch::read(&key(Offset(0), 1), value.into()).unwrap_err(), Damaged);
    }

    #[test]
    fn keys_sort_like_offsets_also_beside_those_of_single_records() {
        let (a, b) = (key(Offset(1), 200), keys::offset_key(Offset(201)));
        assert!(keys::offset_key(Offset(1)).as_slice() < a.as_slice() && a.as_slice() < b.as_slice());
        assert!(b.as_slice() < key(Offset(201), 1).as_slice());
        assert_eq!((span(b"short"), span(&[0; 11])), (None, None));
    }
}
