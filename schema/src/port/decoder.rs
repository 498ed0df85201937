//! The decoder: users' JavaScript, run where it can harm nobody. Every failure is a value; none ends the engine (I7).

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::device::DecoderScript;
use crate::id::DecoderId;
use crate::record_text::RecordText;

/// One uplink that is to go through one decoder.
#[derive(Clone, Debug)]
pub struct DecodeJob {
    pub script: Arc<DecoderScript>,
    /// The payload as it came in, JSON text. Byte dialects read its base64 `data` and its `fPort`.
    pub payload: Bytes,
    /// The device's record without secrets, JSON text.
    pub metadata: RecordText,
    /// What `recvTime` says, Unix milliseconds.
    pub received_at_ms: i64,
}

/// What a decoder made of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// JSON text of the result, as the script made it: number text, key order and Unicode untouched.
    Value {
        /// The text.
        json: Bytes,
        /// `warnings` of a TS013 or Actility result.
        num_warnings: u32,
    },
    /// The script returned `undefined`: nothing is sent, and that is no failure.
    Nothing,
}

/// What kind of failure it was; also the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecodeErrorKind {
    /// The source does not parse, its top level throws, or the dialect's entry function is missing.
    Script,
    /// The script threw, or returned `errors`.
    Thrown,
    /// The result cannot be sent: a promise, a function, a BigInt, a cycle, or too large.
    Result,
    /// The payload is not what the dialect needs (no `data`, still encrypted, not JSON).
    Payload,
    /// Over its limit of work, or the worker overstayed and was killed.
    Timeout,
    /// Over its limit of memory or stack.
    Memory,
    /// The engine itself crashed.
    Crash,
    /// Quarantined, or over its share of time: not even tried.
    Quarantined,
}

impl DecodeErrorKind {
    /// Text form for metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Thrown => "thrown",
            Self::Result => "result",
            Self::Payload => "payload",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Crash => "crash",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Why a decode failed, in words for the decoder's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    pub kind: DecodeErrorKind,
    /// At most 1 kB, without anything of other devices.
    pub message: String,
}

/// Runs decoders. Jobs of one script that are started in order are answered in order.
#[async_trait]
pub trait Decoder: Debug + Send + Sync + 'static {
    /// Decodes one payload.
    ///
    /// # Errors
    /// A [`DecodeError`]: the script's or the payload's fault, never a reason to stop.
    async fn decode(&self, job: DecodeJob) -> Result<Decoded, DecodeError>;

    /// Forgets what is kept of this decoder (it was edited or deleted), a quarantine included.
    fn forget(&self, decoder: DecoderId);
}
