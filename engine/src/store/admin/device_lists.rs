//! Devices as lists show them: of an application, on its map, on an organisation's map. Without secrets; with payloads only where
//! the reference's web client may look at them, on an application's page, and up to 8 KiB each.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use serde_json::Value;
use sluse_schema::id::ApplicationId;
use sluse_schema::port::admin::{
    AdminError, ApplicationQuery, DeviceListing, DeviceSummary, LatestSummary, Listed, MapDevice, Page, Stamps,
};
use tokio_postgres::Row;

use super::application::{FILTER, FilterParams, status_check};
use super::{pg, row};

/// Columns of `iot_device d` with `device_state s` joined from the outside.
const DEVICE: &str = "d.id AS d_id, d.application_id AS d_application_id, d.type AS d_type, d.name AS d_name, \
     d.longitude AS d_longitude, d.latitude AS d_latitude, d.comment_on_location AS d_comment_on_location, \
     d.comment AS d_comment, d.metadata AS d_metadata, d.device_eui AS d_device_eui, d.settings AS d_settings, \
     d.created_at AS d_created_at, d.updated_at AS d_updated_at, d.created_by AS d_created_by, d.updated_by AS d_updated_by, \
     s.latest_received_at AS s_received_at, COALESCE(s.latest_event_at, s.latest_received_at) AS s_sent_at, \
     s.rssi_dbm AS s_rssi_dbm, s.snr_db AS s_snr_db";

fn device(r: &Row) -> DeviceSummary {
    let latest = match (r.get("s_sent_at"), r.get("s_received_at")) {
        (Some(sent_at), Some(received_at)) => {
            Some(LatestSummary { sent_at, received_at, rssi_dbm: r.get("s_rssi_dbm"), snr_db: r.get("s_snr_db") })
        }
        _ => None,
    };
    DeviceSummary {
        id: r.get("d_id"),
        application_id: ApplicationId(r.get("d_application_id")),
        r#type: r.get("d_type"),
        name: r.get("d_name"),
        longitude: r.get("d_longitude"),
        latitude: r.get("d_latitude"),
        comment_on_location: r.get("d_comment_on_location"),
        comment: r.get("d_comment"),
        metadata: r.get("d_metadata"),
        device_eui: r.get("d_device_eui"),
        settings: r.get("d_settings"),
        latest,
        stamps: row::stamps(r, "d"),
    }
}

/// Longest payload that a list shows, in bytes.
const PAYLOAD_BYTES_MAX: usize = 8 * 1024;

/// Devices of these applications, at most `num_max` of each.
pub async fn devices_by_application(
    db: &impl GenericClient,
    ids: &[i64],
    num_max: i64,
) -> Result<HashMap<i64, Vec<DeviceSummary>>, AdminError> {
    let sql = format!(
        "SELECT {DEVICE} FROM unnest($1::bigint[]) AS wanted(id) \
         CROSS JOIN LATERAL (SELECT * FROM iot_device i WHERE i.application_id = wanted.id ORDER BY i.id LIMIT $2) d \
         LEFT JOIN device_state s ON s.device_id = d.id ORDER BY d.id"
    );
    let mut found: HashMap<i64, Vec<DeviceSummary>> = HashMap::new();
    for r in db.query(&sql, &[&ids, &num_max]).await.map_err(pg)? {
        let device = device(&r);
        found.entry(device.application_id.0).or_default().push(device);
    }
    Ok(found)
}

