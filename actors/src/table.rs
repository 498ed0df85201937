//! Hash tables with a fixed hash, for keys that we number ourselves (devices, targets, partitions): quicker than the standard hash,
//! and iterated in the same order every time, so that a simulation can be replayed. Not for keys that come from outside, which could
//! be made to collide.

use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// [`std::collections::HashMap`] with a fixed hash. Made by `HashMap::default()`.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, Xxh3DefaultBuilder>;
/// [`std::collections::HashSet`] with a fixed hash. Made by `HashSet::default()`.
pub(crate) type HashSet<K> = std::collections::HashSet<K, Xxh3DefaultBuilder>;
