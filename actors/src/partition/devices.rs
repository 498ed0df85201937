//! The partition's devices: who is active, who becomes active, who panicked, who was changed, who leaves memory.
//!
//! A device that PostgreSQL, asked after its uplink came, does not know is gone; when PostgreSQL cannot be asked the device starts
//! provisionally if its configuration is cached (its row is merged later), and otherwise the partition waits.

use std::sync::Arc;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, WrapFuture};
use metrics::{counter, gauge};
use sluse_schema::change::{ChangeEvent, ChangedEntity};
use sluse_schema::device::{DeviceConfig, DeviceState};
use sluse_schema::id::DeviceId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{Activation, DeviceStore, Log, LogError, ReadLimit, StoreError};
use sluse_schema::record::{Offset, Topic};
use sluse_schema::uplink::UplinkMeta;
use tokio::time::Instant;
use tracing::{error, warn};

use super::consumer::PartitionConsumer;
use super::message::{Changed, DeviceExited, ReloadAll};
use super::metrics::{ACTIVATIONS, ACTIVE_DEVICES};
use super::take::BACKOFF;
use crate::device::{
    Configure, DeviceActor, DeviceMachine, HandleUplink, MergeState, Mode, Outcome, Passivate, Uplink, outputs,
};
use crate::mailbox::{Mailbox, Refused, offer_to};
use crate::supervise::{Exit, ExitGuard};
use crate::table::HashSet;

/// After this many panics over one uplink it is handed on undecoded instead: one record must not stop its device for ever.
const NUM_PANICS_MAX: u32 = 3;
/// Room in a device's mailbox beside its open uplinks: configuration, merging, storing.
const NUM_CONTROL_MESSAGES_MAX: usize = 16;
/// Pause before a device that could not take its new configuration is asked for again.
const RELOAD_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(20);
/// Records read at once when a panicked device's recent past is looked up.
const NUM_REPLAY_READ_MAX: usize = 2_000;

/// What a partition knows of one of its devices.
#[derive(Debug)]
pub enum Slot {
    /// Its configuration and state are being loaded; its uplinks wait here.
    Loading { queue: Vec<HandleUplink>, panics: Option<Panics> },
    /// Its actor runs.
    Active(ActiveDevice),
}

/// A device's actor and what the partition keeps beside it.
#[derive(Debug)]
pub struct ActiveDevice {
    pub addr: Addr<DeviceActor>,
    pub config: Arc<DeviceConfig>,
    incarnation: u64,
    num_open: u32,
    /// Started without its stored row.
    pub is_provisional: bool,
    /// Deleted by administration; leaves when nothing is open.
    is_gone: bool,
    last_used_at: Instant,
    panics: Option<Panics>,
}

/// How often a device panicked over the same uplink.
#[derive(Clone, Copy, Debug)]
pub struct Panics {
    offset: Offset,
    num: u32,
}

impl PartitionConsumer {
    /// Hands an uplink to its device, or lets it wait for the device's activation.
    pub(super) fn give_to_device(&mut self, uplink: Arc<Uplink>, mode: Mode, ctx: &mut Context<Self>) {
        let device = uplink.meta.device;
        let message = HandleUplink { uplink, mode };
        match self.slots.get_mut(&device) {
            Some(Slot::Active(active)) => {
                active.num_open += 1;
                active.last_used_at = Instant::now();
                match offer_to(&active.addr, message) {
                    // Closed: the actor panicked, and its exit, which is on the way here, finds the uplink in the window.
                    Ok(()) | Err(Refused::Closed(_)) => {}
                    Err(Refused::Full(_)) => {
                        error!(
                            device = device.0,
                            partition = self.partition.0,
                            "a mailbox is fuller than its window allows"
                        );
                        self.give_up(ctx);
                    }
                }
            }
            Some(Slot::Loading { queue, .. }) => queue.push(message),
            None => {
                self.slots.insert(device, Slot::Loading { queue: vec![message], panics: None });
                self.to_activate.push(device);
            }
        }
    }

    /// Keeps the books of a device whose uplink is done.
    pub(super) fn device_finished(&mut self, device: DeviceId, _: Outcome) {
        self.dirty.insert(device);
        if let Some(Slot::Active(active)) = self.slots.get_mut(&device) {
            active.num_open = active.num_open.saturating_sub(1);
            if active.is_gone && active.num_open == 0 {
                self.dismiss(device);
            }
        }
    }

