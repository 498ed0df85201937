//! The change log and the system log. A change writes its line itself, in its own transaction; here is what concerns no change
//! (failed log-ins, refused attempts, secrets that were shown), and how both logs are read.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{AdminError, ChangedBy, Listed, Page};
use crate::id::OrganizationId;

/// What somebody did, or tried to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditAction {
    Create,
    Update,
    Delete,
    /// Log-in.
    LogIn,
    /// Log-out: his tokens are refused from now on.
    LogOut,
    /// A stored secret was shown to somebody who may change it.
    Reveal,
    /// Something was read, or tried out without changing a row; of reads only refused ones are noted.
    Access,
}

impl AuditAction {
    /// Text form in the change log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::LogIn => "LOGIN",
            Self::LogOut => "LOGOUT",
            Self::Reveal => "REVEAL",
            Self::Access => "ACCESS",
        }
    }
}

/// A line of the change log about something that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    pub action: AuditAction,
    /// [`crate::change::ChangedEntity::as_str`], or the first part of the path where that is not known.
    pub entity: String,
    pub entity_id: Option<i64>,
    pub name: Option<String>,
    /// Whose administrators may read it.
    pub organizations: Vec<OrganizationId>,
    /// Why it did not succeed; `None`: it did.
    pub failure: Option<String>,
}

/// Which lines of the change log are wanted; every filter that is given must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeLogQuery {
    /// Lines that one of these organisations' administrators may read; `None`: all.
    pub among: Option<Vec<OrganizationId>>,
    pub entity: Option<String>,
    pub entity_id: Option<i64>,
    pub user: Option<i64>,
    pub action: Option<String>,
    /// From this moment on.
    pub from: Option<DateTime<Utc>>,
    /// Before this moment.
    pub to: Option<DateTime<Utc>>,
}

/// A line of the change log.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeLogRow {
    pub id: i64,
    pub happened_at: DateTime<Utc>,
    /// Who; `None`: Sluse itself, or nobody who proved who he is.
    pub user: Option<i64>,
    /// [`crate::permission::PrincipalKind::as_str`].
    pub principal: String,
    /// Through which token or key.
    pub credential: Option<String>,
    pub remote_address: Option<String>,
    pub request_id: Option<String>,
    pub action: String,
    pub entity: String,
    pub entity_id: Option<i64>,
    pub name: Option<String>,
    pub organizations: Vec<OrganizationId>,
    /// The row before and after, without secrets.
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub is_success: bool,
    pub reason: Option<String>,
}

/// A warning or an error of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemLogEntry {
    pub happened_at: DateTime<Utc>,
    pub node_id: String,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    pub target: String,
    pub message: String,
    /// An object of texts.
    pub fields: Value,
    /// This one, and those like it since the last that was kept.
    pub num_times: i64,
}

/// Which lines of the system log are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemLogQuery {
    pub level: Option<String>,
    pub node_id: Option<String>,
    /// Beginning of the target.
    pub target: Option<String>,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
}

/// A line of the system log.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemLogRow {
    pub id: i64,
    pub happened_at: DateTime<Utc>,
    pub node_id: String,
    pub level: String,
    pub target: String,
    pub message: String,
    pub fields: Value,
    pub num_times: i64,
}

/// Counting a list stops here: beyond it, `num_all` says this number.
pub const LOG_COUNT_MAX: i64 = 100_000;

/// The two logs.
#[async_trait]
pub trait AuditStore: Debug + Send + Sync + 'static {
    /// Adds a line about something that changed nothing, in a transaction of its own.
    async fn record_event(&self, by: &ChangedBy, event: &AuditEvent) -> Result<(), AdminError>;

    /// A page of the change log, newest first unless the page says ascending.
    async fn change_log(&self, query: &ChangeLogQuery, page: &Page) -> Result<Listed<ChangeLogRow>, AdminError>;

    /// A page of the system log, newest first unless the page says ascending.
    async fn system_log(&self, query: &SystemLogQuery, page: &Page) -> Result<Listed<SystemLogRow>, AdminError>;
}
