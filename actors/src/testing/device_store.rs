//! Devices and their state in memory, with the fences of the real store (I8).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::table::HashMap;
use async_trait::async_trait;
use sluse_schema::device::{DecoderScript, DeviceConfig, DeviceRef, DeviceState, Route};
use sluse_schema::id::{ApplicationId, DecoderId, DevEui, DeviceId, DeviceKey, OrganizationId, TargetId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Activation, DecodeFailure, DeviceDirectory, DeviceStore, StateBatch, StoreError};
use sluse_schema::record::Position;

#[derive(Debug, Default)]
struct Inner {
    configs: BTreeMap<DeviceId, Arc<DeviceConfig>>,
    states: BTreeMap<DeviceId, DeviceState>,
    partitions: HashMap<PartitionId, (i64, Option<Position>)>,
    failures: Vec<DecodeFailure>,
}

/// A store that tests look into and switch off.
#[derive(Debug, Default)]
pub struct MemoryDeviceStore {
    inner: Mutex<Inner>,
    is_unavailable: AtomicBool,
    num_activations: AtomicU64,
    num_lookups: AtomicU64,
}

impl MemoryDeviceStore {
    /// Devices `1..=num_devices`, each connected with the targets given, through the decoder given.
    pub fn with_devices(num_devices: i64, routes: &[(i64, Option<i64>)]) -> Arc<Self> {
        let store = Self::default();
        for device in 1..=num_devices {
            store.put_device(DeviceId(device), routes);
        }
        Arc::new(store)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.is_unavailable.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("switched off by the test".into()));
        }
        Ok(())
    }

    /// Registers or changes a device.
    pub fn put_device(&self, device: DeviceId, routes: &[(i64, Option<i64>)]) {
        let script = |id| Arc::new(DecoderScript::new(DecoderId(id), "function decode(p) { return p }", None));
        let routes =
            routes.iter().map(|(target, decoder)| Route { target: TargetId(*target), decoder: decoder.map(script) });
        let config = DeviceConfig {
            device,
            application: ApplicationId(1),
            organization: OrganizationId(1),
            name: format!("device {device}"),
            metadata: device.to_string().into(),
            routes: routes.collect(),
        };
        self.inner().configs.insert(device, Arc::new(config));
    }

    /// Deletes a device.
    pub fn remove_device(&self, device: DeviceId) {
        let mut inner = self.inner();
        inner.configs.remove(&device);
        inner.states.remove(&device);
    }

    /// PostgreSQL goes away or comes back.
    pub fn set_unavailable(&self, is_unavailable: bool) {
        self.is_unavailable.store(is_unavailable, Ordering::Relaxed);
    }

    /// Somebody else takes a partition.
    pub fn raise_epoch(&self, partition: PartitionId) {
        self.inner().partitions.entry(partition).or_default().0 += 1;
    }

    /// The epoch of a partition.
    pub fn epoch(&self, partition: PartitionId) -> i64 {
        self.inner().partitions.get(&partition).map_or(0, |p| p.0)
    }

    /// The stored row of a device.
    pub fn state(&self, device: DeviceId) -> Option<DeviceState> {
        self.inner().states.get(&device).cloned()
    }

    /// The stored state position of a partition.
    pub fn state_position(&self, partition: PartitionId) -> Option<Position> {
        self.inner().partitions.get(&partition).and_then(|p| p.1.clone())
    }

    /// Failed decodes that were listed.
    pub fn failures(&self) -> Vec<DecodeFailure> {
        self.inner().failures.clone()
    }

    /// Calls of `activate` so far.
    pub fn num_activations(&self) -> u64 {
        self.num_activations.load(Ordering::Relaxed)
    }

    /// Calls of `find_devices` so far.
    pub fn num_lookups(&self) -> u64 {
        self.num_lookups.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl DeviceDirectory for MemoryDeviceStore {
    /// A devEUI is its device's id here.
    async fn find_devices(&self, keys: &[DeviceKey]) -> Result<Vec<Option<DeviceRef>>, StoreError> {
        tokio::task::yield_now().await;
        self.num_lookups.fetch_add(1, Ordering::Relaxed);
        self.check()?;
        let inner = self.inner();
        let find = |key: &DeviceKey| match key {
            DeviceKey::DevEui(DevEui(eui)) => {
                let config = inner.configs.get(&DeviceId(i64::try_from(*eui).ok()?))?;
                Some(DeviceRef { device: config.device, organization: config.organization })
            }
            DeviceKey::ApiKey(_) => None,
        };
        Ok(keys.iter().map(find).collect())
    }
}

#[async_trait]
impl DeviceStore for MemoryDeviceStore {
    async fn activate(&self, devices: &[DeviceId]) -> Result<Vec<Activation>, StoreError> {
        tokio::task::yield_now().await;
        self.num_activations.fetch_add(1, Ordering::Relaxed);
        self.check()?;
        let inner = self.inner();
        let activate = |device: &DeviceId| {
            let config = Arc::clone(inner.configs.get(device)?);
            let mut state = inner.states.get(device).cloned();
            if let Some(latest) = state.as_mut().and_then(|s| s.latest.as_mut()) {
                latest.payload = None;
            }
            Some(Activation { config, state })
        };
        Ok(devices.iter().filter_map(activate).collect())
    }

    async fn load_configs(&self, devices: &[DeviceId]) -> Result<Vec<Arc<DeviceConfig>>, StoreError> {
        tokio::task::yield_now().await;
        self.check()?;
        let inner = self.inner();
        Ok(devices.iter().filter_map(|d| inner.configs.get(d).cloned()).collect())
    }

    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError> {
        tokio::task::yield_now().await;
        self.check()?;
        let mut inner = self.inner();
        let (epoch, position) = inner.partitions.entry(partition).or_default();
        *epoch += 1;
        Ok((*epoch, position.clone()))
    }

    async fn store_states(&self, batch: &StateBatch) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.check()?;
        let mut inner = self.inner();
        let (current, position) = inner.partitions.entry(batch.partition).or_default();
        if *current != batch.epoch {
            return Err(StoreError::Fenced { partition: batch.partition.0, current: *current, ours: batch.epoch });
        }
        *position = Some(batch.position.clone());
        for state in &batch.states {
            if !inner.configs.contains_key(&state.device) {
                continue;
            }
            let stored = inner.states.get(&state.device);
            let applied = |s: &DeviceState| s.applied.as_ref().map_or(0, |a| a.1);
            if stored.is_some_and(|s| applied(s) > applied(state)) {
                continue;
            }
            let mut state = state.clone();
            let kept = stored.and_then(|s| s.latest.as_ref()).and_then(|l| l.payload.clone());
            if let Some(latest) = &mut state.latest {
                latest.payload = latest.payload.take().or(kept);
            }
            inner.states.insert(state.device, state);
        }
        Ok(())
    }

    async fn record_decode_failures(&self, failures: &[DecodeFailure]) -> Result<(), StoreError> {
        self.check()?;
        self.inner().failures.extend_from_slice(failures);
        Ok(())
    }
}
