//! Senders: one attempt to hand one delivery to one receiver. Retry, order and limits are the target's actor's part.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::delivery::{Attempt, DeliveryMeta};
use crate::target::TargetConfig;

/// Why no sender could be made for a target: its configuration is wrong, and says so in its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SenderError(pub String);

/// Sends to one target. Kept as long as the target's configuration stays the same.
#[async_trait]
pub trait TargetSender: Debug + Send + Sync + 'static {
    /// One attempt, within the target's timeout. Every outcome is a value: nothing a receiver does is an error here (I7).
    /// Dropping the future cancels the attempt; the receiver may still have got it.
    async fn send(&self, meta: &DeliveryMeta, body: Bytes) -> Attempt;
}

/// Makes senders.
#[async_trait]
pub trait SenderFactory: Debug + Send + Sync + 'static {
    /// A sender for this configuration. Does not connect yet.
    fn make(&self, config: &TargetConfig) -> Result<Arc<dyn TargetSender>, SenderError>;
}
