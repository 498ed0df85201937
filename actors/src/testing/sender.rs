//! Receivers made of a script: what each attempt is answered with, after how long. They remember everything that arrived.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sluse_schema::delivery::{Attempt, AttemptClass, DeliveryMeta};
use sluse_schema::id::{DeviceId, TargetId};
use sluse_schema::port::{SenderError, SenderFactory, TargetSender};
use sluse_schema::target::{TargetConfig, TargetKind};
use tokio::time::Instant;

/// What one attempt is answered with.
#[derive(Clone, Debug)]
pub struct Reply {
    pub after: Duration,
    pub attempt: Attempt,
}

impl Reply {
    /// 2xx.
    pub fn ok() -> Self {
        Self { after: Duration::from_millis(1), attempt: Attempt::delivered(Some(200)) }
    }

    /// This HTTP status.
    pub fn status(status: u16) -> Self {
        let class = AttemptClass::of_http_status(status);
        let attempt = Attempt { status_code: Some(status), ..Attempt::failed(class, format!("status {status}")) };
        Self { after: Duration::from_millis(1), attempt }
    }

    /// No answer until the sender's own time limit.
    pub fn hang(timeout: Duration) -> Self {
        Self { after: timeout, attempt: Attempt::failed(AttemptClass::Transient, "timeout") }
    }

    /// The same after this long.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

/// An attempt that came in.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub target: TargetId,
    pub device: DeviceId,
    pub body: Bytes,
    pub key: String,
    pub class: AttemptClass,
    pub started_at: Instant,
    pub answered_at: Instant,
}

type Script = dyn Fn(&DeliveryMeta, &Bytes) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    arrived: Mutex<Vec<Arrived>>,
    num_open: Mutex<(usize, usize)>,
}

/// A factory whose senders answer by one script.
#[derive(Clone)]
pub struct ScriptedSenders(Arc<Shared>);

impl fmt::Debug for ScriptedSenders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedSenders")
    }
}

impl ScriptedSenders {
    /// Senders that answer what `script` says.
    pub fn new(script: impl Fn(&DeliveryMeta, &Bytes) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { script: Box::new(script), arrived: Mutex::default(), num_open: Mutex::default() }))
    }

    /// Everything that was answered so far, in the order of the answers.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.0.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What one target's receiver took, in order.
    pub fn delivered_to(&self, target: TargetId) -> Vec<Arrived> {
        let arrived = self.arrived().into_iter();
        arrived.filter(|a| a.target == target && a.class == AttemptClass::Delivered).collect()
    }

    /// Attempts under way now, and the most there ever were.
    pub fn num_open(&self) -> (usize, usize) {
        *self.0.num_open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SenderFactory for ScriptedSenders {
    /// Panics for a target whose name is `panics`: the actor that asks ends with it.
    fn make(&self, config: &TargetConfig) -> Result<Arc<dyn TargetSender>, SenderError> {
        assert!(config.name != "panics", "the test asked for it");
        match config.kind {
            TargetKind::HttpPush(_) | TargetKind::Mqtt(_) => Ok(Arc::new(ScriptedSender(self.clone()))),
            _ => Err(SenderError("there is no sender for this kind".into())),
        }
    }
}

/// One sender of a [`ScriptedSenders`].
#[derive(Debug)]
pub struct ScriptedSender(ScriptedSenders);

struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.num_open.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
    }
}

#[async_trait]
impl TargetSender for ScriptedSender {
    async fn send(&self, meta: &DeliveryMeta, body: Bytes) -> Attempt {
        let shared = &self.0.0;
        {
            let mut num_open = shared.num_open.lock().unwrap_or_else(PoisonError::into_inner);
            num_open.0 += 1;
            num_open.1 = num_open.1.max(num_open.0);
        }
        let open = Open(shared);
        let started_at = Instant::now();
        let Reply { after, attempt } = (shared.script)(meta, &body);
        tokio::time::sleep(after).await;
        drop(open);
        shared.arrived.lock().unwrap_or_else(PoisonError::into_inner).push(Arrived {
            target: meta.target,
            device: meta.device,
            body,
            key: meta.idempotency_key(),
            class: attempt.class,
            started_at,
            answered_at: Instant::now(),
        });
        attempt
    }
}
