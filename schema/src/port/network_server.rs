//! The network server's own API: what Sluse asks ChirpStack for, in the words of LoRaWAN.
//!
//! Every call has a deadline of its adapter's. A row that is missing is `None` or [`NetworkServerError::NotFound`]; deleting what
//! is not there is done already.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use crate::id::{DevEui, GatewayId};
use crate::secret::Secret;

/// Why the network server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkServerError {
    /// No answer, or not within the deadline: the same call may go through later.
    #[error("ChirpStack does not answer: {0}")]
    Unavailable(String),
    /// It does not let us: the key is wrong, or belongs to another tenant.
    #[error("ChirpStack refuses our API key (CHIRPSTACK_API_KEY): {0}")]
    Forbidden(String),
    #[error("ChirpStack has no such object")]
    NotFound,
    #[error("ChirpStack has such an object already")]
    AlreadyExists,
    /// It does not take the data; trying the same again cannot help.
    #[error("ChirpStack refused the data: {0}")]
    Refused(String),
    /// Something that it must hold is missing: how to mend it.
    #[error("{0}")]
    NotPrepared(String),
}

impl NetworkServerError {
    /// Whether the same call may go through later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Forbidden(_) | Self::NotPrepared(_))
    }
}

/// What every call answers with.
pub type Answer<T> = Result<T, NetworkServerError>;

/// A device as it stands in the network server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDevice {
    pub dev_eui: DevEui,
    pub name: String,
    pub description: String,
    /// The network server's application.
    pub application: String,
    /// The network server's device profile.
    pub profile: String,
    pub is_disabled: bool,
    pub skips_f_cnt_check: bool,
}

/// Battery and margin as a device last reported them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceStatus {
    /// Demodulation margin of the last downlink, dB.
    pub margin_db: i32,
    /// 0 to 100; `None`: not known, or on external power.
    pub battery_level_percent: Option<f32>,
    pub is_external_power: bool,
}

/// A device with what the network server knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownDevice {
    pub device: NetworkDevice,
    /// Sluse made it, as its tag says.
    pub is_ours: bool,
    pub status: Option<DeviceStatus>,
}

/// A session that was set by hand (ABP) or made by a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// 8 hex digits.
    pub dev_addr: String,
    pub network_session_key: Secret,
    pub application_session_key: Secret,
    pub f_cnt_up: u32,
    pub n_f_cnt_down: u32,
}

/// One day of a device's radio link.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkDay {
    pub at: DateTime<Utc>,
    pub rssi_dbm: f64,
    pub snr_db: f64,
    /// Frames by data rate, as the network server numbers them.
    pub num_packets_by_dr: BTreeMap<String, f64>,
}

/// One day of a gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatewayDay {
    pub at: DateTime<Utc>,
    pub num_received: f64,
    pub num_sent: f64,
}

/// A gateway as it stands in the network server.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkGateway {
    pub id: GatewayId,
    pub name: String,
    pub description: String,
    pub latitude: f64,
    pub longitude: f64,
    pub altitude: f64,
    pub tags: BTreeMap<String, String>,
}

/// A gateway of the network server's list.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownGateway {
    pub id: GatewayId,
    pub name: String,
    pub last_seen_at: Option<DateTime<Utc>>,
}

/// A device profile, as far as the API has it. What else stands in the network server's stays as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkProfile {
    /// Empty for a new one.
    pub id: String,
    pub name: String,
    /// Index into LoRaWAN's versions: 0 is 1.0.0, 5 is 1.1.0.
    pub mac_version: i32,
    /// Index into the regional parameters' revisions: 0 is A.
    pub reg_params_revision: i32,
    pub adr_algorithm: String,
    pub supports_join: bool,
    pub supports_class_b: bool,
    pub supports_class_c: bool,
    pub class_b_timeout_s: u32,
    pub ping_slot_period: u32,
    pub ping_slot_dr: u32,
    pub ping_slot_frequency_hz: u32,
    pub class_c_timeout_s: u32,
    /// Status requests per day.
    pub status_requests_per_day: u32,
    pub rx1_delay: u32,
    pub rx1_dr_offset: u32,
    pub rx2_dr: u32,
    pub rx2_frequency_hz: u32,
    pub tags: BTreeMap<String, String>,
}

/// A profile of the network server's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownProfile {
    pub id: String,
    pub name: String,
}

