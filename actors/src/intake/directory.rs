//! The bounded cache of senders: devices by what names them at their source, and, for a short time, who is *not* registered.
//!
//! Change events take entries out; what they miss, the lifetimes of entries bound: a stranger is forgotten after
//! [`STRANGER_LIFETIME`], a device after [`DEVICE_LIFETIME`] and looked up again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use sluse_schema::device::DeviceRef;
use sluse_schema::id::{DeviceId, DeviceKey};
use tokio::time::Instant;

/// How long "not registered" is believed. A device that is registered is heard at once: the change event clears it.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(30);
/// How long a registered device is believed without asking again.
pub const DEVICE_LIFETIME: Duration = Duration::from_secs(600);

/// What the cache knows of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Device(DeviceRef),
    Stranger,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    known: Known,
    learned_at: Instant,
    generation: u64,
}

/// Senders seen lately.
#[derive(Debug)]
pub struct Directory {
    entries: Cache<DeviceKey, Entry>,
    /// Raised when strangers may have become devices: older "not registered" entries no longer count.
    stranger_generation: AtomicU64,
    /// Raised with every change: an answer that was asked for before is used once and not remembered.
    num_changes: AtomicU64,
}

impl Directory {
    /// Room for `num_max` senders.
    pub fn new(num_max: usize) -> Self {
        Self { entries: Cache::new(num_max), stranger_generation: AtomicU64::new(0), num_changes: AtomicU64::new(0) }
    }

    /// Changes so far: read it *before* PostgreSQL is asked and hand it to [`Directory::learn`], so that an answer that a change
    /// overtook is not remembered.
    pub fn num_changes(&self) -> u64 {
        self.num_changes.load(Ordering::Acquire)
    }

    /// What is known of a sender, if it may still be believed.
    pub fn get(&self, sender: &DeviceKey, now: Instant) -> Option<Known> {
        let entry = self.entries.get(sender)?;
        let age = now.duration_since(entry.learned_at);
        let is_believed = match entry.known {
            Known::Stranger => {
                entry.generation == self.stranger_generation.load(Ordering::Acquire) && age < STRANGER_LIFETIME
            }
            Known::Device(_) => age < DEVICE_LIFETIME,
        };
        is_believed.then_some(entry.known)
    }

    /// Remembers what PostgreSQL said.
    pub fn learn(&self, sender: DeviceKey, known: Known, num_changes: u64, now: Instant) {
        if self.num_changes() == num_changes {
            let generation = self.stranger_generation.load(Ordering::Acquire);
            self.entries.insert(sender, Entry { known, learned_at: now, generation });
        }
    }

    /// Devices were registered, changed or deleted.
    pub fn forget_devices(&self, devices: &[DeviceId]) {
        self.stranger_generation.fetch_add(1, Ordering::AcqRel);
        self.entries.retain(|_, entry| match entry.known {
            Known::Device(device) => !devices.contains(&device.device),
            Known::Stranger => true,
        });
        self.num_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes were missed, or too many to name: everything is looked up again.
    pub fn forget_all(&self) {
        self.stranger_generation.fetch_add(1, Ordering::AcqRel);
        self.entries.clear();
        self.num_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Entries in the cache.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluse_schema::id::{DevEui, OrganizationId};

    const KEY: DeviceKey = DeviceKey::DevEui(DevEui(1));

    fn device(id: i64) -> Known {
        Known::Device(DeviceRef { device: DeviceId(id), organization: OrganizationId(1) })
    }

    #[tokio::test]
    async fn a_stranger_is_asked_for_again_once_anything_was_registered() {
        let (directory, now) = (Directory::new(10), Instant::now());
        directory.learn(KEY, Known::Stranger, 0, now);
        assert_eq!(directory.get(&KEY, now), Some(Known::Stranger));
        assert_eq!(directory.get(&KEY, now + STRANGER_LIFETIME), None);
        directory.forget_devices(&[DeviceId(5)]);
        assert_eq!(directory.get(&KEY, now), None);
    }

    #[tokio::test]
    async fn a_changed_device_is_forgotten_and_the_others_stay() {
        let (directory, now) = (Directory::new(10), Instant::now());
        let other = DeviceKey::DevEui(DevEui(2));
        directory.learn(KEY, device(5), 0, now);
        directory.learn(other.clone(), device(6), 0, now);
        directory.forget_devices(&[DeviceId(5)]);
        assert_eq!((directory.get(&KEY, now), directory.get(&other, now)), (None, Some(device(6))));
    }

    #[tokio::test]
    async fn an_answer_that_a_change_overtook_is_not_remembered() {
        let (directory, now) = (Directory::new(10), Instant::now());
        let asked_at = directory.num_changes();
        directory.forget_devices(&[DeviceId(5)]);
        directory.learn(KEY, device(5), asked_at, now);
        assert_eq!(directory.get(&KEY, now), None);
    }
}