    /// Loads the devices that wait, many by one query.
    pub(super) fn activate_when_due(&mut self, ctx: &mut Context<Self>) {
        if self.is_activating || self.to_activate.is_empty() {
            return;
        }
        self.is_activating = true;
        let num = self.to_activate.len().min(self.config.num_activate_max);
        let devices: Vec<DeviceId> = self.to_activate.drain(..num).collect();
        let store = Arc::clone(&self.ports.store);
        let load = async move {
            let loaded = store.activate(&devices).await;
            (devices, loaded)
        };
        ctx.spawn(load.into_actor(self).map(|(devices, loaded), actor, ctx| {
            actor.is_activating = false;
            match loaded {
                Ok(activations) => actor.activated(devices, activations, ctx),
                Err(error) => actor.activate_without_store(devices, &error, ctx),
            }
            actor.end_replay_when_done(ctx);
            actor.commit_when_due(ctx);
            actor.activate_when_due(ctx);
        }));
    }

    fn activated(&mut self, devices: Vec<DeviceId>, activations: Vec<Activation>, ctx: &mut Context<Self>) {
        let mut gone: HashSet<DeviceId> = devices.into_iter().collect();
        for Activation { config, state } in activations {
            gone.remove(&config.device);
            self.ports.configs.put(&config);
            counter!(ACTIVATIONS, "kind" => "stored").increment(1);
            self.start_device(config, state, false, ctx);
        }
        for device in gone {
            self.ports.configs.remove(device);
            let Some(Slot::Loading { queue, .. }) = self.slots.remove(&device) else { continue };
            for HandleUplink { uplink, .. } in queue {
                self.finish_without_device(uplink.offset, Outcome::DeviceGone);
            }
        }
    }

    /// PostgreSQL is away: who is cached starts provisionally, the others wait, and their partition with them.
    fn activate_without_store(&mut self, devices: Vec<DeviceId>, error: &StoreError, ctx: &mut Context<Self>) {
        warn!(partition = self.partition.0, num_devices = devices.len(), %error, "cannot load devices now");
        let mut num_waiting = 0;
        for device in devices {
            // While replaying, states are being rebuilt from their rows: a device without its row would count twice.
            match self.ports.configs.get(device).filter(|_| !self.is_replaying()) {
                Some(config) => {
                    counter!(ACTIVATIONS, "kind" => "provisional").increment(1);
                    self.start_device(config, None, true, ctx);
                }
                None => {
                    num_waiting += 1;
                    self.to_activate.push(device);
                }
            }
        }
        if num_waiting > 0 {
            self.is_activating = true;
            ctx.run_later(BACKOFF.random_delay(4), |actor, ctx| {
                actor.is_activating = false;
                actor.activate_when_due(ctx);
            });
        }
    }

    fn start_device(
        &mut self,
        config: Arc<DeviceConfig>,
        state: Option<DeviceState>,
        is_provisional: bool,
        ctx: &mut Context<Self>,
    ) {
        let device = config.device;
        let Some(Slot::Loading { queue, panics }) = self.slots.remove(&device) else { return };
        self.num_incarnations += 1;
        let incarnation = self.num_incarnations;
        let exits = Mailbox::of(&ctx.address(), "partition");
        let guard = ExitGuard::new(move |exit| {
            if exit == Exit::Panicked {
                // Full cannot be: this sender sends this one message.
                let _ = exits.offer(DeviceExited { device, incarnation, exit });
            }
        });
        let state = state.unwrap_or_else(|| DeviceState::new(device));
        let machine = DeviceMachine::new(state, Arc::clone(&self.shared.log), self.config.window);
        let done = Mailbox::of(&ctx.address(), "partition");
        // After a panic the queue holds what came since the row was stored, which the window does not bound.
        let num_waiting_max = self.config.limits.num_open_max + queue.len() + NUM_CONTROL_MESSAGES_MAX;
        let shared = Arc::clone(&self.shared);
        let config_of_actor = Arc::clone(&config);
        // The capacity is set here and not in `started`: messages come before the actor runs for the first time.
        let addr = DeviceActor::create(move |ctx| {
            ctx.set_mailbox_capacity(num_waiting_max);
            DeviceActor::new(machine, config_of_actor, shared, done, guard)
        });
        let active = ActiveDevice {
            addr,
            config,
            incarnation,
            num_open: 0,
            is_provisional,
            is_gone: false,
            last_used_at: Instant::now(),
            panics,
        };
        self.slots.insert(device, Slot::Active(active));
        for HandleUplink { uplink, mode } in queue {
            self.give_to_device(uplink, mode, ctx);
        }
    }

