//! Search over everything that has a name, within what a caller may see.
//!
//! Limits: [`NUM_COUNTED_MAX`] hits of each kind are counted.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{AdminError, Listed, Stamps};
use crate::id::{ApplicationId, OrganizationId};
use crate::permission::Visible;

/// Hits of one kind beyond these are not counted.
pub const NUM_COUNTED_MAX: i64 = 1_000;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchQuery {
    /// A part of a name, a whole devEUI, Sigfox id, API key of an HTTP device, or gateway id. Not empty.
    pub text: String,
    /// Applications and devices that may be found.
    pub visible: Visible,
    pub limit: i64,
    pub offset: i64,
}

/// What was found, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    Application,
    Device {
        application: ApplicationId,
        /// The API's text.
        kind: String,
        device_eui: Option<String>,
        sigfox_id: Option<String>,
        has_api_key: bool,
    },
    Gateway {
        /// 16 hex digits.
        gateway: String,
    },
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: i64,
    pub name: String,
    pub organization: OrganizationId,
    pub stamps: Stamps,
    pub hit: Hit,
}

/// Search.
#[async_trait]
pub trait SearchStore: Debug + Send + Sync + 'static {
    /// A page of hits, last changed first.
    async fn search(&self, query: &SearchQuery) -> Result<Listed<Found>, AdminError>;
}
