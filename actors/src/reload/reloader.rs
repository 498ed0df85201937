//! The reloader: it waits for a signal (NOTIFY) or a minute, reads the change events it has not handed on, and tells every
//! subscriber. It takes no input and is idempotent, so a lost signal costs a minute and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;
use sluse_schema::change::{ChangeEvent, ChangedEntity};
use sluse_schema::id::{DecoderId, DeviceId};
use sluse_schema::port::{ChangeFeed, Decoder, StoreError};
use tracing::{info, warn};

use super::feed::FeedPosition;
use crate::intake::Directory;
use crate::supervise::Backoff;

/// A full scan at least this often.
const SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// After a read the next signal waits this long: a change takes effect within a second all the same.
const SIGNAL_PAUSE: Duration = Duration::from_millis(100);
/// Changes read at once; more in one read is a full reload.
const NUM_CHANGES_MAX: usize = 50_000;
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(10) };
/// Change events handed on.
pub const CHANGES: &str = "sluse_reload_changes_total";
/// Times everything had to be reloaded because changes were missed.
pub const FULL_RELOADS: &str = "sluse_reload_full_total";

/// Registers help texts and units.
pub fn describe() {
    metrics::describe_counter!(CHANGES, metrics::Unit::Count, "Administrative changes handed to running actors");
    metrics::describe_counter!(
        FULL_RELOADS,
        metrics::Unit::Count,
        "Times everything was reloaded since changes were missed"
    );
}

/// Who wants to know of changes. Both calls must be quick: they put messages into mailboxes.
#[async_trait]
pub trait Subscriber: std::fmt::Debug + Send + Sync {
    /// These changed.
    async fn changed(&self, changes: Arc<[ChangeEvent]>);
    /// Anything may have changed.
    async fn reload_all(&self);
}

#[async_trait]
impl Subscriber for crate::partition::DeviceStage {
    async fn changed(&self, changes: Arc<[ChangeEvent]>) {
        Self::changed(self, changes).await;
    }

    async fn reload_all(&self) {
        Self::reload_all(self).await;
    }
}

#[async_trait]
impl Subscriber for crate::target::TargetStageHandle {
    async fn changed(&self, changes: Arc<[ChangeEvent]>) {
        Self::changed(self, &changes).await;
    }

    async fn reload_all(&self) {
        self.full_scan().await;
    }
}

#[async_trait]
impl Subscriber for Directory {
    async fn changed(&self, changes: Arc<[ChangeEvent]>) {
        let is_wide =
            changes.iter().any(|c| matches!(c.entity, ChangedEntity::Application | ChangedEntity::Organization));
        if is_wide {
            return self.forget_all();
        }
        let devices = changes.iter().filter(|c| c.entity == ChangedEntity::Device).map(|c| DeviceId(c.entity_id));
        let devices: Vec<DeviceId> = devices.collect::<BTreeSet<_>>().into_iter().collect();
        if !devices.is_empty() {
            self.forget_devices(&devices);
        }
    }

    async fn reload_all(&self) {
        self.forget_all();
    }
}

/// Lets the decoder forget what was edited or deleted.
#[derive(Debug)]
pub struct DecoderSubscriber(pub Arc<dyn Decoder>);

#[async_trait]
impl Subscriber for DecoderSubscriber {
    async fn changed(&self, changes: Arc<[ChangeEvent]>) {
        for change in changes.iter().filter(|c| c.entity == ChangedEntity::Decoder) {
            self.0.forget(DecoderId(change.entity_id));
        }
    }

    // A decoder's version is part of every job: an old one is never run for a new script, only kept in memory longer.
    async fn reload_all(&self) {}
}

/// Reads the change feed and tells subscribers, in their order: the cheap caches first, then the stages.
#[derive(Debug)]
pub struct Reloader {
    feed: Arc<dyn ChangeFeed>,
    subscribers: Vec<Arc<dyn Subscriber>>,
    position: FeedPosition,
}

impl Reloader {
    /// A reloader that begins at the newest change. Make it before the actors that it tells: nothing is missed in between.
    ///
    /// # Errors
    /// When the feed cannot be read.
    pub async fn new(feed: Arc<dyn ChangeFeed>) -> Result<Self, StoreError> {
        let newest = feed.newest_change().await?;
        Ok(Self { feed, subscribers: Vec::new(), position: FeedPosition::new(newest) })
    }

    /// Adds somebody to be told.
    #[must_use]
    pub fn with(mut self, subscriber: Arc<dyn Subscriber>) -> Self {
        self.subscribers.push(subscriber);
        self
    }

    /// Runs for as long as it is polled.
    pub async fn run(mut self) {
        let mut num_failures = 0;
        let mut next_scan = tokio::time::Instant::now() + SCAN_INTERVAL;
        loop {
            let is_scan = tokio::select! {
                () = self.feed.wait_for_change() => false,
                () = tokio::time::sleep_until(next_scan) => true,
            };
            match self.read(is_scan).await {
                Ok(()) => {
                    num_failures = 0;
                    if is_scan {
                        self.position.scanned();
                        next_scan = tokio::time::Instant::now() + SCAN_INTERVAL;
                    }
                    // Signals of one burst become one read.
                    tokio::time::sleep(SIGNAL_PAUSE).await;
                }
                Err(error) => {
                    num_failures += 1;
                    let wait = BACKOFF.random_delay(num_failures);
                    warn!(%error, wait_ms = wait.as_millis() as u64, "cannot read administrative changes yet");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn read(&mut self, is_scan: bool) -> Result<(), StoreError> {
        let after = if is_scan { self.position.after_for_scan() } else { self.position.after_for_signal() };
        match self.feed.changes_since(after, NUM_CHANGES_MAX).await? {
            Some(events) if events.len() < NUM_CHANGES_MAX => {
                let fresh = self.position.take_new(events);
                if !fresh.is_empty() {
                    counter!(CHANGES).increment(fresh.len() as u64);
                    let changes: Arc<[ChangeEvent]> = fresh.into();
                    for subscriber in &self.subscribers {
                        subscriber.changed(Arc::clone(&changes)).await;
                    }
                }
            }
            // Too many or too old to name each: one full reload costs less.
            _ => {
                let newest = self.feed.newest_change().await?;
                info!(newest, "changes were missed, reloading everything");
                counter!(FULL_RELOADS).increment(1);
                for subscriber in &self.subscribers {
                    subscriber.reload_all().await;
                }
                self.position = FeedPosition::new(newest);
            }
        }
        Ok(())
    }
}
