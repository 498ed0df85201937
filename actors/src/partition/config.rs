//! Limits and intervals of the device stage, and the ports it works on.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use sluse_schema::device::DeviceConfig;
use sluse_schema::id::DeviceId;
use sluse_schema::port::{Decoder, DeviceStore, Log};

use super::offsets::WindowLimits;
use crate::device::WindowPolicy;
use crate::tail::TailHub;

/// Settings of the device stage; defaults are the design's.
#[derive(Clone, Copy, Debug)]
pub struct DeviceStageConfig {
    pub limits: WindowLimits,
    /// A step is committed at least this often while there is something to commit.
    pub step_interval: Duration,
    /// While uplinks come in, all partitions read them this often, at the same moments. A partition that was idle does not wait for one,
    /// and a partition that is behind does not either.
    pub read_interval: Duration,
    /// What the moments are counted from; without it, the stage's start.
    pub moments_from: Option<std::time::Instant>,
    /// Changed devices are stored this often …
    pub flush_interval: Duration,
    /// … or, while more than `num_flush_soon_max` of them wait, only this often: devices that go on transmitting then cost one row
    /// for several uplinks, which is most of what they cost PostgreSQL.
    pub flush_interval_max: Duration,
    pub num_flush_soon_max: usize,
    /// Unless this many wait: each holds its latest payload, and among so many hardly one transmits twice in that time.
    pub num_flush_waiting_max: usize,
    /// Rows in one transaction.
    pub num_flush_rows_max: usize,
    /// A device that was silent for this long leaves memory.
    pub passivate_after: Duration,
    /// Active devices of one partition; beyond it the longest silent leave first.
    pub num_active_max: usize,
    /// Devices loaded by one query.
    pub num_activate_max: usize,
    pub window: WindowPolicy,
    /// How long what is open may take when a partition is revoked; with what the targets take, below the log's own deadline.
    pub revoke_within: Duration,
}

impl Default for DeviceStageConfig {
    fn default() -> Self {
        Self {
            limits: WindowLimits {
                num_open_max: 1_024,
                num_bytes_max: 8 << 20,
                num_step_max: 1_000,
                num_step_bytes_max: 8 << 20,
            },
            step_interval: Duration::from_millis(40),
            read_interval: Duration::from_millis(40),
            moments_from: None,
            flush_interval: Duration::from_secs(1),
            flush_interval_max: Duration::from_secs(10),
            num_flush_soon_max: 64,
            num_flush_waiting_max: 1_500,
            num_flush_rows_max: 200,
            passivate_after: Duration::from_secs(900),
            num_active_max: 50_000,
            num_activate_max: 1_000,
            window: WindowPolicy::Last(20),
            revoke_within: Duration::from_secs(6),
        }
    }
}

/// What the device stage works on.
#[derive(Clone, Debug)]
pub struct DevicePorts {
    pub log: Arc<dyn Log>,
    pub store: Arc<dyn DeviceStore>,
    pub decoder: Arc<dyn Decoder>,
    pub tail: Arc<TailHub>,
    /// Configurations seen lately, for devices that become active while PostgreSQL is away.
    pub configs: Arc<ConfigCache>,
}

/// A bounded cache of device configurations.
#[derive(Debug)]
pub struct ConfigCache(Cache<DeviceId, Arc<DeviceConfig>>);

impl ConfigCache {
    /// Room for `num_max` configurations.
    pub fn new(num_max: usize) -> Self {
        Self(Cache::new(num_max))
    }

    /// The configuration seen last.
    pub fn get(&self, device: DeviceId) -> Option<Arc<DeviceConfig>> {
        self.0.get(&device)
    }

    /// Remembers a configuration.
    pub fn put(&self, config: &Arc<DeviceConfig>) {
        self.0.insert(config.device, Arc::clone(config));
    }

    /// Forgets a device that is gone.
    pub fn remove(&self, device: DeviceId) {
        self.0.remove(&device);
    }
}
