//! What stands in the network server (ChirpStack) as well as in our rows, and how the two are kept alike.
//!
//! A write goes: note the object in the database, write it in the network server, write the row, take the note away. Whatever fails
//! or dies in between leaves the note, and [`align`] makes the network server's object what the row says: writes it where there is a
//! row, deletes it where there is none. Rows that are deleted are noted by the database itself, cascades included. So both agree
//! in the end, and the row is what counts. A network server's object that Sluse did not make is never deleted.
//!
//! Reading order: [`align`] (the rule), [`device`] (a device, its key and its session), [`error`] (what people are told).

pub mod align;
pub mod device;
pub mod error;

use sluse_schema::id::ApplicationId;
use sluse_schema::policy::Permit;
use sluse_schema::port::NetworkServer;
use sluse_schema::port::admin::lorawan::NetworkTask;
use sluse_schema::port::admin::{AdminStore, ChangedBy};
use sluse_schema::port::network_server::NetworkServerError;

use crate::error::ApiResult;
use error::refusal;

/// The tag that tells whose application a network server's application is.
const APPLICATION_TAG: &str = "sluseApplicationId";
/// The tag by which gateways and profiles belong to an organisation, as in the reference.
pub const ORGANIZATION_TAG: &str = "internalOrganizationId";
/// The tag of what Sluse made.
pub const MADE_BY_TAG: (&str, &str) = ("managedBy", "sluse");
/// How long a write may take before the job looks after it, seconds.
pub const DUE_IN_S: i32 = 120;

/// The network server's application of an application of ours; made when there is none, or when it is gone there.
pub async fn ensure_application(
    admin: &dyn AdminStore,
    network: &dyn NetworkServer,
    permit: &Permit,
    by: &ChangedBy,
    id: ApplicationId,
) -> ApiResult<String> {
    let application = admin.applications_by_id(&[id]).await?.pop().ok_or_else(crate::error::ApiError::unknown_id)?;
    if let Some(known) = application.chirpstack_id {
        return Ok(known);
    }
    let name = format!("os2iot-{}", application.name);
    let made = network.ensure_application(&name, (APPLICATION_TAG, &id.0.to_string())).await.map_err(refusal)?;
    Ok(admin.set_network_application(permit, by, id, &made, None).await?)
}

/// Takes a note away; should the database refuse, the job finds both alike and takes it away then.
pub async fn finish(admin: &dyn AdminStore, task: &NetworkTask) {
    if let Err(error) = admin.finish_network_task(task).await {
        tracing::debug!(%error, kind = task.kind.as_str(), key = task.key, "a note stays for the job");
    }
}

/// Brings an object in line at once, as well as it goes: what fails is tried again by the job.
pub async fn settle(admin: &dyn AdminStore, network: &dyn NetworkServer, task: &NetworkTask) {
    match align::align(admin, network, task).await {
        Ok(()) => finish(admin, task).await,
        Err(error) => {
            tracing::warn!(%error, kind = task.kind.as_str(), key = task.key, "chirpstack is brought in line later");
            if let Err(error) = admin.put_off_network_task(task, &error.to_string()).await {
                tracing::debug!(%error, "a note was not put off");
            }
        }
    }
}

/// Whether an error means that nothing was changed in the network server for certain.
pub fn is_untouched(error: &NetworkServerError) -> bool {
    matches!(
        error,
        NetworkServerError::AlreadyExists | NetworkServerError::Refused(_) | NetworkServerError::Forbidden(_)
    )
}
