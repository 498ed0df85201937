//! Which partition a key belongs to. Our own stable hash over a count that never changes: a device or target keeps its
//! partition for ever, so its order (I2), its cursor and its rate limit need no lock.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::id::{DeviceId, TargetId};

/// One partition of a topic, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn partition_of(kind: u8, id: i64, num_partitions: u32) -> PartitionId {
    assert!(num_partitions > 0, "a topic has at least one partition");
    let mut bytes = [0u8; 9];
    bytes[0] = kind;
    bytes[1..].copy_from_slice(&id.to_be_bytes());
    PartitionId((xxh3_64(&bytes) % u64::from(num_partitions)) as u32)
}

/// The partition of the uplinks topic that holds everything from `device`.
pub fn partition_of_device(device: DeviceId, num_partitions: u32) -> PartitionId {
    partition_of(b'd', device.0, num_partitions)
}

/// The partition of the deliveries topic that holds everything for `target`.
pub fn partition_of_target(target: TargetId, num_partitions: u32) -> PartitionId {
    partition_of(b't', target.0, num_partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of this hash would move devices between partitions of a log that already holds records.
    #[test]
    fn partitions_are_pinned() {
        let devices: Vec<u32> = (1..=8).map(|i| partition_of_device(DeviceId(i), 8).0).collect();
        let targets: Vec<u32> = (1..=8).map(|i| partition_of_target(TargetId(i), 8).0).collect();
        assert_eq!((devices, targets), (PINNED_DEVICES.to_vec(), PINNED_TARGETS.to_vec()));
    }

    const PINNED_DEVICES: [u32; 8] = [2, 2, 0, 7, 4, 3, 1, 0];
    const PINNED_TARGETS: [u32; 8] = [5, 3, 4, 0, 2, 2, 1, 6];
}
