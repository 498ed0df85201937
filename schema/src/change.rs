//! Change events: every administrative write makes one in its own transaction (I5), and actors reload by them.

use serde::{Deserialize, Serialize};

/// What kind of row changed. The text form stands in `change_event.entity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedEntity {
    Organization,
    Application,
    Device,
    DeviceModel,
    Decoder,
    Target,
    Connection,
    Permission,
    User,
    ApiKey,
    SigfoxGroup,
    /// A row at Sigfox, not here.
    SigfoxDeviceType,
    /// A rewind or a replay of dead letters was asked for.
    TargetRequest,
    Gateway,
    DeviceProfile,
    Multicast,
    /// A downlink was queued, or the queue flushed.
    Downlink,
}

impl ChangedEntity {
    const ALL: [Self; 17] = [
        Self::Organization,
        Self::Application,
        Self::Device,
        Self::DeviceModel,
        Self::Decoder,
        Self::Target,
        Self::Connection,
        Self::Permission,
        Self::User,
        Self::ApiKey,
        Self::SigfoxGroup,
        Self::SigfoxDeviceType,
        Self::TargetRequest,
        Self::Gateway,
        Self::DeviceProfile,
        Self::Multicast,
        Self::Downlink,
    ];

    /// Text form in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Application => "application",
            Self::Device => "device",
            Self::DeviceModel => "device_model",
            Self::Decoder => "decoder",
            Self::Target => "target",
            Self::Connection => "connection",
            Self::Permission => "permission",
            Self::User => "user",
            Self::ApiKey => "api_key",
            Self::SigfoxGroup => "sigfox_group",
            Self::SigfoxDeviceType => "sigfox_device_type",
            Self::TargetRequest => "target_request",
            Self::Gateway => "gateway",
            Self::DeviceProfile => "device_profile",
            Self::Multicast => "multicast",
            Self::Downlink => "downlink",
        }
    }

    /// The reference's name of it, in its audit line (`type`).
    pub const fn reference_name(self) -> &'static str {
        match self {
            Self::Organization => "Organization",
            Self::Application => "Application",
            Self::Device => "IoTDevice",
            Self::DeviceModel => "DeviceModel",
            Self::Decoder => "PayloadDecoder",
            Self::Target => "DataTarget",
            Self::Connection => "IoTDevicePayloadDecoderDataTargetConnection",
            Self::Permission => "Permission",
            Self::User => "User",
            Self::ApiKey => "ApiKey",
            Self::SigfoxGroup => "SigFoxGroup",
            Self::SigfoxDeviceType => "SigfoxDeviceType",
            Self::TargetRequest => "DataTargetRequest",
            Self::Gateway => "ChirpstackGateway",
            Self::DeviceProfile => "ChirpstackDeviceProfile",
            Self::Multicast => "Multicast",
            Self::Downlink => "Downlink",
        }
    }

    /// The same in a line about this action ([`crate::port::admin::AuditAction::as_str`]): an emptied queue has a name of its own.
    pub fn reference_name_of(self, action: &str) -> &'static str {
        match (self, action) {
            (Self::Downlink, "DELETE") => "FlushDownlinkQueue",
            _ => self.reference_name(),
        }
    }

    /// The entity of this text, ours or the reference's.
    pub fn of_any_name(text: &str) -> Option<Self> {
        Self::of_str(text).or_else(|| Self::ALL.into_iter().find(|e| e.reference_name() == text))
    }

    /// The entity of this text.
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.as_str() == text)
    }
}

/// One change, in the order of its id. A reader that missed some does a full scan instead of guessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeEvent {
    /// Ascending, with gaps.
    pub id: i64,
    pub entity: ChangedEntity,
    pub entity_id: i64,
}
