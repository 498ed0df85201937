//! Applications: reading. Writing is in `application_write`, their devices in `device_lists`.

use async_trait::async_trait;
use deadpool_postgres::GenericClient;
use sluse_schema::id::{ApplicationId, OrganizationId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::{
    AdminError, ApplicationDetail, ApplicationDraft, ApplicationListing, ApplicationQuery, ApplicationRow,
    ApplicationStore, ChangedBy, DashboardCounts, DeviceListing, DeviceSummary, Listed, MapDevice, NumDeleted, Page,
    StatusCheck, TargetSummary,
};

use super::application_list::{self, NUM_DEVICES_OF_LISTING_MAX};
use super::{PgAdminStore, application_write, device_lists, pg, row};

/// Devices of one application that a detail shows; the paged list shows all.
const NUM_DEVICES_OF_DETAIL_MAX: i64 = 10_000;
/// Whether something is wrong with `application a`: no target, or a device that has been silent for a day.
pub(super) const IS_ALERT: &str = "(NOT EXISTS (SELECT 1 FROM data_target t WHERE t.application_id = a.id) \
     OR EXISTS (SELECT 1 FROM device_state s WHERE s.application_id = a.id \
                AND s.latest_slot <= floor(extract(epoch FROM now() - interval '24 hours') / 21600)::integer \
                AND s.latest_received_at < now() - interval '24 hours'))";

/// The filter of an [`ApplicationQuery`] over `application a`, with parameters `$1` to `$5`.
pub(super) const FILTER: &str = "($1::bigint IS NULL OR a.organization_id = $1) \
     AND ($2::bigint[] IS NULL OR a.organization_id = ANY($2) OR a.id = ANY($3::bigint[])) \
     AND ($4::text IS NULL OR a.status = $4) AND ($5::text IS NULL OR a.owner = $5)";

/// Parameters of [`FILTER`].
#[derive(Debug)]
pub(super) struct FilterParams {
    pub organization: Option<i64>,
    pub organizations: Option<Vec<i64>>,
    pub applications: Vec<i64>,
}

impl FilterParams {
    pub(super) fn of(visible: &Visible, organization: Option<OrganizationId>) -> Self {
        let (organizations, applications) = match visible {
            Visible::All => (None, Vec::new()),
            Visible::Some { organizations, applications } => {
                (Some(organizations.iter().map(|o| o.0).collect()), applications.iter().map(|a| a.0).collect())
            }
        };
        Self { organization: organization.map(|o| o.0), organizations, applications }
    }
}

/// The condition of a status check.
pub(super) fn status_check(check: Option<StatusCheck>) -> String {
    match check {
        None => String::new(),
        Some(StatusCheck::Alert) => format!(" AND {IS_ALERT}"),
        Some(StatusCheck::Stable) => format!(" AND NOT {IS_ALERT}"),
    }
}

/// Applications with what belongs to them, in the order given.
pub(super) async fn details(
    db: &impl GenericClient,
    applications: Vec<ApplicationRow>,
) -> Result<Vec<ApplicationDetail>, AdminError> {
    with_parts(db, applications, NUM_DEVICES_OF_LISTING_MAX).await
}

async fn with_parts(
    db: &impl GenericClient,
    applications: Vec<ApplicationRow>,
    num_devices_max: i64,
) -> Result<Vec<ApplicationDetail>, AdminError> {
    let ids: Vec<i64> = applications.iter().map(|a| a.id.0).collect();
    let organization_ids: Vec<i64> = applications.iter().map(|a| a.organization_id.0).collect();
    let sql = format!("SELECT {} FROM organization o WHERE o.id = ANY($1)", row::ORGANIZATION);
    let organizations: Vec<_> =
        db.query(&sql, &[&organization_ids]).await.map_err(pg)?.iter().map(row::organization).collect();
    let mut permission_ids: Vec<i64> = applications.iter().flat_map(|a| a.permission_ids.iter().copied()).collect();
    permission_ids.sort_unstable();
    permission_ids.dedup();
    let permissions = row::load_permissions(db, &permission_ids).await?;
    let mut devices = device_lists::devices_by_application(db, &ids, num_devices_max).await?;
    let mut targets = targets_by_application(db, &ids).await?;
    let mut found = Vec::with_capacity(applications.len());
    for application in applications {
        let organization =
            organizations.iter().find(|o| o.id == application.organization_id).cloned().ok_or(AdminError::NotFound)?;
        let own = permissions.iter().filter(|p| application.permission_ids.contains(&p.id)).cloned().collect();
        found.push(ApplicationDetail {
            organization,
            permissions: own,
            devices: devices.remove(&application.id.0).unwrap_or_default(),
            targets: targets.remove(&application.id.0).unwrap_or_default(),
            application,
        });
    }
    Ok(found)
}

/// What a `data_target t` of each type has besides its secrets, in the API's names.
pub(super) const TARGET_SETTINGS: &str = "CASE t.type WHEN 'OPENDATADK' THEN '{}'::jsonb \
     WHEN 'MQTT' THEN jsonb_build_object('url', t.url, 'timeout', t.timeout_ms, 'mqttPort', t.mqtt_port, \
          'mqttTopic', t.mqtt_topic, 'mqttQos', t.mqtt_qos, 'mqttUsername', t.mqtt_username) \
     WHEN 'FIWARE' THEN jsonb_build_object('url', t.url, 'timeout', t.timeout_ms, 'tenant', t.tenant, \
          'context', t.context, 'tokenEndpoint', t.token_endpoint, 'clientId', t.client_id) \
     ELSE jsonb_build_object('url', t.url, 'timeout', t.timeout_ms) END";

async fn targets_by_application(
    db: &impl GenericClient,
    ids: &[i64],
) -> Result<std::collections::HashMap<i64, Vec<TargetSummary>>, AdminError> {
    let sql = format!(
        "SELECT t.application_id, t.id, t.type, t.name, t.last_message_at, {TARGET_SETTINGS} AS settings, \
         t.secrets_enc IS NOT NULL AS has_secrets, t.created_at AS t_created_at, t.updated_at AS t_updated_at, \
         t.created_by AS t_created_by, t.updated_by AS t_updated_by \
         FROM data_target t WHERE t.application_id = ANY($1) ORDER BY t.id"
    );
    let mut found: std::collections::HashMap<i64, Vec<TargetSummary>> = std::collections::HashMap::new();
    for r in db.query(&sql, &[&ids]).await.map_err(pg)? {
        let target = TargetSummary {
            id: r.get("id"),
            r#type: r.get("type"),
            name: r.get("name"),
            last_message_at: r.get("last_message_at"),
            settings: r.get("settings"),
            has_secrets: r.get("has_secrets"),
            stamps: row::stamps(&r, "t"),
        };
        found.entry(r.get("application_id")).or_default().push(target);
    }
    Ok(found)
}

/// One application with everything.
pub(super) async fn load(db: &impl GenericClient, id: ApplicationId) -> Result<ApplicationDetail, AdminError> {
    let sql = format!("SELECT {} FROM application a WHERE a.id = $1", row::APPLICATION);
    let found = db.query_opt(&sql, &[&id.0]).await.map_err(pg)?.ok_or(AdminError::NotFound)?;
    let rows = with_parts(db, vec![row::application(&found)], NUM_DEVICES_OF_DETAIL_MAX).await?;
    rows.into_iter().next().ok_or(AdminError::NotFound)
}

#[async_trait]
impl ApplicationStore for PgAdminStore {
    async fn create_application(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        draft: &ApplicationDraft,
    ) -> Result<ApplicationDetail, AdminError> {
        application_write::create(self, permit, by, draft).await
    }

    async fn update_application(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: ApplicationId,
        draft: &ApplicationDraft,
    ) -> Result<ApplicationDetail, AdminError> {
        application_write::update(self, permit, target_permit, by, id, draft).await
    }

    async fn move_application(
        &self,
        permit: &Permit,
        target_permit: &Permit,
        by: &ChangedBy,
        id: ApplicationId,
        organization: OrganizationId,
        permissions: &[i64],
    ) -> Result<ApplicationDetail, AdminError> {
        application_write::relocate(self, permit, target_permit, by, id, organization, permissions).await
    }

    async fn delete_application(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: ApplicationId,
    ) -> Result<NumDeleted, AdminError> {
        application_write::delete(self, permit, by, id).await
    }

    async fn organization_of_application(&self, id: ApplicationId) -> Result<OrganizationId, AdminError> {
        let client = self.client().await?;
        let statement =
            client.prepare_cached("SELECT organization_id FROM application WHERE id = $1").await.map_err(pg)?;
        let found = client.query_opt(&statement, &[&id.0]).await.map_err(pg)?;
        found.map(|r| OrganizationId(r.get(0))).ok_or(AdminError::NotFound)
    }

    async fn application(&self, id: ApplicationId) -> Result<ApplicationDetail, AdminError> {
        let client = self.client().await?;
        load(&client, id).await
    }

    async fn applications(
        &self,
        query: &ApplicationQuery,
        page: &Page,
    ) -> Result<Listed<ApplicationListing>, AdminError> {
        application_list::page(&self.client().await?, query, page).await
    }

    async fn application_owners(
        &self,
        visible: &Visible,
        organization: OrganizationId,
    ) -> Result<Vec<Option<String>>, AdminError> {
        let client = self.client().await?;
        let filter = FilterParams::of(visible, Some(organization));
        let sql = format!("SELECT DISTINCT a.owner FROM application a WHERE {FILTER} ORDER BY 1 NULLS FIRST");
        let nothing: Option<&str> = None;
        let rows = client
            .query(&sql, &[&filter.organization, &filter.organizations, &filter.applications, &nothing, &nothing])
            .await
            .map_err(pg)?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    async fn dashboard_counts(
        &self,
        visible: &Visible,
        organization: OrganizationId,
    ) -> Result<DashboardCounts, AdminError> {
        let client = self.client().await?;
        let filter = FilterParams::of(visible, Some(organization));
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE {IS_ALERT}), \
             COALESCE(sum((SELECT count(*) FROM iot_device d WHERE d.application_id = a.id)), 0)::bigint \
             FROM application a WHERE {FILTER}"
        );
        let nothing: Option<&str> = None;
        let found = client
            .query_one(&sql, &[&filter.organization, &filter.organizations, &filter.applications, &nothing, &nothing])
            .await
            .map_err(pg)?;
        Ok(DashboardCounts { num_applications: found.get(0), num_with_error: found.get(1), num_devices: found.get(2) })
    }

    async fn application_devices(&self, id: ApplicationId, page: &Page) -> Result<Listed<DeviceListing>, AdminError> {
        let client = self.client().await?;
        device_lists::page(&client, id, page).await
    }

    async fn application_map(&self, id: ApplicationId) -> Result<Vec<MapDevice>, AdminError> {
        let client = self.client().await?;
        device_lists::map(&client, id).await
    }

    async fn organization_devices(
        &self,
        query: &ApplicationQuery,
        limit: i64,
    ) -> Result<Vec<DeviceSummary>, AdminError> {
        let client = self.client().await?;
        device_lists::of_query(&client, query, limit).await
    }
}