    /// A device's actor panicked: its successor starts from the stored row, is given what the log holds since, then what is open.
    fn revive(&mut self, device: DeviceId, ctx: &mut Context<Self>) {
        let mut open = self.window.open_of(device);
        let mode = if self.is_replaying() { Mode::Replay } else { Mode::Live };
        let Some(Slot::Active(dead)) = self.slots.remove(&device) else { return };
        let head = open.first().map(|u| u.offset);
        let mut panics = head.map(|offset| match dead.panics {
            Some(before) if before.offset == offset => Panics { offset, num: before.num + 1 },
            _ => Panics { offset, num: 1 },
        });
        warn!(
            device = device.0,
            partition = self.partition.0,
            ?head,
            num = panics.map(|p| p.num),
            "a device actor panicked"
        );
        if panics.is_some_and(|p| p.num >= NUM_PANICS_MAX) && !open.is_empty() {
            let poison = open.remove(0);
            self.hand_on_undecoded(&poison, &dead.config);
            panics = None;
        }
        let until = open.first().map_or(self.window.next(), |u| u.offset);
        let queue = open.into_iter().map(|uplink| HandleUplink { uplink, mode }).collect();
        self.slots.insert(device, Slot::Loading { queue, panics });
        // Its row is behind: the state position waits until it is stored again.
        self.dirty.insert(device);
        let (log, store) = (Arc::clone(&self.ports.log), Arc::clone(&self.ports.store));
        let (partition, from) = (self.partition, self.state_position);
        let load = async move { load_with_past(log.as_ref(), store.as_ref(), partition, device, from, until).await };
        ctx.spawn(load.into_actor(self).map(move |(activation, past), actor, ctx| {
            actor.prepend_past(device, past);
            let found = activation.into_iter().collect();
            actor.activated(vec![device], found, ctx);
            counter!(ACTIVATIONS, "kind" => "after_panic").increment(1);
            actor.commit_when_due(ctx);
        }));
    }

    fn prepend_past(&mut self, device: DeviceId, past: Vec<Arc<Uplink>>) {
        if let Some(Slot::Loading { queue, .. }) = self.slots.get_mut(&device) {
            let replayed = past.into_iter().map(|uplink| HandleUplink { uplink, mode: Mode::Replay });
            queue.splice(0..0, replayed);
        }
    }

    /// An uplink that its device's actor cannot survive becomes an undecoded delivery for each target (I4, I7).
    fn hand_on_undecoded(&mut self, uplink: &Uplink, config: &DeviceConfig) {
        error!(
            device = config.device.0,
            offset = uplink.offset.0,
            "an uplink panics its device again and again, handing it on undecoded"
        );
        let event_key = uplink.meta.event_key(&self.shared.log, self.partition.0, uplink.offset);
        let outputs = outputs::undecoded(
            config,
            uplink,
            event_key,
            "an internal error stopped the device while it handled this uplink",
            self.shared.num_partitions,
        );
        self.window.finish(uplink.offset, Outcome::Routed, outputs);
    }

