//! The rule by which the network server follows the rows: what has a row is written as the row says, what has none is deleted.
//! Idempotent; run at once after a write that failed, and by a job on one node at a time.

use sluse_schema::id::{DevEui, GatewayId, OrganizationId};
use sluse_schema::port::NetworkServer;
use sluse_schema::port::admin::gateway::GatewayFields;
use sluse_schema::port::admin::lorawan::{MulticastFields, NetworkObject, NetworkTask};
use sluse_schema::port::admin::{AdminError, AdminStore};
use sluse_schema::port::network_server::{NetworkGateway, NetworkMulticast, NetworkServerError};
use sluse_schema::secret::Secret;

use super::device::{Activation, Registration, has_same_keys};
use super::{MADE_BY_TAG, ORGANIZATION_TAG};
use crate::admin::device_shape::{APPLICATION_SESSION_KEY, NETWORK_SESSION_KEY};

/// Why an object could not be brought in line.
#[derive(Debug, thiserror::Error)]
pub enum AlignError {
    #[error(transparent)]
    Network(#[from] NetworkServerError),
    #[error(transparent)]
    Store(#[from] AdminError),
}

/// Brings one object in line.
///
/// # Errors
/// The network server or the database could not be asked; the note stays.
pub async fn align(admin: &dyn AdminStore, network: &dyn NetworkServer, task: &NetworkTask) -> Result<(), AlignError> {
    match task.kind {
        NetworkObject::Device => align_device(admin, network, task).await,
        NetworkObject::Gateway => align_gateway(admin, network, task).await,
        NetworkObject::Profile => align_profile(admin, network, task).await,
        NetworkObject::Multicast => align_multicast(admin, network, task).await,
        // An application is written once and deleted with its row.
        NetworkObject::Application if task.is_deletion => Ok(network.delete_application(&task.key).await?),
        NetworkObject::Application => Ok(()),
    }
}

/// Brings in line what is due, at most `num_max` objects; how many were.
///
/// # Errors
/// The database could not be asked.
pub async fn align_due(admin: &dyn AdminStore, network: &dyn NetworkServer, num_max: i64) -> Result<usize, AdminError> {
    let due = admin.due_network_tasks(num_max).await?;
    let mut num_done = 0;
    for task in &due {
        match align(admin, network, task).await {
            Ok(()) => {
                admin.finish_network_task(task).await?;
                num_done += 1;
            }
            Err(error) => {
                let is_away = matches!(&error, AlignError::Network(error) if error.is_temporary());
                tracing::warn!(%error, kind = task.kind.as_str(), key = task.key, "not brought in line yet");
                admin.put_off_network_task(task, &error.to_string()).await?;
                if is_away {
                    break;
                }
            }
        }
    }
    Ok(num_done)
}

async fn align_device(
    admin: &dyn AdminStore,
    network: &dyn NetworkServer,
    task: &NetworkTask,
) -> Result<(), AlignError> {
    // A key that is none was never written.
    let Ok(dev_eui) = task.key.parse::<DevEui>() else { return Ok(()) };
    let Some(row) = admin.device_by_eui(dev_eui).await? else {
        if task.is_deletion {
            network.delete_device(dev_eui).await?;
        } else {
            delete_if_ours(admin, network, dev_eui).await?;
        }
        return Ok(());
    };
    let Some(mut registration) = Registration::of(&row.fields) else { return Ok(()) };
    // A session that runs has counters of its own: it is set only where there is none of these keys.
    if let Activation::Abp(wanted) = &registration.activation
        && let Some(current) = network.session(dev_eui).await?
        && has_same_keys(wanted, &current)
    {
        registration.activation = Activation::None;
    }
    registration.push(network).await?;
    Ok(())
}

/// Deletes a device in the network server if Sluse made it, in an application of ours: ChirpStack may serve others as well.
async fn delete_if_ours(
    admin: &dyn AdminStore,
    network: &dyn NetworkServer,
    dev_eui: DevEui,
) -> Result<(), AlignError> {
    let Some(known) = network.device(dev_eui).await?.filter(|known| known.is_ours) else { return Ok(()) };
    if admin.is_network_application(&known.device.application).await? {
        network.delete_device(dev_eui).await?;
    }
    Ok(())
}

/// A gateway as the network server is to have it.
pub fn network_gateway(id: GatewayId, organization: Option<OrganizationId>, fields: &GatewayFields) -> NetworkGateway {
    let mut tags = fields.tags.clone();
    if let Some(organization) = organization {
        tags.insert(ORGANIZATION_TAG.to_owned(), organization.to_string());
    }
    tags.insert(MADE_BY_TAG.0.to_owned(), MADE_BY_TAG.1.to_owned());
    NetworkGateway {
        id,
        name: fields.name.clone(),
        description: fields.description.clone().unwrap_or_default(),
        latitude: fields.latitude.unwrap_or(0.0),
        longitude: fields.longitude.unwrap_or(0.0),
        altitude: fields.altitude.unwrap_or(0.0),
        tags,
    }
}

async fn align_gateway(
    admin: &dyn AdminStore,
    network: &dyn NetworkServer,
    task: &NetworkTask,
) -> Result<(), AlignError> {
    let Ok(id) = task.key.parse::<GatewayId>() else { return Ok(()) };
    match admin.gateway(id).await {
        Ok(row) => {
            let wanted = network_gateway(id, row.organization.as_ref().map(|o| o.id), &row.fields);
            match network.update_gateway(&wanted).await {
                Err(NetworkServerError::NotFound) => network.create_gateway(&wanted).await?,
                other => other?,
            }
        }
        Err(AdminError::NotFound) if task.is_deletion => network.delete_gateway(id).await?,
        // Made there and not here: the import gives it its row.
        Err(AdminError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn align_profile(
    admin: &dyn AdminStore,
    network: &dyn NetworkServer,
    task: &NetworkTask,
) -> Result<(), AlignError> {
    match admin.profile(&task.key).await {
        Ok(row) => {
            // What is in a profile stands in the network server alone; whose it is stands in the row.
            let Some(mut profile) = network.profile(&task.key).await? else { return Ok(()) };
            profile.name.clone_from(&row.name);
            if let Some(organization) = row.organization {
                profile.tags.insert(ORGANIZATION_TAG.to_owned(), organization.to_string());
            }
            Ok(network.update_profile(&profile).await?)
        }
        Err(AdminError::NotFound) if task.is_deletion => Ok(network.delete_profile(&task.key).await?),
        Err(AdminError::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A multicast group as the network server is to have it, in its application.
pub fn network_multicast(fields: &MulticastFields, application: String) -> NetworkMulticast {
    let secret = |name: &str| fields.secrets.get(name).cloned().unwrap_or_else(|| Secret::new(""));
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    NetworkMulticast {
        name: fields.name.clone(),
        application,
        address: fields.address.to_ascii_lowercase(),
        network_session_key: secret(NETWORK_SESSION_KEY),
        application_session_key: secret(APPLICATION_SESSION_KEY),
        f_cnt: number(fields.frame_counter),
        dr: number(fields.data_rate),
        frequency_hz: number(fields.frequency_hz),
    }
}

async fn align_multicast(
    admin: &dyn AdminStore,
    network: &dyn NetworkServer,
    task: &NetworkTask,
) -> Result<(), AlignError> {
    let Some(row) = admin.multicast_of_network(&task.key).await? else {
        network.delete_multicast(&task.key).await?;
        return Ok(());
    };
    let application = admin.applications_by_id(&[row.fields.application]).await?.pop();
    let Some(application) = application.and_then(|application| application.chirpstack_id) else { return Ok(()) };
    network.update_multicast(&task.key, &network_multicast(&row.fields, application.clone())).await?;
    let devices = admin.devices_by_id(&row.devices).await?;
    let wanted: Vec<DevEui> = devices.iter().filter_map(|device| device.fields.dev_eui).collect();
    push_members(network, &task.key, &application, &wanted).await?;
    Ok(())
}

/// Makes these devices the group's members, and no others.
pub async fn push_members(
    network: &dyn NetworkServer,
    group: &str,
    application: &str,
    wanted: &[DevEui],
) -> Result<(), NetworkServerError> {
    let current = network.multicast_devices(group, application).await?;
    for gone in current.iter().filter(|dev_eui| !wanted.contains(dev_eui)) {
        network.remove_from_multicast(group, *gone).await?;
    }
    for new in wanted.iter().filter(|dev_eui| !current.contains(dev_eui)) {
        match network.add_to_multicast(group, *new).await {
            Ok(()) | Err(NetworkServerError::AlreadyExists) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
