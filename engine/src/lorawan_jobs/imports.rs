//! What was made in ChirpStack gets its rows: gateways and device profiles by the organisation that their tag names, or nobody's;
//! and devices that join get the key that ChirpStack has and we have not.

use std::collections::BTreeMap;

use sluse_http::network::{MADE_BY_TAG, ORGANIZATION_TAG};
use sluse_schema::id::{DeviceId, GatewayId, OrganizationId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::device::{DeviceAdminStore, DeviceFields};
use sluse_schema::port::admin::gateway::{GatewayAdminStore, GatewayFields};
use sluse_schema::port::admin::inspect::InspectStore;
use sluse_schema::port::admin::lorawan::{FoundProfile, NetworkObject, NetworkTaskStore, ProfileStore};
use sluse_schema::port::admin::{AdminError, ChangedBy};
use sluse_schema::port::network_server::{KnownGateway, NetworkGateway};

use super::{LorawanJobs, permit};

/// Objects that one run gives rows to, at most.
const NUM_IMPORTED_MAX: usize = 500;
/// Devices looked at by one statement.
const NUM_DEVICES_MAX: i64 = 500;
/// The name of the key among a device's secrets.
const OTAA_KEY: &str = "OTAAapplicationKey";

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl LorawanJobs {
    /// Device profiles and keys; gateways come with their figures.
    ///
    /// # Errors
    /// ChirpStack or the database could not be asked.
    pub async fn import(&self) -> Result<(), String> {
        self.import_profiles().await?;
        self.import_keys().await
    }

    /// The organisation that a tag names, if there is one of this id.
    async fn organization_of(&self, tags: &BTreeMap<String, String>) -> Result<Option<OrganizationId>, String> {
        let Some(id) = tags.get(ORGANIZATION_TAG).and_then(|tag| tag.trim().parse().ok()).map(OrganizationId) else {
            return Ok(None);
        };
        let found = self.admin.organizations_by_id(&[id]).await.map_err(text)?;
        Ok(found.first().map(|organization| organization.id))
    }

    pub(super) async fn import_gateways(&self, known: &[KnownGateway]) -> Result<(), String> {
        let ids: Vec<GatewayId> = known.iter().map(|gateway| gateway.id).collect();
        let new = self.admin.gateways_without_row(&ids).await.map_err(text)?;
        for id in new.into_iter().take(NUM_IMPORTED_MAX) {
            // Being made or deleted right now.
            if self.admin.network_task(NetworkObject::Gateway, &id.to_string()).await.map_err(text)?.is_some() {
                continue;
            }
            let found = match self.network.gateway(id).await {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) if error.is_temporary() => return Err(error.to_string()),
                Err(_) => continue,
            };
            let organization = self.organization_of(&found.tags).await?;
            let resource = organization.map_or(Resource::Platform, Resource::OrganizationGateways);
            let fields = fields_of(found);
            let made =
                self.admin.create_gateway(&permit(resource)?, &ChangedBy::system(), id, organization, &fields).await;
            match made {
                Ok(_) => tracing::info!(gateway = %id, ?organization, "a gateway of chirpstack's got its row"),
                Err(AdminError::Taken(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn import_profiles(&self) -> Result<(), String> {
        let all = self.network.profiles().await.map_err(text)?;
        let ids: Vec<String> = all.iter().map(|profile| profile.id.clone()).collect();
        let known = self.admin.known_profiles(&ids).await.map_err(text)?;
        for profile in all.into_iter().filter(|profile| !known.contains(&profile.id)).take(NUM_IMPORTED_MAX) {
            if self.admin.network_task(NetworkObject::Profile, &profile.id).await.map_err(text)?.is_some() {
                continue;
            }
            let Some(found) = self.network.profile(&profile.id).await.map_err(text)? else { continue };
            let organization = self.organization_of(&found.tags).await?;
            let resource = organization.map_or(Resource::Platform, Resource::Organization);
            let new = FoundProfile { network_id: profile.id.clone(), organization, name: found.name };
            match self.admin.create_profile(&permit(resource)?, &ChangedBy::system(), &new).await {
                Ok(_) => {
                    tracing::info!(profile = profile.id, ?organization, "a device profile of chirpstack's got its row")
                }
                Err(AdminError::Taken(_)) => {
                    tracing::warn!(
                        profile = profile.id,
                        name = new.name,
                        "a device profile of chirpstack's has the name of another: rename it there"
                    );
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn import_keys(&self) -> Result<(), String> {
        let mut after = DeviceId(0);
        loop {
            let devices = self.admin.devices_without_join_key(after, NUM_DEVICES_MAX).await.map_err(text)?;
            let Some(last) = devices.last() else { return Ok(()) };
            after = last.id;
            for device in devices {
                let Some(dev_eui) = device.fields.dev_eui else { continue };
                let key = match self.network.join_key(dev_eui).await {
                    Ok(Some(key)) => key,
                    Ok(None) => continue,
                    Err(error) if error.is_temporary() => return Err(error.to_string()),
                    Err(_) => continue,
                };
                let application =
                    Resource::Application { application: device.fields.application, organization: device.organization };
                let mut fields: DeviceFields = device.fields;
                fields.secrets.insert(OTAA_KEY.to_owned(), key);
                let written = self
                    .admin
                    .update_device(&permit(application)?, None, &ChangedBy::system(), device.id, &fields)
                    .await;
                match written {
                    Ok(_) | Err(AdminError::NotFound | AdminError::NotCovered) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
    }
}

/// What people see of a gateway that was made in ChirpStack.
fn fields_of(found: NetworkGateway) -> GatewayFields {
    let mut tags = found.tags;
    tags.remove(ORGANIZATION_TAG);
    tags.remove(MADE_BY_TAG.0);
    GatewayFields {
        name: found.name,
        description: Some(found.description).filter(|text| !text.is_empty()),
        longitude: Some(found.longitude),
        latitude: Some(found.latitude),
        altitude: Some(found.altitude),
        tags,
        ..GatewayFields::default()
    }
}
