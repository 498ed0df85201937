//! The lease on what this node owns: until when nobody else can have been given its partitions.
//!
//! Kafka gives a node's partitions away when it has not heard of it for the session timeout. A commit that the group answers proves
//! that the timeout began anew when it was sent, so the lease is renewed up to that moment plus the timeout. A node that was frozen,
//! or cut off, wakes up with its lease run out: it sends nothing until the group has answered again, or has taken its partitions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use metrics::gauge;
use sluse_schema::delivery::{Attempt, DeliveryMeta};
use sluse_schema::port::{SenderError, SenderFactory, TargetSender};
use sluse_schema::target::TargetConfig;
use tokio::sync::watch;

use super::metrics::LEASE_HELD;

/// See the head of this file.
#[derive(Debug)]
pub struct Lease {
    until: Mutex<Option<Instant>>,
    renewed: watch::Sender<()>,
}

impl Default for Lease {
    fn default() -> Self {
        Self { until: Mutex::new(None), renewed: watch::Sender::new(()) }
    }
}

impl Lease {
    /// Whether it is held now.
    pub fn is_held(&self) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// The group has answered what was sent at `sent_at`.
    pub fn renew(&self, sent_at: Instant, lasts: Duration) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(sent_at + lasts));
        drop(until);
        gauge!(LEASE_HELD).set(if self.is_held() { 1.0 } else { 0.0 });
        self.renewed.send_replace(());
    }

    /// The group has taken everything, or may have.
    pub fn end(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        gauge!(LEASE_HELD).set(0.0);
    }

    /// Completes at once while it is held, otherwise when it is held again.
    pub async fn held(&self) {
        let mut renewed = self.renewed.subscribe();
        while !self.is_held() {
            if renewed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Senders that begin an attempt only under the lease. An attempt that waits ends with its target's actor, as any other does.
#[derive(Debug)]
pub struct LeasedSenders {
    inner: Arc<dyn SenderFactory>,
    lease: Arc<Lease>,
}

impl LeasedSenders {
    /// The senders of `inner`, under `lease`.
    pub fn new(inner: Arc<dyn SenderFactory>, lease: Arc<Lease>) -> Arc<Self> {
        Arc::new(Self { inner, lease })
    }
}

impl SenderFactory for LeasedSenders {
    fn make(&self, config: &TargetConfig) -> Result<Arc<dyn TargetSender>, SenderError> {
        let inner = self.inner.make(config)?;
        Ok(Arc::new(LeasedSender { inner, lease: Arc::clone(&self.lease) }))
    }
}

#[derive(Debug)]
struct LeasedSender {
    inner: Arc<dyn TargetSender>,
    lease: Arc<Lease>,
}

#[async_trait]
impl TargetSender for LeasedSender {
    async fn send(&self, meta: &DeliveryMeta, body: Bytes) -> Attempt {
        self.lease.held().await;
        self.inner.send(meta, body).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_is_held_from_its_renewal_until_it_runs_out() {
        let lease = Arc::new(Lease::default());
        assert!(!lease.is_held());
        let waiting = tokio::spawn({
            let lease = Arc::clone(&lease);
            async move { lease.held().await }
        });
        // An answer to what was sent too long ago proves nothing about now.
        lease.renew(Instant::now().checked_sub(Duration::from_secs(20)).unwrap(), Duration::from_secs(9));
        assert!(!lease.is_held());
        lease.renew(Instant::now(), Duration::from_secs(9));
        assert!(lease.is_held());
        waiting.await.unwrap();
        // An older answer takes nothing back, an end does.
        lease.renew(Instant::now().checked_sub(Duration::from_secs(20)).unwrap(), Duration::from_secs(9));
        assert!(lease.is_held());
        lease.end();
        assert!(!lease.is_held());
    }
}
