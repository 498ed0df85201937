//! Administration's ports: what the REST API reads and writes, as plain rows, one trait per resource.
//!
//! A write takes a [`crate::policy::Permit`] and a [`ChangedBy`]; the row, its line in the change log and its change event are
//! one transaction (I5). A store checks the permit against the row that it changes, not against the one the caller thought of.

pub mod account;
pub mod api_key;
pub mod application;
pub mod audit;
pub mod connection;
pub mod decoder;
pub mod device;
pub mod device_model;
pub mod gateway;
pub mod inspect;
pub mod login;
pub mod lorawan;
pub mod organization;
pub mod permission;
pub mod search;
pub mod share;
pub mod sigfox;
pub mod target;
pub mod user;

pub use account::{Account, AccountStore, ApiKeyCaller};
pub use api_key::{ApiKeyChange, ApiKeyDetail, ApiKeyRow, ApiKeyStore, NewApiKey};
pub use application::{
    ApplicationDetail, ApplicationDraft, ApplicationListing, ApplicationQuery, ApplicationRow, ApplicationStore,
    DashboardCounts, DeviceListing, DeviceSummary, LatestSummary, MapDevice, StatusCheck, TargetSummary,
};
pub use audit::{
    AuditAction, AuditEvent, AuditStore, ChangeLogQuery, ChangeLogRow, LOG_COUNT_MAX, SystemLogEntry, SystemLogQuery,
    SystemLogRow,
};
pub use connection::ConnectionAdminStore;
pub use decoder::DecoderAdminStore;
pub use device::DeviceAdminStore;
pub use device_model::{DeviceModelRow, DeviceModelStore};
pub use gateway::GatewayAdminStore;
pub use inspect::InspectStore;
pub use login::LogInStore;
pub use lorawan::{DownlinkStore, MulticastStore, NetworkTaskStore, ProfileStore};
pub use organization::{OrganizationListing, OrganizationRow, OrganizationStore};
pub use permission::{
    LevelRow, NewPermission, PermissionChange, PermissionDetail, PermissionQuery, PermissionRow, PermissionStore,
};
pub use search::SearchStore;
pub use share::ShareStore;
pub use sigfox::SigfoxGroupStore;
pub use target::TargetAdminStore;
pub use user::{
    AccessRequest, AccountScope, NewUser, UserChange, UserDetail, UserListing, UserQuery, UserRow, UserStore,
};

use chrono::{DateTime, Utc};

use super::StoreError;
use crate::id::UserId;
use crate::permission::PrincipalKind;

/// Everything that administration stores.
pub trait AdminStore:
    AccountStore
    + OrganizationStore
    + PermissionStore
    + UserStore
    + ApplicationStore
    + DeviceModelStore
    + DeviceAdminStore
    + DecoderAdminStore
    + TargetAdminStore
    + ConnectionAdminStore
    + InspectStore
    + GatewayAdminStore
    + ProfileStore
    + MulticastStore
    + DownlinkStore
    + NetworkTaskStore
    + ApiKeyStore
    + AuditStore
    + LogInStore
    + SearchStore
    + ShareStore
    + SigfoxGroupStore
{
}

/// Who changes something, for the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBy {
    /// The user, or the system user of an API key; zero for Sluse itself and for nobody.
    pub user: UserId,
    pub kind: PrincipalKind,
    /// Through which token or key, never the credential itself.
    pub credential: Option<String>,
    pub remote_address: Option<String>,
    pub request_id: Option<String>,
}

impl ChangedBy {
    /// Sluse itself.
    pub fn system() -> Self {
        Self::without_user(PrincipalKind::System, None, None)
    }

    /// Somebody who did not prove who he is.
    pub fn nobody(remote_address: Option<String>, request_id: Option<String>) -> Self {
        Self::without_user(PrincipalKind::Nobody, remote_address, request_id)
    }

    fn without_user(kind: PrincipalKind, remote_address: Option<String>, request_id: Option<String>) -> Self {
        Self { user: UserId(0), kind, credential: None, remote_address, request_id }
    }

    /// The user as a foreign key: none for Sluse itself and for nobody.
    pub fn user_id(&self) -> Option<i64> {
        matches!(self.kind, PrincipalKind::User | PrincipalKind::ApiKey).then_some(self.user.0)
    }
}

/// Why administration could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such row, or the caller may not know that there is.
    #[error("there is no such row")]
    NotFound,
    /// Something unique is taken: a name, an e-mail, a devEUI.
    #[error("{0} is in use already")]
    Taken(&'static str),
    /// A row that it refers to does not exist, or belongs to another organisation.
    #[error("{0} does not exist or belongs elsewhere")]
    BadReference(&'static str),
    /// Something else needs the row.
    #[error("the row is in use by {0}")]
    InUse(&'static str),
    /// The permit is for something else: the row moved between the check and the write.
    #[error("the permit does not cover the row")]
    NotCovered,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Columns that every administrative row has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps {
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub limit: i64,
    pub offset: i64,
    /// The API's name of a column. A store compares it with the names it knows; every other text means the id.
    pub order_on: Option<String>,
    pub is_descending: bool,
}

impl Page {
    /// The same, ordered only by one of `names`; any other order is the default: by id, ascending.
    #[must_use]
    pub fn within(mut self, names: &[&str]) -> Self {
        if !self.order_on.as_deref().is_some_and(|name| names.contains(&name)) {
            (self.order_on, self.is_descending) = (None, false);
        }
        self
    }

    /// The same, ordered only by one of `names`, or by the id in the direction that was asked for.
    #[must_use]
    pub fn ordered_within(mut self, names: &[&str]) -> Self {
        self.order_on = self.order_on.filter(|name| names.contains(&name.as_str()));
        self
    }

    /// Everything up to `limit`, by id.
    pub fn first(limit: i64) -> Self {
        Self { limit, offset: 0, order_on: None, is_descending: false }
    }
}

/// A page of a list, with the number of rows that there are without paging.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    pub rows: Vec<T>,
    pub num_all: i64,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumDeleted(pub u64);
