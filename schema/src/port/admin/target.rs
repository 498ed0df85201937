//! Administration of data targets. Secrets are clear here and encrypted in the store; whoever shows a row masks them.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::{ApplicationId, OrganizationId, TargetId};
use crate::permission::Visible;
use crate::policy::Permit;
use crate::secret::Secret;

/// What a target is, by how it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetType {
    HttpPush,
    Fiware,
    Mqtt,
    OpenDataDk,
}

impl TargetType {
    /// In the order in which the API lists them.
    pub const ALL: [Self; 4] = [Self::HttpPush, Self::Fiware, Self::Mqtt, Self::OpenDataDk];

    /// Text form in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpPush => "HTTP_PUSH",
            Self::Fiware => "FIWARE",
            Self::Mqtt => "MQTT",
            Self::OpenDataDk => "OPENDATADK",
        }
    }

    /// The type of this text.
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == text)
    }
}

/// What a data set of an `OPENDATADK` target says of itself in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    pub name: String,
    pub description: String,
    pub keywords: Option<Vec<String>>,
    pub license: String,
    pub author_name: String,
    pub author_email: String,
    pub resource_title: String,
    pub update_frequency: Option<String>,
    pub documentation_url: Option<String>,
    pub data_directory: Option<String>,
}

/// Everything of a target that people set.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetFields {
    pub application: ApplicationId,
    /// Fixed when the target is made.
    pub kind: TargetType,
    pub name: String,
    pub url: Option<String>,
    pub timeout_ms: i64,
    pub authorization_header: Option<Secret>,
    pub mqtt_port: Option<i32>,
    pub mqtt_topic: Option<String>,
    pub mqtt_qos: Option<i16>,
    pub mqtt_username: Option<String>,
    pub mqtt_password: Option<Secret>,
    pub tenant: Option<String>,
    pub context: Option<String>,
    pub token_endpoint: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    /// PEM.
    pub ca_certificates: Option<String>,
    pub rate_per_second: Option<i32>,
    pub num_in_flight_max: Option<i32>,
    pub age_seconds_max: Option<i64>,
    pub dataset: Option<Dataset>,
}

/// A target as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRow {
    pub id: TargetId,
    pub organization: OrganizationId,
    pub fields: TargetFields,
    /// Id and times of the data set's row.
    pub dataset_row: Option<(i64, Stamps)>,
    pub last_message_at: Option<DateTime<Utc>>,
    /// Whether its log holds an error of the last 24 hours.
    pub has_recent_errors: bool,
    pub stamps: Stamps,
}

/// Targets as rows.
#[async_trait]
pub trait TargetAdminStore: Debug + Send + Sync + 'static {
    /// One target.
    async fn target(&self, id: TargetId) -> Result<TargetRow, AdminError>;

    /// Several targets; one that is gone is missing. Ordered by id.
    async fn targets_by_id(&self, ids: &[TargetId]) -> Result<Vec<TargetRow>, AdminError>;

    /// A page of the visible targets, or of those of one application.
    async fn targets(
        &self,
        application: Option<ApplicationId>,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<TargetRow>, AdminError>;

    /// Adds a target and gives it its partition of the deliveries log.
    ///
    /// # Errors
    /// [`AdminError::BadReference`] when the application does not exist.
    async fn create_target(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &TargetFields,
    ) -> Result<TargetRow, AdminError>;

    /// Changes a target; its type stays. `permit` is for where it is now, `target_permit` for where it is to be, when that
    /// differs: its connections then end.
    async fn update_target(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: TargetId,
        fields: &TargetFields,
    ) -> Result<TargetRow, AdminError>;

    /// Removes a target with its connections; its cursor stays as a tombstone.
    async fn delete_target(&self, permit: &Permit, by: &ChangedBy, id: TargetId) -> Result<NumDeleted, AdminError>;
}
