//! Administration of payload decoders.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use crate::device::Dialect;
use crate::id::{DecoderId, OrganizationId};
use crate::policy::Permit;

/// Everything of a decoder that people set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderFields {
    pub organization: OrganizationId,
    pub name: String,
    pub source: String,
    /// `None`: recognised from the source.
    pub dialect: Option<Dialect>,
}

/// A decoder as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderRow {
    pub id: DecoderId,
    pub fields: DecoderFields,
    pub stamps: Stamps,
}

/// Decoders as rows.
#[async_trait]
pub trait DecoderAdminStore: Debug + Send + Sync + 'static {
    /// One decoder.
    async fn decoder(&self, id: DecoderId) -> Result<DecoderRow, AdminError>;

    /// Several decoders; one that is gone is missing. Ordered by id.
    async fn decoders_by_id(&self, ids: &[DecoderId]) -> Result<Vec<DecoderRow>, AdminError>;

    /// A page of the decoders of one organisation, or of all: they are shared by design.
    async fn decoders(
        &self,
        organization: Option<OrganizationId>,
        page: &Page,
    ) -> Result<Listed<DecoderRow>, AdminError>;

    /// Ids and names of decoders, at most `num_max`.
    async fn decoder_names(&self, num_max: i64) -> Result<Listed<(DecoderId, String)>, AdminError>;

    /// Adds a decoder.
    ///
    /// # Errors
    /// [`AdminError::BadReference`] when the organisation does not exist.
    async fn create_decoder(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &DecoderFields,
    ) -> Result<DecoderRow, AdminError>;

    /// Changes a decoder. `permit` is for the organisation it belongs to, `target_permit` for the one it is to belong to, when
    /// that differs.
    async fn update_decoder(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: DecoderId,
        fields: &DecoderFields,
    ) -> Result<DecoderRow, AdminError>;

    /// Removes a decoder.
    ///
    /// # Errors
    /// [`AdminError::InUse`] while a connection uses it.
    async fn delete_decoder(&self, permit: &Permit, by: &ChangedBy, id: DecoderId) -> Result<NumDeleted, AdminError>;
}