    /// Finds out which active devices changes concern.
    fn concerned(&self, changes: &[ChangeEvent]) -> HashSet<DeviceId> {
        let is_all =
            changes.iter().any(|c| matches!(c.entity, ChangedEntity::DeviceModel | ChangedEntity::Organization));
        let of =
            |entity| -> HashSet<i64> { changes.iter().filter(|c| c.entity == entity).map(|c| c.entity_id).collect() };
        let (devices, decoders) = (of(ChangedEntity::Device), of(ChangedEntity::Decoder));
        let (targets, applications) = (of(ChangedEntity::Target), of(ChangedEntity::Application));
        let concerns = |config: &DeviceConfig| {
            is_all
                || devices.contains(&config.device.0)
                || applications.contains(&config.application.0)
                || config.routes.iter().any(|route| {
                    targets.contains(&route.target.0)
                        || route.decoder.as_ref().is_some_and(|d| decoders.contains(&d.id.0))
                })
        };
        let is_small = decoders.is_empty() && targets.is_empty() && applications.is_empty() && !is_all;
        if is_small {
            return devices.into_iter().map(DeviceId).filter(|d| self.slots.contains_key(d)).collect();
        }
        let active = self.slots.iter().filter_map(|(device, slot)| match slot {
            Slot::Active(active) => concerns(&active.config).then_some(*device),
            // Its configuration is on the way and may be the old one.
            Slot::Loading { .. } => Some(*device),
        });
        active.collect()
    }

    fn reload_when_due(&mut self, ctx: &mut Context<Self>) {
        if self.is_reloading || self.stale.is_empty() {
            return;
        }
        self.is_reloading = true;
        let devices: Vec<DeviceId> = self.stale.iter().copied().take(self.config.num_activate_max).collect();
        for device in &devices {
            self.stale.remove(device);
        }
        let store = Arc::clone(&self.ports.store);
        let load = async move {
            let loaded = store.load_configs(&devices).await;
            if loaded.is_err() {
                tokio::time::sleep(BACKOFF.random_delay(4)).await;
            }
            (devices, loaded)
        };
        ctx.spawn(load.into_actor(self).map(|(devices, loaded), actor, ctx| {
            actor.is_reloading = false;
            let is_settled = match loaded {
                Ok(configs) => actor.reconfigure(devices, configs),
                Err(error) => {
                    warn!(partition = actor.partition.0, %error, "cannot reload devices yet");
                    actor.stale.extend(devices);
                    true
                }
            };
            if is_settled {
                actor.reload_when_due(ctx);
            } else {
                // Asked again at once, a device that is still loading would be asked for without end.
                ctx.run_later(RELOAD_AGAIN_AFTER, Self::reload_when_due);
            }
        }));
    }

    /// Hands new configurations on; `false` when some device could not take its own yet and stays stale.
    fn reconfigure(&mut self, devices: Vec<DeviceId>, configs: Vec<Arc<DeviceConfig>>) -> bool {
        let mut is_settled = true;
        let mut gone: HashSet<DeviceId> = devices.into_iter().collect();
        for config in configs {
            gone.remove(&config.device);
            self.ports.configs.put(&config);
            match self.slots.get_mut(&config.device) {
                Some(Slot::Active(active)) => {
                    active.config = Arc::clone(&config);
                    if let Err(Refused::Full(_)) = offer_to(&active.addr, Configure(Arc::clone(&config))) {
                        self.stale.insert(config.device);
                        is_settled = false;
                    }
                }
                // Still loading: ask again once it runs.
                Some(Slot::Loading { .. }) => {
                    self.stale.insert(config.device);
                    is_settled = false;
                }
                None => {}
            }
        }
        for device in gone {
            self.ports.configs.remove(device);
            if let Some(Slot::Active(active)) = self.slots.get_mut(&device) {
                active.is_gone = true;
                if active.num_open == 0 {
                    self.dismiss(device);
                }
            }
        }
        is_settled
    }

    fn dismiss(&mut self, device: DeviceId) {
        if let Some(Slot::Active(active)) = self.slots.remove(&device) {
            let _ = offer_to(&active.addr, Passivate);
        }
        self.dirty.remove(&device);
    }

    /// Loads the rows of provisional devices, and lets silent ones leave.
    pub(super) fn tidy(&mut self, ctx: &mut Context<Self>) {
        gauge!(ACTIVE_DEVICES, "partition" => self.partition_label.clone()).set(self.slots.len() as f64);
        self.merge_provisional(ctx);
        self.passivate_silent();
        self.activate_when_due(ctx);
        self.reload_when_due(ctx);
    }

