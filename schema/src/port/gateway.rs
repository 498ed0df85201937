//! Gateways' connection states, and senders that were heard but are not registered.

use std::fmt::Debug;

use async_trait::async_trait;

use super::StoreError;
use crate::id::GatewayId;
use crate::uplink::SourceKind;

/// A gateway's `state/conn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayState {
    pub gateway: GatewayId,
    pub is_online: bool,
    /// When we heard it, Unix milliseconds.
    pub heard_at_ms: i64,
}

/// Keeps gateways' states.
#[async_trait]
pub trait GatewayStore: Debug + Send + Sync + 'static {
    /// Stores states in the order given.
    async fn record_gateway_states(&self, states: &[GatewayState]) -> Result<(), StoreError>;
}

/// A sender that nobody registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownSender {
    pub source: SourceKind,
    /// The devEUI, or the first characters of an API key's hash: never a secret.
    pub sender: String,
    pub heard_at_ms: i64,
    pub num_heard: u64,
}

/// Lists unknown senders (bounded; the longest unheard go first).
#[async_trait]
pub trait UnknownSenderStore: Debug + Send + Sync + 'static {
    /// Adds to the list.
    async fn record_unknown_senders(&self, senders: &[UnknownSender]) -> Result<(), StoreError>;
}
