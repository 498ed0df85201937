//! Administration of what else stands in the network server: device profiles, multicast groups, downlinks; and the notes of what
//! has still to be brought in line there.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::device::DeviceRow;
use super::gateway::Organizations;
use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::id::{ApplicationId, DevEui, DeviceId, OrganizationId};
use crate::permission::Visible;
use crate::policy::Permit;
use crate::secret::Secret;

/// A device profile as a row: whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileRow {
    pub id: i64,
    /// The network server's id.
    pub network_id: String,
    /// `None`: made in the network server, for everybody to use.
    pub organization: Option<OrganizationId>,
    pub name: String,
    pub stamps: Stamps,
}

/// A profile that was found in the network server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundProfile {
    pub network_id: String,
    /// What its tag says; one that does not exist counts as none.
    pub organization: Option<OrganizationId>,
    pub name: String,
}

/// Device profiles as rows.
#[async_trait]
pub trait ProfileStore: Debug + Send + Sync + 'static {
    /// A page of the profiles of these organisations, and of those that are for everybody, by name.
    async fn profiles(&self, of: &Organizations, page: &Page) -> Result<Listed<ProfileRow>, AdminError>;

    /// One profile by the network server's id.
    async fn profile(&self, network_id: &str) -> Result<ProfileRow, AdminError>;

    /// Whether an organisation has a profile of this name (without regard to case) besides `except`.
    async fn is_profile_name_taken(
        &self,
        organization: Option<OrganizationId>,
        name: &str,
        except: Option<&str>,
    ) -> Result<bool, AdminError>;

    /// Ids of the network server that have a row already.
    async fn known_profiles(&self, network_ids: &[String]) -> Result<Vec<String>, AdminError>;

    /// Adds a row.
    async fn create_profile(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        new: &FoundProfile,
    ) -> Result<ProfileRow, AdminError>;

    /// Renames a profile, or gives it to another organisation: `target` is for that one.
    async fn update_profile(
        &self,
        permit: &Permit,
        target: Option<&Permit>,
        by: &ChangedBy,
        changed: &FoundProfile,
    ) -> Result<ProfileRow, AdminError>;

    /// Removes a profile, and notes that the network server has to.
    ///
    /// # Errors
    /// [`AdminError::InUse`] while a device has it.
    async fn delete_profile(&self, permit: &Permit, by: &ChangedBy, network_id: &str)
    -> Result<NumDeleted, AdminError>;
}

/// What people say of a multicast group.
#[derive(Clone, Debug, PartialEq)]
pub struct MulticastFields {
    pub application: ApplicationId,
    pub name: String,
    /// 8 hex digits.
    pub address: String,
    pub frame_counter: i64,
    pub data_rate: i64,
    pub frequency_hz: i64,
    pub group_type: String,
    /// `networkSessionKey`, `applicationSessionKey`.
    pub secrets: BTreeMap<String, Secret>,
}

/// A multicast group as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct MulticastRow {
    pub id: i64,
    pub organization: OrganizationId,
    pub fields: MulticastFields,
    /// The network server's group, once it has devices.
    pub network_id: Option<String>,
    pub devices: Vec<DeviceId>,
    pub stamps: Stamps,
}

/// Multicast groups as rows. Devices have to be radio devices of the group's own application.
#[async_trait]
pub trait MulticastStore: Debug + Send + Sync + 'static {
    /// A page of the groups of what is visible, or of one application.
    async fn multicasts(
        &self,
        visible: &Visible,
        application: Option<ApplicationId>,
        page: &Page,
    ) -> Result<Listed<MulticastRow>, AdminError>;

    /// One group.
    async fn multicast(&self, id: i64) -> Result<MulticastRow, AdminError>;

    /// The group of this id in the network server.
    async fn multicast_of_network(&self, network_id: &str) -> Result<Option<MulticastRow>, AdminError>;

    /// Adds a group.
    ///
    /// # Errors
    /// [`AdminError::BadReference`] for a device that is none of the application's.
    async fn create_multicast(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &MulticastFields,
        devices: &[DeviceId],
        network_id: Option<&str>,
    ) -> Result<MulticastRow, AdminError>;

    /// Changes a group; its application stays.
    async fn update_multicast(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        fields: &MulticastFields,
        devices: &[DeviceId],
        network_id: Option<&str>,
    ) -> Result<MulticastRow, AdminError>;

    /// Removes a group, and notes that the network server has to.
    async fn delete_multicast(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError>;

    /// Notes in the change log that a group was sent something on this port; the network server has it already.
    async fn record_multicast_downlink(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        port: i64,
    ) -> Result<(), AdminError>;
}

