//! Ports: what the data path and the API need from outside, as traits. Adapters live in `engine`, in-memory ones in `testing`.
//!
//! Reading order: [`log`] (what happened), [`device`] and [`target`] (what is remembered), [`decoder`] and [`sender`] (what is
//! called), [`intake`] (how something gets in), [`tail`] and [`gateway`] (what people look at), [`mail`] (what they are written).

pub mod admin;
pub mod callers;
pub mod decoder;
pub mod device;
pub mod gateway;
pub mod health;
pub mod identity;
pub mod intake;
pub mod limit;
pub mod log;
pub mod login;
pub mod mail;
pub mod probe;
pub mod sender;
pub mod sigfox;
pub mod tail;
pub mod target;

pub use callers::CallersEpoch;
pub use decoder::{DecodeError, DecodeErrorKind, DecodeJob, Decoded, Decoder};
pub use device::{Activation, ChangeFeed, DecodeFailure, DeviceDirectory, DeviceStore, StateBatch};
pub use gateway::{GatewayState, GatewayStore, UnknownSender, UnknownSenderStore};
pub use health::Readiness;
pub use identity::{DeviceIdentities, IssuedCertificate};
pub use intake::{Accepted, Arrival, Intake, RefusedArrival};
pub use limit::{Bucket, SharedLimits, Taken};
pub use log::{Assignment, AssignmentDone, Log, LogError, ReadBatch, ReadLimit, TargetBacklog};
pub use login::{LogInError, OidcAttempt, OidcProvider, SamlProvider, Vouched};
pub use mail::{Mail, MailBody, MailError, Mailer};
pub use probe::{Probe, TargetProbe};
pub use sender::{SenderError, SenderFactory, TargetSender};
pub use sigfox::{SigfoxApi, SigfoxCallback, SigfoxError, SigfoxLogin};
pub use tail::{LiveTail, TailDecoded, TailEvent, TailFilter};
pub use target::{CursorBatch, TargetLogEntry, TargetRequest, TargetRequestKind, TargetStore};

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Away or overloaded: the same call may go through later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Somebody with a higher epoch owns this partition now (I8): drop it, or ask the group and raise again.
    #[error("partition {partition} is owned by epoch {current}, not {ours}")]
    Fenced {
        /// The partition concerned.
        partition: u32,
        /// The epoch in the database.
        current: i64,
        /// The epoch that was refused.
        ours: i64,
    },
    /// The database refused the data itself; trying the same again cannot help.
    #[error("the database refused the data: {0}")]
    Refused(String),
}
