//! From the id of a row to the resource that the policy decides about: an application always with its own organisation.

use std::collections::BTreeMap;

use serde_json::Value;
use sluse_schema::id::{ApplicationId, OrganizationId};
use sluse_schema::permission::Principal;
use sluse_schema::policy::{Action, Permit, Resource, decide};
use sluse_schema::port::admin::connection::ConnectionRow;
use sluse_schema::port::admin::device::DeviceRow;
use sluse_schema::port::admin::target::TargetRow;
use sluse_schema::port::admin::{AdminError, AdminStore, ApplicationRow, OrganizationRow};

use super::view;
use crate::authz::{Caller, Rule};
use crate::error::{ApiError, ApiResult};

/// What a row belongs to.
pub trait InApplication {
    /// The application, with the organisation that it belongs to.
    fn resource(&self) -> Resource;
}

impl InApplication for DeviceRow {
    fn resource(&self) -> Resource {
        Resource::Application { application: self.fields.application, organization: self.organization }
    }
}

impl InApplication for TargetRow {
    fn resource(&self) -> Resource {
        Resource::Application { application: self.fields.application, organization: self.organization }
    }
}

impl InApplication for ConnectionRow {
    fn resource(&self) -> Resource {
        Resource::Application { application: self.application, organization: self.organization }
    }
}

/// Whether the caller may change what belongs to this application.
pub fn may_write(principal: &Principal, resource: Resource) -> bool {
    decide(principal, Action::Write, resource).is_ok()
}

/// The organisation of what belongs to an application; one that nobody has for anything else.
pub fn organization_of(resource: &Resource) -> OrganizationId {
    match resource {
        Resource::Application { organization, .. } => *organization,
        _ => OrganizationId(0),
    }
}

/// The application that a request is about. Whoever may not see everything is told the same of one that is not there as of
/// another tenant's.
pub async fn application_for<R: Rule>(
    caller: &Caller<R>,
    admin: &dyn AdminStore,
    id: ApplicationId,
) -> ApiResult<Resource> {
    match application(admin, id).await? {
        Some(resource) => Ok(resource),
        None if caller.principal.is_global_admin() => Err(ApiError::unknown_id()),
        None => Err(ApiError::forbidden()),
    }
}

/// The application that a request would write into, which must be allowed: whoever may not see everything is told the same of one that
/// is not there as of another tenant's. `missing` is what a global administrator is told.
pub async fn application_to_write<R: Rule>(
    caller: &Caller<R>,
    admin: &dyn AdminStore,
    id: ApplicationId,
    missing: impl FnOnce() -> ApiError,
) -> ApiResult<(OrganizationId, Permit)> {
    match application(admin, id).await? {
        Some(resource) => Ok((organization_of(&resource), caller.write(resource)?)),
        None if caller.principal.is_global_admin() => Err(missing()),
        None => Err(ApiError::forbidden()),
    }
}

/// The resource of an application that a request names; `None` when there is no such application.
pub async fn application(admin: &dyn AdminStore, id: ApplicationId) -> ApiResult<Option<Resource>> {
    match admin.organization_of_application(id).await {
        Ok(organization) => Ok(Some(Resource::Application { application: id, organization })),
        Err(AdminError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Applications and organisations that the rows of one answer refer to, loaded together.
#[derive(Debug, Default)]
pub struct Referred {
    applications: BTreeMap<ApplicationId, ApplicationRow>,
    organizations: BTreeMap<OrganizationId, OrganizationRow>,
}

impl Referred {
    /// Loads them, each once.
    pub async fn load(
        admin: &dyn AdminStore,
        applications: impl IntoIterator<Item = ApplicationId>,
        organizations: impl IntoIterator<Item = OrganizationId>,
    ) -> ApiResult<Self> {
        let distinct = |mut ids: Vec<i64>| {
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let applications = distinct(applications.into_iter().map(|id| id.0).collect());
        let organizations = distinct(organizations.into_iter().map(|id| id.0).collect());
        let mut referred = Self::default();
        if !applications.is_empty() {
            let ids: Vec<_> = applications.into_iter().map(ApplicationId).collect();
            referred.applications = admin.applications_by_id(&ids).await?.into_iter().map(|a| (a.id, a)).collect();
        }
        if !organizations.is_empty() {
            let ids: Vec<_> = organizations.into_iter().map(OrganizationId).collect();
            referred.organizations = admin.organizations_by_id(&ids).await?.into_iter().map(|o| (o.id, o)).collect();
        }
        Ok(referred)
    }

    /// `App`.
    pub fn application(&self, id: ApplicationId) -> Value {
        self.applications.get(&id).map_or(Value::Null, view::application)
    }

    /// `Org`.
    pub fn organization(&self, id: OrganizationId) -> Value {
        self.organizations.get(&id).map_or(Value::Null, view::organization)
    }
}
