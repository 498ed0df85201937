//! Open Data DK: what an organisation shares with everybody, and whether it told Open Data DK so.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::target::Dataset;
use super::{AdminError, ChangedBy, OrganizationRow, Stamps};
use crate::device::DecoderScript;
use crate::id::{DecoderId, DeviceId, OrganizationId};
use crate::policy::Permit;

/// A data set of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDataset {
    pub id: i64,
    pub dataset: Dataset,
    pub stamps: Stamps,
}

/// The newest transmission of a device that a data set shares, with what it is decoded by.
#[derive(Clone, Debug)]
pub struct SharedReading {
    pub device: DeviceId,
    /// As it came in.
    pub payload: Bytes,
    pub received_at_ms: i64,
    /// The device's record as decoders see it.
    pub metadata: Arc<str>,
    pub script: Option<Arc<DecoderScript>>,
}

/// What is shared.
#[async_trait]
pub trait ShareStore: Debug + Send + Sync + 'static {
    /// An organisation and its data sets, by id; at most `num_max`.
    async fn shared_datasets(
        &self,
        organization: OrganizationId,
        num_max: i64,
    ) -> Result<(OrganizationRow, Vec<SharedDataset>), AdminError>;

    /// The newest transmissions of the devices that are connected with a data set of this organisation, by connection and device;
    /// at most `num_max`. Devices that never sent anything are left out.
    async fn shared_readings(
        &self,
        organization: OrganizationId,
        dataset: i64,
        num_max: i64,
    ) -> Result<Vec<SharedReading>, AdminError>;

    /// Notes that Open Data DK knows of an organisation, or no longer does.
    async fn set_open_data_dk_registered(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        organization: OrganizationId,
        is_registered: bool,
    ) -> Result<(), AdminError>;

    /// A decoder as it is now with a device's record, to try something out; what is gone is `None`.
    async fn decoding_of(
        &self,
        decoder: DecoderId,
        device: DeviceId,
    ) -> Result<(Option<Arc<DecoderScript>>, Option<Arc<str>>), AdminError>;
}
