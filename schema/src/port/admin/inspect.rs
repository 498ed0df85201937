//! What people look into and ask of the running data path: state of targets, dead letters, decoder errors, logs, senders
//! that nobody registered. Limits: one replay or purge call handles at most [`NUM_LETTERS_MAX`] letters.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::application::ApplicationRow;
use super::organization::OrganizationRow;
use super::{AdminError, ChangedBy, Listed, Page};
use crate::change::ChangedEntity;
use crate::id::{ApplicationId, DeadLetterId, DecoderId, DeviceId, OrganizationId, TargetId};
use crate::permission::Visible;
use crate::policy::Permit;
use crate::target::{TargetCounters, TargetStatus};

/// How many dead letters one call replays or purges.
pub const NUM_LETTERS_MAX: usize = 10_000;

/// How a target stands, from what its owner last wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetState {
    /// `None`: its owner has not written yet.
    pub status: Option<TargetStatus>,
    pub counters: TargetCounters,
    pub partition: Option<i32>,
    /// Next offset of the deliveries log to read.
    pub offset: Option<i64>,
    pub num_holes: i64,
    /// Letters that can be replayed or purged now.
    pub num_dead_letters: i64,
    /// Rewinds and replays that its owner has not taken up yet.
    pub num_requests_waiting: i64,
    pub updated_at: Option<DateTime<Utc>>,
}

/// A dead letter in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterLine {
    pub id: DeadLetterId,
    pub device: DeviceId,
    /// `None`: the device is gone.
    pub device_name: Option<String>,
    pub decoder: Option<DecoderId>,
    /// `body` or `undecoded`.
    pub kind: String,
    pub reason: String,
    pub num_attempts: i32,
    pub status_code: Option<i32>,
    pub message: String,
    pub received_at: DateTime<Utc>,
    pub died_at: DateTime<Utc>,
    pub offset: i64,
    pub num_body_bytes: i64,
}

/// A dead letter with all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterDetail {
    pub line: DeadLetterLine,
    pub content_type: String,
    pub decode_error: Option<String>,
    pub answer: Bytes,
    pub body: Bytes,
}

/// Which dead letters a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letters {
    All,
    These(Vec<DeadLetterId>),
}

/// Where a target is to start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewindTo {
    /// Unix milliseconds.
    Time(i64),
    /// Of the target's partition of the deliveries log.
    Offset(i64),
}

/// A line of a target's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLogLine {
    pub id: i64,
    pub is_error: bool,
    pub status_code: Option<i32>,
    pub message: String,
    pub device: Option<DeviceId>,
    pub created_at: DateTime<Utc>,
}

/// A decode that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderErrorLine {
    pub id: i64,
    pub decoder: DecoderId,
    pub decoder_name: String,
    pub device: DeviceId,
    pub device_name: String,
    pub kind: String,
    pub message: String,
    /// The payload, or the first kilobytes of it.
    pub sample: Bytes,
    pub num_failures: i64,
    pub failed_at: DateTime<Utc>,
}

/// Whose failed decodes are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderErrorFilter {
    OfDecoder(DecoderId),
    OfDevice(DeviceId),
}

/// A sender that was heard but is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSenderLine {
    pub source: String,
    pub sender: String,
    pub num_heard: i64,
    pub first_heard_at: DateTime<Utc>,
    pub last_heard_at: DateTime<Utc>,
}

/// What can be looked into. Reads of one target are asked for after the caller's right to it was checked.
#[async_trait]
pub trait InspectStore: Debug + Send + Sync + 'static {
    /// How a target stands.
    async fn target_state(&self, target: TargetId) -> Result<TargetState, AdminError>;

    /// The newest lines of a target's log first, at most `num_max`.
    async fn target_log(&self, target: TargetId, num_max: i64) -> Result<Vec<TargetLogLine>, AdminError>;

    /// A page of a target's dead letters, by id.
    async fn dead_letters(&self, target: TargetId, page: &Page) -> Result<Listed<DeadLetterLine>, AdminError>;

    /// One dead letter of this target.
    async fn dead_letter(&self, target: TargetId, id: DeadLetterId) -> Result<DeadLetterDetail, AdminError>;

    /// Asks the target's owner to offer dead letters again; answers how many were found and not asked for yet, at most
    /// [`NUM_LETTERS_MAX`].
    async fn request_replay(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        target: TargetId,
        letters: &Letters,
    ) -> Result<u64, AdminError>;

    /// Asks the target's owner to rewind; answers the request's id.
    async fn request_rewind(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        target: TargetId,
        to: RewindTo,
    ) -> Result<i64, AdminError>;

    /// Removes dead letters; answers how many. At most [`NUM_LETTERS_MAX`], oldest first.
    async fn purge_dead_letters(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        target: TargetId,
        letters: &Letters,
    ) -> Result<u64, AdminError>;

    /// A page of failed decodes of visible devices, newest first.
    async fn decoder_errors(
        &self,
        filter: DecoderErrorFilter,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<DecoderErrorLine>, AdminError>;

    /// A page of senders that nobody registered, last heard first.
    async fn unknown_senders(&self, page: &Page) -> Result<Listed<UnknownSenderLine>, AdminError>;

    /// Notes in the change log that somebody was shown the secrets of these rows in clear. The permit is for writing one of them.
    async fn record_reveal(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        entity: ChangedEntity,
        ids: &[i64],
    ) -> Result<(), AdminError>;

    /// Applications by id, for rows that refer to them; one that is gone is missing.
    async fn applications_by_id(&self, ids: &[ApplicationId]) -> Result<Vec<ApplicationRow>, AdminError>;

    /// Organisations by id, for rows that refer to them; one that is gone is missing.
    async fn organizations_by_id(&self, ids: &[OrganizationId]) -> Result<Vec<OrganizationRow>, AdminError>;
}
