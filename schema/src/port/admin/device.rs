//! Administration of devices: the rows as people see them, what is written, and the stored state beside them.
//!
//! Lists of an application's devices are [`super::application`]'s. Secrets are clear here and encrypted in the store; whoever
//! shows a row masks them.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::device::{DeviceCounters, LinkState, Transmission};
use crate::id::{ApplicationId, DecoderId, DevEui, DeviceId, OrganizationId, TargetId};
use crate::permission::Visible;
use crate::policy::Permit;
use crate::secret::Secret;

/// What a device is, by how it reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceType {
    GenericHttp,
    Lorawan,
    MqttInternalBroker,
    MqttExternalBroker,
    Sigfox,
}

impl DeviceType {
    /// In the order in which the API lists them.
    pub const ALL: [Self; 5] =
        [Self::GenericHttp, Self::Lorawan, Self::MqttInternalBroker, Self::MqttExternalBroker, Self::Sigfox];

    /// Text form in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GenericHttp => "GENERIC_HTTP",
            Self::Lorawan => "LORAWAN",
            Self::MqttInternalBroker => "MQTT_INTERNAL_BROKER",
            Self::MqttExternalBroker => "MQTT_EXTERNAL_BROKER",
            Self::Sigfox => "SIGFOX",
        }
    }

    /// The type of this text.
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == text)
    }
}

/// Everything of a device that people set.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFields {
    pub application: ApplicationId,
    pub device_model: Option<i64>,
    pub kind: DeviceType,
    pub name: String,
    /// Both or neither.
    pub longitude: Option<f64>,
    pub latitude: Option<f64>,
    pub comment_on_location: Option<String>,
    pub comment: Option<String>,
    /// The client's JSON text of keys and values, as it was sent.
    pub metadata: Option<String>,
    /// LORAWAN alone.
    pub dev_eui: Option<DevEui>,
    /// GENERIC_HTTP alone.
    pub api_key: Option<Secret>,
    /// What else belongs to the type, by its name in the API.
    pub settings: Map<String, Value>,
    /// Secrets of the type, by their name in the API.
    pub secrets: BTreeMap<String, Secret>,
}

/// A device as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRow {
    pub id: DeviceId,
    pub organization: OrganizationId,
    pub fields: DeviceFields,
    pub stamps: Stamps,
}

/// The newest message of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestMessage {
    /// As it came in.
    pub payload: Option<Bytes>,
    pub sent_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub rssi_dbm: Option<i32>,
    pub snr_db: Option<f32>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What the log told of a device so far.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredState {
    pub latest: Option<LatestMessage>,
    /// Newest last.
    pub transmissions: Vec<Transmission>,
    pub link: LinkState,
    pub counters: DeviceCounters,
    /// When these figures were written.
    pub updated_at: DateTime<Utc>,
}

/// A device of a decoder, with no more than may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceOfDecoder {
    pub id: DeviceId,
    pub name: String,
    pub application: ApplicationId,
    pub organization: OrganizationId,
    pub last_active_at: Option<DateTime<Utc>>,
}

/// A connection that a device gets in its new application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRoute {
    pub target: TargetId,
    pub decoder: Option<DecoderId>,
}

/// Devices as rows.
#[async_trait]
pub trait DeviceAdminStore: Debug + Send + Sync + 'static {
    /// One device.
    async fn device(&self, id: DeviceId) -> Result<DeviceRow, AdminError>;

    /// Several devices; one that is gone is missing. Ordered by id.
    async fn devices_by_id(&self, ids: &[DeviceId]) -> Result<Vec<DeviceRow>, AdminError>;

    /// An application's devices for its CSV file, by id; at most `num_max`.
    async fn all_devices_of(&self, application: ApplicationId, num_max: i64) -> Result<Vec<DeviceRow>, AdminError>;

    /// What the log told of it; `None` when it never sent anything.
    async fn device_state(&self, id: DeviceId) -> Result<Option<StoredState>, AdminError>;

    /// A page of the visible devices that a decoder decodes for.
    async fn devices_of_decoder(
        &self,
        decoder: DecoderId,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<DeviceOfDecoder>, AdminError>;

    /// Adds a device.
    ///
    /// # Errors
    /// [`AdminError::Taken`] for a devEUI or API key that is registered; [`AdminError::BadReference`] for an application or a
    /// model that does not exist.
    async fn create_device(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &DeviceFields,
    ) -> Result<DeviceRow, AdminError>;

    /// Changes a device; its type stays. `permit` is for where it is now, `target_permit` for where it is to be, when that
    /// differs: it then leaves its connections.
    async fn update_device(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: DeviceId,
        fields: &DeviceFields,
    ) -> Result<DeviceRow, AdminError>;

    /// Moves a device: its connections end, and it gets `routes` in the new application.
    async fn move_device(
        &self,
        permit: &Permit,
        target_permit: &Permit,
        by: &ChangedBy,
        id: DeviceId,
        fields: &DeviceFields,
        routes: &[NewRoute],
    ) -> Result<DeviceRow, AdminError>;

    /// Removes a device with its state.
    async fn delete_device(&self, permit: &Permit, by: &ChangedBy, id: DeviceId) -> Result<NumDeleted, AdminError>;
}
