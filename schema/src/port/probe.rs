//! Trying a data target out: one real attempt, outside the log, as its owner asks for it.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use crate::delivery::Attempt;
use crate::id::{DecoderId, DeviceId, TargetId};

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub target: TargetId,
    /// For the target's log.
    pub device: Option<DeviceId>,
    pub decoder: Option<DecoderId>,
    /// JSON text that is sent; `None`: only whether the receiver can be connected to.
    pub body: Option<Bytes>,
}

/// Makes attempts under the rules of real deliveries: the target's timeout and credentials, the egress rule.
#[async_trait]
pub trait TargetProbe: Debug + Send + Sync + 'static {
    /// One attempt, noted in the target's log as a delivery's is; `None`: there is no such target.
    ///
    /// # Errors
    /// The database; whatever the receiver does is an [`Attempt`].
    async fn probe(&self, probe: Probe) -> Result<Option<Attempt>, StoreError>;
}