    fn merge_provisional(&mut self, ctx: &mut Context<Self>) {
        let provisional = self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Active(a) if a.is_provisional));
        let devices: Vec<DeviceId> = provisional.map(|(d, _)| *d).take(self.config.num_activate_max).collect();
        if devices.is_empty() {
            return;
        }
        let store = Arc::clone(&self.ports.store);
        let load = async move { store.activate(&devices).await };
        ctx.spawn(load.into_actor(self).map(|loaded, actor, _| {
            let Ok(activations) = loaded else { return };
            for Activation { config, state } in activations {
                let Some(Slot::Active(active)) = actor.slots.get_mut(&config.device) else { continue };
                if !std::mem::take(&mut active.is_provisional) {
                    continue;
                }
                let _ = offer_to(&active.addr, Configure(Arc::clone(&config)));
                active.config = config;
                if let Some(state) = state {
                    let _ = offer_to(&active.addr, MergeState(Box::new(state)));
                }
            }
        }));
    }

    /// Only devices with nothing open and everything stored may leave.
    fn passivate_silent(&mut self) {
        if self.is_flushing || self.draining.is_some() {
            return;
        }
        let now = Instant::now();
        let mut may_leave: Vec<(Instant, DeviceId)> = Vec::new();
        for (device, slot) in &self.slots {
            if let Slot::Active(active) = slot
                && active.num_open == 0
                && !active.is_provisional
                && !self.dirty.contains(device)
            {
                may_leave.push((active.last_used_at, *device));
            }
        }
        may_leave.sort_unstable();
        let num_over = self.slots.len().saturating_sub(self.config.num_active_max);
        for (i, (last_used_at, device)) in may_leave.into_iter().enumerate() {
            if i < num_over || now.duration_since(last_used_at) >= self.config.passivate_after {
                self.dismiss(device);
            }
        }
    }
}

impl Handler<DeviceExited> for PartitionConsumer {
    type Result = ();

    fn handle(&mut self, exited: DeviceExited, ctx: &mut Self::Context) {
        let is_current = match self.slots.get(&exited.device) {
            Some(Slot::Active(active)) => active.incarnation == exited.incarnation,
            _ => false,
        };
        if is_current {
            self.revive(exited.device, ctx);
        }
    }
}

impl Handler<Changed> for PartitionConsumer {
    type Result = ();

    fn handle(&mut self, Changed(changes): Changed, ctx: &mut Self::Context) {
        let concerned = self.concerned(&changes);
        self.stale.extend(concerned);
        self.reload_when_due(ctx);
    }
}

impl Handler<ReloadAll> for PartitionConsumer {
    type Result = ();

    fn handle(&mut self, _: ReloadAll, ctx: &mut Self::Context) {
        self.stale.extend(self.slots.keys().copied());
        self.reload_when_due(ctx);
    }
}

/// The device's row, and its uplinks of `[from, until)` that the row may not hold; tried until both are there.
async fn load_with_past(
    log: &dyn Log,
    store: &dyn DeviceStore,
    partition: PartitionId,
    device: DeviceId,
    from: Offset,
    until: Offset,
) -> (Option<Activation>, Vec<Arc<Uplink>>) {
    let mut num_failures = 0;
    loop {
        let error = match store.activate(&[device]).await {
            Ok(mut found) => match read_past(log, partition, device, from, until).await {
                Ok(past) => return (found.pop(), past),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        num_failures += 1;
        warn!(device = device.0, error, "cannot bring a device back yet");
        tokio::time::sleep(BACKOFF.random_delay(num_failures)).await;
    }
}

async fn read_past(
    log: &dyn Log,
    partition: PartitionId,
    device: DeviceId,
    from: Offset,
    until: Offset,
) -> Result<Vec<Arc<Uplink>>, LogError> {
    let limit = ReadLimit { num_records_max: NUM_REPLAY_READ_MAX, num_bytes_max: 8 << 20 };
    let (mut at, mut past) = (from, Vec::new());
    while at < until {
        let batch = log.read(Topic::Uplinks, partition, at, limit).await?;
        if batch.next <= at {
            break;
        }
        at = batch.next;
        for record in batch.records.into_iter().filter(|r| r.key == device.0 && r.offset < until) {
            if let Ok(meta) = UplinkMeta::of_record(&record) {
                past.push(Arc::new(Uplink { offset: record.offset, meta, value: record.value }));
            }
        }
    }
    Ok(past)
}