/// A downlink to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDownlink {
    pub device: DeviceId,
    pub queue_item_id: String,
    pub payload: Vec<u8>,
    pub port: i32,
    pub is_confirmed: bool,
}

/// A downlink as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownlinkRow {
    pub f_cnt_down: Option<i64>,
    pub payload: Vec<u8>,
    pub port: i32,
    pub sent_at: Option<DateTime<Utc>>,
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub is_acknowledged: Option<bool>,
    pub created_at: DateTime<Utc>,
}

/// Downlinks as rows. What becomes of them is written by the device stage.
#[async_trait]
pub trait DownlinkStore: Debug + Send + Sync + 'static {
    /// Adds a downlink that the network server has queued.
    async fn create_downlink(&self, permit: &Permit, by: &ChangedBy, new: &NewDownlink) -> Result<(), AdminError>;

    /// Neither sent nor flushed nor acknowledged, oldest first.
    async fn waiting_downlinks(&self, device: DeviceId, num_max: i64) -> Result<Vec<DownlinkRow>, AdminError>;

    /// Sent, newest first.
    async fn sent_downlinks(&self, device: DeviceId, num_max: i64) -> Result<Vec<DownlinkRow>, AdminError>;

    /// Marks what waits as flushed.
    async fn flush_downlinks(&self, permit: &Permit, by: &ChangedBy, device: DeviceId) -> Result<(), AdminError>;
}

/// What may not stand in the network server as it stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkObject {
    Device,
    Gateway,
    Profile,
    Multicast,
    Application,
}

impl NetworkObject {
    const ALL: [Self; 5] = [Self::Device, Self::Gateway, Self::Profile, Self::Multicast, Self::Application];

    /// Text form in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Gateway => "gateway",
            Self::Profile => "device_profile",
            Self::Multicast => "multicast",
            Self::Application => "application",
        }
    }

    /// The kind of this text.
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A note that something has to be brought in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkTask {
    pub kind: NetworkObject,
    /// devEUI, gateway id, or the network server's own id.
    pub key: String,
    pub generation: i64,
    /// The row was deleted here.
    pub is_deletion: bool,
    pub num_attempts: i32,
}

/// Notes of what has to be brought in line, and what it takes.
#[async_trait]
pub trait NetworkTaskStore: Debug + Send + Sync + 'static {
    /// Notes it before the network server is called; due in `due_in_s` unless it is finished by then.
    async fn note_network_task(&self, kind: NetworkObject, key: &str, due_in_s: i32)
    -> Result<NetworkTask, AdminError>;

    /// The note about this, if there is one.
    async fn network_task(&self, kind: NetworkObject, key: &str) -> Result<Option<NetworkTask>, AdminError>;

    /// Both agree: takes the note away, unless it was renewed meanwhile.
    async fn finish_network_task(&self, task: &NetworkTask) -> Result<(), AdminError>;

    /// It did not work: tries again later.
    async fn put_off_network_task(&self, task: &NetworkTask, error: &str) -> Result<(), AdminError>;

    /// What is due, the longest due first.
    async fn due_network_tasks(&self, num_max: i64) -> Result<Vec<NetworkTask>, AdminError>;

    /// How many notes there are, and how many seconds the oldest has been due.
    async fn network_backlog(&self) -> Result<(i64, i64), AdminError>;

    /// The device of this devEUI.
    async fn device_by_eui(&self, dev_eui: DevEui) -> Result<Option<DeviceRow>, AdminError>;

    /// Whether an application of ours has this application in the network server.
    async fn is_network_application(&self, network_id: &str) -> Result<bool, AdminError>;

    /// LoRaWAN devices in the network server that join and whose key is not known here, at most `num_max`.
    async fn devices_without_join_key(&self, after: DeviceId, num_max: i64) -> Result<Vec<DeviceRow>, AdminError>;

    /// Remembers the network server's application of an application; what is there already stays and is returned.
    async fn set_network_application(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        application: ApplicationId,
        network_id: &str,
        instead_of: Option<&str>,
    ) -> Result<String, AdminError>;
}
