//! API keys, requests for access, and the logs: what goes in and what comes out.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::ToSchema;

use super::tenants::{Permission, User};

/// An API key to make or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ApiKeyDraft {
    /// 2 to 50 characters.
    pub name: String,
    /// One group or more.
    pub permission_ids: Vec<i64>,
    /// None: never.
    pub expires_on: Option<DateTime<Utc>>,
}

/// An API key.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ApiKey {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The key itself in the answer to its creation; otherwise its first characters.
    pub key: String,
    pub name: String,
    #[schema(required)]
    pub expires_on: Option<DateTime<Utc>>,
    pub permissions: Vec<Permission>,
    /// In whose name the key acts.
    pub system_user: Option<User>,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// An address for somebody who has none, and the organisations that he wants to be let into.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct NewKombitUserDraft {
    pub email: String,
    /// One or more.
    pub requested_organization_ids: Vec<i64>,
}

/// Organisations that somebody wants to be let into.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct AccessRequestDraft {
    /// One or more.
    pub requested_organization_ids: Vec<i64>,
}

/// Lets a user in who waits.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct AcceptUserDraft {
    pub organization_id: i64,
    pub user_id: i64,
    /// Groups of the organisation, one or more.
    pub permission_ids: Vec<i64>,
}

/// Sends a user away who waits.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct RejectUserDraft {
    pub org_id: i64,
    pub user_id_to_reject: i64,
}

/// An organisation with those who still wait to be let in.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct OrganizationWithWaiting {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    pub open_data_dk_registered: bool,
    pub awaiting_users: Vec<User>,
}

/// A line of the change log.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ChangeLogLine {
    pub id: i64,
    pub timestamp: DateTime<Utc>,
    /// Who; for an API key its system user.
    #[schema(required)]
    pub user_id: Option<i64>,
    /// `jwt`, `api-key`, `system` or `nobody`.
    pub principal: String,
    /// Which token or key.
    #[schema(required)]
    pub credential: Option<String>,
    #[schema(required)]
    pub remote_address: Option<String>,
    #[schema(required)]
    pub request_id: Option<String>,
    pub action_type: String,
    pub entity: String,
    /// OS2iot's name of the entity.
    #[schema(rename = "type")]
    pub kind: String,
    #[schema(required)]
    pub entity_id: Option<i64>,
    #[schema(required)]
    pub name: Option<String>,
    pub organization_ids: Vec<i64>,
    /// The row before, without secrets.
    pub before: Value,
    /// The row after, without secrets.
    pub after: Value,
    /// Whether it succeeded.
    pub completed: bool,
    /// Why not.
    #[schema(required)]
    pub reason: Option<String>,
}

/// A line of the system log.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SystemLogLine {
    pub id: i64,
    pub timestamp: DateTime<Utc>,
    pub node_id: String,
    /// `WARN` or `ERROR`.
    pub level: String,
    pub target: String,
    pub message: String,
    /// Named values, as texts.
    pub fields: Value,
    /// How often since the line before.
    pub count: i64,
}
