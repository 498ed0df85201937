//! The list of applications in two statements, whatever the number of applications, targets and devices: the page with all that
//! belongs to each but its devices, then the devices of all of them with their state.
//!
//! Limits: [`NUM_DEVICES_OF_LISTING_MAX`] devices of one application; the paged list of its devices shows all.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use serde::Deserialize;
use sluse_schema::port::admin::{
    AdminError, ApplicationDetail, ApplicationListing, ApplicationQuery, Listed, Page, Stamps, StatusCheck,
    TargetSummary,
};
use tokio_postgres::types::Json;

use super::application::{FILTER, FilterParams, IS_ALERT, TARGET_SETTINGS, status_check};
use super::{device_lists, pg, row};

/// Devices of one application that a list shows.
pub(super) const NUM_DEVICES_OF_LISTING_MAX: i64 = 1_000;

#[derive(Deserialize)]
struct Target {
    id: i64,
    r#type: String,
    name: String,
    last_message_at: Option<DateTime<Utc>>,
    settings: serde_json::Value,
    has_secrets: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    created_by: Option<i64>,
    updated_by: Option<i64>,
}

impl From<Target> for TargetSummary {
    fn from(target: Target) -> Self {
        Self {
            id: target.id,
            r#type: target.r#type,
            name: target.name,
            last_message_at: target.last_message_at,
            settings: target.settings,
            has_secrets: target.has_secrets,
            stamps: Stamps {
                created_at: target.created_at,
                updated_at: target.updated_at,
                created_by: target.created_by,
                updated_by: target.updated_by,
            },
        }
    }
}

/// What the API's name of an order means.
fn order_of(page: &Page) -> &'static str {
    match page.order_on.as_deref() {
        Some("name") => "a.name",
        Some("updatedAt") => "a.updated_at",
        Some("status") => "a.status",
        Some("startDate") => "a.start_date",
        Some("endDate") => "a.end_date",
        Some("owner") => "a.owner",
        Some("contactPerson") => "a.contact_person",
        Some("personalData") => "a.personal_data",
        Some("devices") => "(SELECT count(*) FROM iot_device d WHERE d.application_id = a.id)",
        Some("dataTargets") => "(SELECT count(*) FROM data_target t WHERE t.application_id = a.id)",
        Some("openDataDkEnabled") => {
            // Upwards, those that share something come first: so the reference sorts.
            "(NOT EXISTS (SELECT 1 FROM data_target t WHERE t.application_id = a.id AND t.type = 'OPENDATADK'))"
        }
        _ => "a.id",
    }
}

/// A page of applications.
pub(super) async fn page(
    db: &impl GenericClient,
    query: &ApplicationQuery,
    page: &Page,
) -> Result<Listed<ApplicationListing>, AdminError> {
    let filter = FilterParams::of(&query.visible, query.organization);
    let condition = format!("{FILTER}{}", status_check(query.status_check));
    let order = order_of(page);
    let direction = row::direction_of_known(page, order, "a.id");
    let sql = format!(
        "WITH page AS ( \
            SELECT a.*, count(*) OVER () AS num_all, row_number() OVER (ORDER BY {order} {direction}, a.id) AS place \
            FROM application a WHERE {condition} ORDER BY place LIMIT $6 OFFSET $7) \
         SELECT {}, {}, a.num_all, {IS_ALERT} AS is_alert, \
            (SELECT jsonb_agg(jsonb_build_object('id', t.id, 'type', t.type, 'name', t.name, 'last_message_at', t.last_message_at, \
                    'settings', {TARGET_SETTINGS}, 'has_secrets', t.secrets_enc IS NOT NULL, \
                    'created_at', t.created_at, 'updated_at', t.updated_at, 'created_by', t.created_by, \
                    'updated_by', t.updated_by) ORDER BY t.id) \
             FROM data_target t WHERE t.application_id = a.id) AS targets \
         FROM page a JOIN organization o ON o.id = a.organization_id ORDER BY a.place",
        row::APPLICATION,
        row::ORGANIZATION
    );
    let rows = db
        .query(
            &sql,
            &[
                &filter.organization,
                &filter.organizations,
                &filter.applications,
                &query.status,
                &query.owner,
                &page.limit,
                &page.offset,
            ],
        )
        .await
        .map_err(pg)?;
    let Some(first) = rows.first() else {
        // Beyond the end, or nothing at all: only here the number is not in the rows.
        let count = format!("SELECT count(*) FROM application a WHERE {condition}");
        let found = db
            .query_one(
                &count,
                &[&filter.organization, &filter.organizations, &filter.applications, &query.status, &query.owner],
            )
            .await
            .map_err(pg)?;
        return Ok(Listed { rows: Vec::new(), num_all: found.get(0) });
    };
    let num_all = first.get("num_all");
    let ids: Vec<i64> = rows.iter().map(|r| r.get("a_id")).collect();
    let mut devices = device_lists::devices_by_application(db, &ids, NUM_DEVICES_OF_LISTING_MAX).await?;
    let listing = |r: &tokio_postgres::Row, devices: &mut HashMap<i64, _>| {
        let application = row::application(r);
        let targets: Option<Json<Vec<Target>>> = r.try_get("targets").map_err(pg)?;
        let is_alert: bool = r.try_get("is_alert").map_err(pg)?;
        Ok(ApplicationListing {
            detail: ApplicationDetail {
                organization: row::organization(r),
                // A list names the groups by their ids alone.
                permissions: Vec::new(),
                devices: devices.remove(&application.id.0).unwrap_or_default(),
                targets: targets.map(|Json(targets)| targets.into_iter().map(Into::into).collect()).unwrap_or_default(),
                application,
            },
            status_check: if is_alert { StatusCheck::Alert } else { StatusCheck::Stable },
        })
    };
    let rows = rows.iter().map(|r| listing(r, &mut devices)).collect::<Result<_, AdminError>>()?;
    Ok(Listed { rows, num_all })
}
