//! The index of deliveries by target: for each target, short lists of the offsets that are its own.
//!
//! One entry holds what one group commit brought for one target. Its key is `partition (u32), target (i64, sign flipped), first
//! offset (u64)`; its value `ordinal of the first (u64), last offset (u64), differences between neighbours (LEB128)`. The ordinal
//! counts a target's deliveries along the partition, so that a backlog is exact from two entries, however much lies between.

use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::Offset;

/// Longest list in one entry: bounds what one look-up decodes.
pub const NUM_OFFSETS_MAX: usize = 4_096;

/// The key of an entry.
pub fn key(partition: PartitionId, target: TargetId, first: Offset) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&partition.0.to_be_bytes());
    key[4..12].copy_from_slice(&(target.0 as u64 ^ (1 << 63)).to_be_bytes());
    key[12..].copy_from_slice(&first.0.to_be_bytes());
    key
}

/// What a key names; `None` when it is not one.
pub fn parse_key(key: &[u8]) -> Option<(PartitionId, TargetId, Offset)> {
    let (partition, rest) = key.split_at_checked(4)?;
    let (target, first) = rest.split_at_checked(8)?;
    let target = u64::from_be_bytes(target.try_into().ok()?) ^ (1 << 63);
    Some((
        PartitionId(u32::from_be_bytes(partition.try_into().ok()?)),
        TargetId(target as i64),
        Offset(u64::from_be_bytes(first.try_into().ok()?)),
    ))
}

/// One entry, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postings {
    /// How many of this target's deliveries stand before the first one here.
    pub ordinal: u64,
    /// Rising; never empty.
    pub offsets: Vec<u64>,
}

impl Postings {
    /// The value of an entry over these offsets, which rise and are not empty.
    pub fn encode(ordinal: u64, offsets: &[u64]) -> Vec<u8> {
        let last = offsets.last().copied().unwrap_or_default();
        let mut value = Vec::with_capacity(16 + offsets.len());
        value.extend_from_slice(&ordinal.to_be_bytes());
        value.extend_from_slice(&last.to_be_bytes());
        for pair in offsets.windows(2) {
            let mut difference = pair[1] - pair[0];
            while difference >= 0x80 {
                value.push(difference as u8 | 0x80);
                difference >>= 7;
            }
            value.push(difference as u8);
        }
        value
    }

    /// Reads an entry whose key names `first`; `None` when it is not one.
    pub fn decode(first: Offset, value: &[u8]) -> Option<Self> {
        let (ordinal, rest) = value.split_at_checked(8)?;
        let (last, differences) = rest.split_at_checked(8)?;
        let mut offsets = vec![first.0];
        let (mut at, mut difference, mut shift) = (first.0, 0u64, 0u32);
        for byte in differences {
            difference |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                at = at.checked_add(difference)?;
                offsets.push(at);
                (difference, shift) = (0, 0);
            }
        }
        let is_whole = shift == 0 && at == u64::from_be_bytes(last.try_into().ok()?);
        is_whole.then_some(Self { ordinal: u64::from_be_bytes(ordinal.try_into().ok()?), offsets })
    }

    /// The last offset of an entry, without reading its list.
    pub fn last_of(value: &[u8]) -> Option<Offset> {
        Some(Offset(u64::from_be_bytes(value.get(8..16)?.try_into().ok()?)))
    }

    /// The ordinal that comes after this entry.
    pub fn next_ordinal(&self) -> u64 {
        self.ordinal + self.offsets.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn postings_come_back_as_they_were(first: u32, steps in proptest::collection::vec(1u64..1 << 40, 0..50), ordinal: u64) {
            let mut offsets = vec![u64::from(first)];
            for step in steps {
                offsets.push(offsets.last().unwrap() + step);
            }
            let value = Postings::encode(ordinal, &offsets);
            prop_assert_eq!(Postings::last_of(&value), Some(Offset(*offsets.last().unwrap())));
            let back = Postings::decode(Offset(u64::from(first)), &value);
            prop_assert_eq!(back, Some(Postings { ordinal, offsets }));
        }

        #[test]
        fn bytes_that_are_no_postings_are_refused_not_read(bytes in proptest::collection::vec(any::<u8>(), 0..60), first: u64) {
            if let Some(postings) = Postings::decode(Offset(first), &bytes) {
                prop_assert_eq!(postings.offsets[0], first);
            }
        }
    }

    #[test]
    fn keys_sort_by_partition_target_and_offset() {
        let k = |p, t, o| key(PartitionId(p), TargetId(t), Offset(o));
        assert!([k(0, -5, 9), k(0, -1, 0), k(0, 0, 7), k(0, 3, 1), k(0, 3, 256), k(1, -9, 0)].is_sorted());
        assert_eq!(parse_key(&k(7, -3, 99)), Some((PartitionId(7), TargetId(-3), Offset(99))));
        assert_eq!(parse_key(b"short"), None);
    }
}