/// A multicast group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMulticast {
    pub name: String,
    /// The network server's application.
    pub application: String,
    /// 8 hex digits.
    pub address: String,
    pub network_session_key: Secret,
    pub application_session_key: Secret,
    pub f_cnt: u32,
    pub dr: u32,
    pub frequency_hz: u32,
}

/// A downlink that waits in a multicast group's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MulticastQueueItem {
    pub group: String,
    pub f_cnt: u32,
    pub f_port: u32,
    pub data: Vec<u8>,
}

/// The network server.
#[async_trait]
pub trait NetworkServer: Debug + Send + Sync + 'static {
    /// Makes an application in our tenant and returns its id; one of this name with this tag is taken instead of a second one.
    async fn ensure_application(&self, name: &str, tag: (&str, &str)) -> Answer<String>;
    /// Deletes an application with its devices and multicast groups.
    async fn delete_application(&self, id: &str) -> Answer<()>;

    async fn device(&self, dev_eui: DevEui) -> Answer<Option<KnownDevice>>;
    async fn create_device(&self, device: &NetworkDevice) -> Answer<()>;
    async fn update_device(&self, device: &NetworkDevice) -> Answer<()>;
    async fn delete_device(&self, dev_eui: DevEui) -> Answer<()>;
    /// The key that a device joins with (LoRaWAN 1.0: AppKey).
    async fn join_key(&self, dev_eui: DevEui) -> Answer<Option<Secret>>;
    /// Sets the key, whether there was one or not.
    async fn set_join_key(&self, dev_eui: DevEui, key: &Secret) -> Answer<()>;
    async fn session(&self, dev_eui: DevEui) -> Answer<Option<Session>>;
    async fn activate(&self, dev_eui: DevEui, session: &Session) -> Answer<()>;
    /// The days from `from` to today.
    async fn link_days(&self, dev_eui: DevEui, from: NaiveDate) -> Answer<Vec<LinkDay>>;

    /// Queues a downlink and returns its id in the queue.
    async fn enqueue(&self, dev_eui: DevEui, f_port: u32, is_confirmed: bool, data: &[u8]) -> Answer<String>;
    async fn flush_queue(&self, dev_eui: DevEui) -> Answer<()>;

    /// Every profile of our tenant.
    async fn profiles(&self) -> Answer<Vec<KnownProfile>>;
    async fn profile(&self, id: &str) -> Answer<Option<NetworkProfile>>;
    /// Returns the new profile's id.
    async fn create_profile(&self, profile: &NetworkProfile) -> Answer<String>;
    async fn update_profile(&self, profile: &NetworkProfile) -> Answer<()>;
    async fn delete_profile(&self, id: &str) -> Answer<()>;
    /// Id and name of each algorithm.
    async fn adr_algorithms(&self) -> Answer<Vec<(String, String)>>;

    /// Every gateway of our tenant.
    async fn gateways(&self) -> Answer<Vec<KnownGateway>>;
    async fn gateway(&self, id: GatewayId) -> Answer<Option<NetworkGateway>>;
    async fn create_gateway(&self, gateway: &NetworkGateway) -> Answer<()>;
    /// Reads, changes and writes, so that what we do not know stays.
    async fn update_gateway(&self, gateway: &NetworkGateway) -> Answer<()>;
    async fn delete_gateway(&self, id: GatewayId) -> Answer<()>;
    /// The days from `from` to today.
    async fn gateway_days(&self, id: GatewayId, from: NaiveDate) -> Answer<Vec<GatewayDay>>;

    /// Returns the new group's id.
    async fn create_multicast(&self, group: &NetworkMulticast) -> Answer<String>;
    async fn update_multicast(&self, id: &str, group: &NetworkMulticast) -> Answer<()>;
    async fn delete_multicast(&self, id: &str) -> Answer<()>;
    /// The members of a group of this application.
    async fn multicast_devices(&self, id: &str, application: &str) -> Answer<Vec<DevEui>>;
    async fn add_to_multicast(&self, id: &str, dev_eui: DevEui) -> Answer<()>;
    async fn remove_from_multicast(&self, id: &str, dev_eui: DevEui) -> Answer<()>;
    /// Queues a downlink for the group and returns its frame counter.
    async fn enqueue_multicast(&self, id: &str, f_port: u32, data: &[u8]) -> Answer<u32>;
    async fn flush_multicast(&self, id: &str) -> Answer<()>;
    async fn multicast_queue(&self, id: &str) -> Answer<Vec<MulticastQueueItem>>;
}
