//! A decoder made of a closure.

use std::fmt;

use async_trait::async_trait;
use sluse_schema::id::DecoderId;
use sluse_schema::port::{DecodeError, DecodeJob, Decoded, Decoder};

type Run = dyn Fn(&DecodeJob) -> Result<Decoded, DecodeError> + Send + Sync;

/// Decodes by calling a closure, after giving way once, so that results do not come within the call.
pub struct FnDecoder(Box<Run>);

impl FnDecoder {
    /// A decoder that answers with what `run` returns. A panic in it unwinds through the actor that asked.
    pub fn new(run: impl Fn(&DecodeJob) -> Result<Decoded, DecodeError> + Send + Sync + 'static) -> Self {
        Self(Box::new(run))
    }

    /// A decoder whose result is the payload.
    pub fn echo() -> Self {
        Self::new(|job| Ok(Decoded::Value { json: job.payload.clone(), num_warnings: 0 }))
    }
}

impl fmt::Debug for FnDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnDecoder")
    }
}

#[async_trait]
impl Decoder for FnDecoder {
    async fn decode(&self, job: DecodeJob) -> Result<Decoded, DecodeError> {
        tokio::task::yield_now().await;
        (self.0)(&job)
    }

    fn forget(&self, _: DecoderId) {}
}