/// A page of an application's devices.
pub async fn page(
    db: &impl GenericClient,
    id: ApplicationId,
    page: &Page,
) -> Result<Listed<DeviceListing>, AdminError> {
    // What is ordered by the device alone is cut to the page before anything is joined.
    let (order, is_of_device) = match page.order_on.as_deref() {
        Some("name") => ("d.name", true),
        Some("commentOnLocation") => ("d.comment_on_location", true),
        Some("active") => ("s.latest_received_at", false),
        Some("rssi") => ("s.rssi_dbm", false),
        Some("snr") => ("s.snr_db", false),
        Some("deviceModel") => ("m.body->>'name'", false),
        Some("dataTargets") => ("(SELECT count(*) FROM connection_device c WHERE c.device_id = d.id)", true),
        _ => ("d.id", true),
    };
    let order = match (order, page.is_descending) {
        ("d.id", true) => "d.id DESC".to_owned(),
        ("d.id", false) => "d.id".to_owned(),
        (order, true) => format!("{order} DESC NULLS LAST, d.id"),
        (order, false) => format!("{order} ASC NULLS FIRST, d.id"),
    };
    const OF_APPLICATION: &str = "WHERE d.application_id = $1";
    let cut = format!("ORDER BY {order} LIMIT $2 OFFSET $3");
    let (devices, condition) = if is_of_device {
        (format!("(SELECT * FROM iot_device d {OF_APPLICATION} {cut}) d"), String::new())
    } else {
        ("iot_device d".to_owned(), format!("{OF_APPLICATION} {cut}"))
    };
    let last = if is_of_device { format!("ORDER BY {order}") } else { String::new() };
    let sql = format!(
        "SELECT {DEVICE}, s.link AS s_link, \
         CASE WHEN octet_length(s.latest_payload) <= {PAYLOAD_BYTES_MAX} THEN s.latest_payload END AS s_payload, m.id AS m_id, m.body AS m_body, m.created_at AS m_created_at, \
         m.updated_at AS m_updated_at, m.created_by AS m_created_by, m.updated_by AS m_updated_by \
         FROM {devices} LEFT JOIN device_state s ON s.device_id = d.id \
         LEFT JOIN device_model m ON m.id = d.device_model_id {condition} {last}"
    );
    let rows = db.query(&sql, &[&id.0, &page.limit, &page.offset]).await.map_err(pg)?;
    let count = "SELECT count(*) FROM iot_device WHERE application_id = $1";
    let num_all = db.query_one(count, &[&id.0]).await.map_err(pg)?.get(0);
    let ids: Vec<i64> = rows.iter().map(|r| r.get("d_id")).collect();
    let mut connections = connections_by_device(db, &ids).await?;
    let rows = rows
        .iter()
        .map(|r| {
            let model: Option<i64> = r.get("m_id");
            DeviceListing {
                device_model: model.map(|id| (id, r.get("m_body"), row::stamps(r, "m"))),
                connections: connections.remove(&r.get("d_id")).unwrap_or_default(),
                battery_level_percent: r.get::<_, Option<&[u8]>>("s_link").and_then(battery_level),
                latest_payload: r.get("s_payload"),
                device: device(r),
            }
        })
        .collect();
    Ok(Listed { rows, num_all })
}

fn battery_level(link: &[u8]) -> Option<f32> {
    let link: Value = serde_json::from_slice(link).ok()?;
    link.get("batteryLevelPercent")?.as_f64().map(|percent| percent as f32)
}

async fn connections_by_device(
    db: &impl GenericClient,
    ids: &[i64],
) -> Result<HashMap<i64, Vec<(i64, Stamps)>>, AdminError> {
    let sql = "SELECT l.device_id, c.id, c.created_at AS c_created_at, c.updated_at AS c_updated_at, \
               c.created_by AS c_created_by, c.updated_by AS c_updated_by \
               FROM connection_device l JOIN connection c ON c.id = l.connection_id \
               WHERE l.device_id = ANY($1) ORDER BY c.id";
    let mut found: HashMap<i64, Vec<(i64, Stamps)>> = HashMap::new();
    for r in db.query(sql, &[&ids]).await.map_err(pg)? {
        found.entry(r.get("device_id")).or_default().push((r.get("id"), row::stamps(&r, "c")));
    }
    Ok(found)
}

/// Every device of an application, for its map.
pub async fn map(db: &impl GenericClient, id: ApplicationId) -> Result<Vec<MapDevice>, AdminError> {
    let sql = "SELECT d.id, d.type, d.name, d.longitude, d.latitude, \
               COALESCE(s.latest_event_at, s.latest_received_at) AS sent_at \
               FROM iot_device d LEFT JOIN device_state s ON s.device_id = d.id WHERE d.application_id = $1 ORDER BY d.id DESC";
    let rows = db.query(sql, &[&id.0]).await.map_err(pg)?;
    Ok(rows
        .iter()
        .map(|r| MapDevice {
            id: r.get("id"),
            r#type: r.get("type"),
            name: r.get("name"),
            longitude: r.get("longitude"),
            latitude: r.get("latitude"),
            latest_sent_at: r.get("sent_at"),
        })
        .collect())
}

/// Devices of the applications that a query finds.
pub async fn of_query(
    db: &impl GenericClient,
    query: &ApplicationQuery,
    limit: i64,
) -> Result<Vec<DeviceSummary>, AdminError> {
    let filter = FilterParams::of(&query.visible, query.organization);
    let sql = format!(
        "SELECT {DEVICE} FROM iot_device d JOIN application a ON a.id = d.application_id \
         LEFT JOIN device_state s ON s.device_id = d.id WHERE {FILTER}{} ORDER BY d.id LIMIT $6",
        status_check(query.status_check)
    );
    let rows = db
        .query(
            &sql,
            &[&filter.organization, &filter.organizations, &filter.applications, &query.status, &query.owner, &limit],
        )
        .await
        .map_err(pg)?;
    Ok(rows.iter().map(device).collect())
}
