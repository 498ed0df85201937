//! Gateways as rows in PostgreSQL, and their connection over time. Lists are bounded by organisation in the statement itself.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{GatewayId, OrganizationId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::gateway::{
    GatewayAdminStore, GatewayFields, GatewayFigures, GatewayHistory, GatewayRow, Organizations,
};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::{covers, stamps};
use super::{PgAdminStore, pg, row, secrets};

/// States of one gateway that a history holds at most: the newest.
const NUM_STATES_MAX: i64 = 2000;

fn select() -> String {
    format!("SELECT g.*, {} FROM gateway g LEFT JOIN organization o ON o.id = g.organization_id", row::ORGANIZATION)
}

/// What a gateway is to the policy: its organisation's, or nobody's.
pub(super) fn resource(organization: Option<OrganizationId>) -> Resource {
    organization.map_or(Resource::Platform, Resource::OrganizationGateways)
}

pub(super) fn organization_ids(of: &Organizations) -> Option<Vec<i64>> {
    of.as_ref().map(|ids| ids.iter().map(|id| id.0).collect())
}

fn id_of(row: &Row, column: &str) -> Result<GatewayId, AdminError> {
    let text: &str = row.try_get(column).map_err(pg)?;
    text.parse().map_err(|_| secrets::unreadable("gateway.gateway_id"))
}

fn gateway_of(row: &Row) -> Result<GatewayRow, AdminError> {
    let tags: Value = row.try_get("tags").map_err(pg)?;
    let text = |name: &str| row.try_get::<_, Option<String>>(name).map_err(pg);
    let flag = |name: &str| row.try_get::<_, Option<bool>>(name).map_err(pg);
    let number = |name: &str| row.try_get::<_, Option<i64>>(name).map_err(pg);
    let place = |name: &str| row.try_get::<_, Option<f64>>(name).map_err(pg);
    Ok(GatewayRow {
        id: row.try_get("id").map_err(pg)?,
        gateway: id_of(row, "gateway_id")?,
        organization: row::organization_opt(row),
        fields: GatewayFields {
            name: row.try_get("name").map_err(pg)?,
            description: text("description")?,
            longitude: place("longitude")?,
            latitude: place("latitude")?,
            altitude: place("altitude")?,
            tags: serde_json::from_value(tags).unwrap_or_default(),
            placement: text("placement")?,
            model_name: text("model_name")?,
            antenna_type: text("antenna_type")?,
            status: text("status")?,
            gateway_responsible_name: text("gateway_responsible_name")?,
            gateway_responsible_email: text("gateway_responsible_email")?,
            gateway_responsible_phone_number: text("gateway_responsible_phone_number")?,
            operational_responsible_name: text("operational_responsible_name")?,
            operational_responsible_email: text("operational_responsible_email")?,
            notify_offline: flag("notify_offline")?,
            notify_unusual_packages: flag("notify_unusual_packages")?,
            offline_alarm_threshold_minutes: number("offline_alarm_threshold_minutes")?,
            minimum_packages: number("minimum_packages")?,
            maximum_packages: number("maximum_packages")?,
            alarm_mail: text("alarm_mail")?,
        },
        num_received: row.try_get("rx_packets_received").map_err(pg)?,
        num_sent: row.try_get("tx_packets_emitted").map_err(pg)?,
        last_seen_at: row.try_get("last_seen_at").map_err(pg)?,
        has_sent_offline_notification: flag("has_sent_offline_notification")?,
        stamps: stamps(row)?,
    })
}

/// The column that a list is ordered by, in the API's names.
fn order(page: &Page) -> String {
    let column = match page.order_on.as_deref() {
        Some("organizationName") => "o.name",
        Some("status" | "lastSeenAt") => "g.last_seen_at",
        Some("name") => "g.name",
        Some("gatewayId") => "g.gateway_id",
        Some("rxPacketsReceived") => "g.rx_packets_received",
        Some("txPacketsEmitted") => "g.tx_packets_emitted",
        Some("placement") => "g.placement",
        Some("modelName") => "g.model_name",
        Some("antennaType") => "g.antenna_type",
        Some("createdAt") => "g.created_at",
        Some("updatedAt") => "g.updated_at",
        Some("tags") => "g.tags::text",
        _ => "g.id",
    };
    let (direction, nulls) = if page.is_descending { ("DESC", "NULLS LAST") } else { ("ASC", "NULLS FIRST") };
    format!("{column} {direction} {nulls}, g.id {direction}")
}

impl PgAdminStore {
    async fn one_gateway(
        &self,
        db: &impl deadpool_postgres::GenericClient,
        column: &str,
        key: &(dyn tokio_postgres::types::ToSql + Sync),
    ) -> Result<GatewayRow, AdminError> {
        let sql = format!("{} WHERE g.{column} = $1", select());
        let row = db.query_opt(&sql, &[key]).await.map_err(pg)?.ok_or(AdminError::NotFound)?;
        gateway_of(&row)
    }

    /// The gateway as it is before a write, once the permit was checked against its row. Locks the row.
    async fn begin_gateway_change(
        &self,
        write: &Write<'_>,
        gateway: GatewayId,
    ) -> Result<(GatewayRow, Option<Value>), AdminError> {
        let found = self.one_gateway(write.db(), "gateway_id", &gateway.to_string()).await?;
        let snapshot = write.snapshot(ChangedEntity::Gateway, found.id).await?.ok_or(AdminError::NotFound)?;
        let locked = self.one_gateway(write.db(), "id", &found.id).await?;
        write.check(&resource(locked.organization.as_ref().map(|o| o.id)))?;
        Ok((locked, Some(snapshot)))
    }

    /// Writes the columns that people set.
    async fn write_gateway(&self, write: &Write<'_>, id: i64, fields: &GatewayFields) -> Result<(), AdminError> {
        write
            .db()
            .execute(
                "UPDATE gateway SET name = $2, description = $3, longitude = $4, latitude = $5, altitude = $6, tags = $7, \
                 placement = $8, model_name = $9, antenna_type = $10, status = $11, gateway_responsible_name = $12, \
                 gateway_responsible_email = $13, gateway_responsible_phone_number = $14, \
                 operational_responsible_name = $15, operational_responsible_email = $16, notify_offline = $17, \
                 notify_unusual_packages = $18, offline_alarm_threshold_minutes = $19, minimum_packages = $20, \
                 maximum_packages = $21, alarm_mail = $22, updated_by = $23, updated_at = now() WHERE id = $1",
                &[
                    &id,
                    &fields.name,
                    &fields.description,
                    &fields.longitude,
                    &fields.latitude,
                    &fields.altitude,
                    &tags(&fields.tags),
                    &fields.placement,
                    &fields.model_name,
                    &fields.antenna_type,
                    &fields.status,
                    &fields.gateway_responsible_name,
                    &fields.gateway_responsible_email,
                    &fields.gateway_responsible_phone_number,
                    &fields.operational_responsible_name,
                    &fields.operational_responsible_email,
                    &fields.notify_offline,
                    &fields.notify_unusual_packages,
                    &fields.offline_alarm_threshold_minutes,
                    &fields.minimum_packages,
                    &fields.maximum_packages,
                    &fields.alarm_mail,
                    &write.user_id(),
                ],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }
}

/// What only the jobs need.
impl PgAdminStore {
    /// Those of these gateways that have no row.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn gateways_without_row(&self, ids: &[GatewayId]) -> Result<Vec<GatewayId>, AdminError> {
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let sql = "SELECT n.id FROM unnest($1::text[]) AS n(id) LEFT JOIN gateway g ON g.gateway_id = n.id WHERE g.id IS NULL";
        let rows = self.client().await?.query(sql, &[&texts]).await.map_err(pg)?;
        rows.iter().map(|row| id_of(row, "id")).collect()
    }

    /// Begins the history of gateways that have none: online when they were heard within 150 seconds.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn seed_gateway_states(&self) -> Result<(), AdminError> {
        self.client()
            .await?
            .execute(
                "INSERT INTO gateway_status_history (gateway_id, was_online, heard_at) \
                 SELECT g.gateway_id, COALESCE(g.last_seen_at > now() - interval '150 seconds', false), now() FROM gateway g \
                 WHERE NOT EXISTS (SELECT 1 FROM gateway_status_history h WHERE h.gateway_id = g.gateway_id) \
                 ON CONFLICT DO NOTHING",
                &[],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }

    /// Gateways that were heard once, whose packets are to be judged, and were not yet on this day; at most `num_max`.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn gateways_to_judge(&self, day: NaiveDate, num_max: i64) -> Result<Vec<GatewayRow>, AdminError> {
        let sql = format!(
            "{} WHERE g.alarm_mail <> '' AND g.notify_unusual_packages AND g.last_seen_at IS NOT NULL \
             AND g.packets_judged_on IS DISTINCT FROM $1 ORDER BY g.id LIMIT $2",
            select()
        );
        let rows = self.client().await?.query(&sql, &[&day, &num_max]).await.map_err(pg)?;
        rows.iter().map(gateway_of).collect()
    }

    /// Remembers that a gateway's packets were judged; `updatedAt` stays.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn mark_packets_judged(&self, gateway: GatewayId, day: NaiveDate) -> Result<(), AdminError> {
        let sql = "UPDATE gateway SET packets_judged_on = $2 WHERE gateway_id = $1";
        self.client().await?.execute(sql, &[&gateway.to_string(), &day]).await.map_err(pg)?;
        Ok(())
    }

    /// A moment as a Dane writes it, by his own clock.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn danish_time(&self, at: DateTime<Utc>) -> Result<String, AdminError> {
        let sql = "SELECT to_char($1::timestamptz AT TIME ZONE 'Europe/Copenhagen', 'FMDD.FMMM.YYYY HH24.MI.SS')";
        self.client().await?.query_one(sql, &[&at]).await.map_err(pg)?.try_get(0).map_err(pg)
    }

    /// The day that a daily job was last done for.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn job_day(&self, name: &str) -> Result<Option<NaiveDate>, AdminError> {
        let sql = "SELECT value FROM setting WHERE name = 'job_day.' || $1";
        let row = self.client().await?.query_opt(sql, &[&name]).await.map_err(pg)?;
        let text: Option<String> = row.map(|row| row.try_get(0)).transpose().map_err(pg)?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// Remembers the day that a daily job was done for.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn set_job_day(&self, name: &str, day: NaiveDate) -> Result<(), AdminError> {
        let sql = "INSERT INTO setting (name, value) VALUES ('job_day.' || $1, $2) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.client().await?.execute(sql, &[&name, &day.to_string()]).await.map_err(pg)?;
        Ok(())
    }
}

fn tags(tags: &BTreeMap<String, String>) -> Value {
    tags.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
}

#[async_trait]
impl GatewayAdminStore for PgAdminStore {
    async fn gateways(&self, of: &Organizations, page: &Page) -> Result<Listed<GatewayRow>, AdminError> {
        const WHERE: &str = "WHERE ($1::bigint[] IS NULL OR g.organization_id = ANY($1))";
        let client = self.client().await?;
        let ids = organization_ids(of);
        let sql = format!("{} {WHERE} ORDER BY {} LIMIT $2 OFFSET $3", select(), order(page));
        let rows = client.query(&sql, &[&ids, &page.limit, &page.offset]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM gateway g {WHERE}");
        let num_all = client.query_one(&count, &[&ids]).await.map_err(pg)?.try_get(0).map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(gateway_of).collect::<Result<_, _>>()?, num_all })
    }

    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRow, AdminError> {
        self.one_gateway(&self.client().await?, "gateway_id", &gateway.to_string()).await
    }

    async fn gateway_by_row(&self, id: i64) -> Result<GatewayRow, AdminError> {
        self.one_gateway(&self.client().await?, "id", &id).await
    }

    async fn find_gateways(&self, of: &Organizations, text: &str, num_max: i64) -> Result<Vec<GatewayRow>, AdminError> {
        let sql = format!(
            "{} WHERE ($1::bigint[] IS NULL OR g.organization_id = ANY($1)) \
             AND (strpos(lower(g.name), lower($2)) > 0 OR strpos(g.gateway_id, lower($2)) > 0) \
             ORDER BY g.updated_at DESC, g.id LIMIT $3",
            select()
        );
        let rows = self.client().await?.query(&sql, &[&organization_ids(of), &text, &num_max]).await.map_err(pg)?;
        rows.iter().map(gateway_of).collect()
    }

    async fn gateway_histories(
        &self,
        of: &Organizations,
        only: Option<GatewayId>,
        from: DateTime<Utc>,
        page: &Page,
    ) -> Result<Listed<GatewayHistory>, AdminError> {
        const WHERE: &str = "WHERE ($1::bigint[] IS NULL OR g.organization_id = ANY($1)) \
             AND ($2::text IS NULL OR g.gateway_id = $2)";
        let client = self.client().await?;
        let (ids, only) = (organization_ids(of), only.map(|gateway| gateway.to_string()));
        // One statement for all: their newest states since `from`, and the last one before, put there.
        let sql = format!(
            "SELECT g.gateway_id, g.name, h.at, h.was_online \
             FROM (SELECT g.id, g.gateway_id, g.name FROM gateway g {WHERE} ORDER BY g.id LIMIT $4 OFFSET $5) g \
             LEFT JOIN LATERAL ( \
                 (SELECT heard_at AS at, was_online FROM gateway_status_history s \
                  WHERE s.gateway_id = g.gateway_id AND s.heard_at > $3 ORDER BY s.heard_at DESC LIMIT $6) \
                 UNION ALL \
                 (SELECT $3, was_online FROM gateway_status_history s \
                  WHERE s.gateway_id = g.gateway_id AND s.heard_at <= $3 ORDER BY s.heard_at DESC LIMIT 1)) h ON true \
             ORDER BY g.id, h.at"
        );
        let rows =
            client.query(&sql, &[&ids, &only, &from, &page.limit, &page.offset, &NUM_STATES_MAX]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM gateway g {WHERE}");
        let num_all = client.query_one(&count, &[&ids, &only]).await.map_err(pg)?.try_get(0).map_err(pg)?;
        let mut histories: Vec<GatewayHistory> = Vec::new();
        for row in &rows {
            let gateway = id_of(row, "gateway_id")?;
            if histories.last().is_none_or(|last| last.gateway != gateway) {
                let name = row.try_get("name").map_err(pg)?;
                histories.push(GatewayHistory { gateway, name, states: Vec::new() });
            }
            let at: Option<DateTime<Utc>> = row.try_get("at").map_err(pg)?;
            if let (Some(at), Some(history)) = (at, histories.last_mut()) {
                history.states.push((at, row.try_get("was_online").map_err(pg)?));
            }
        }
        Ok(Listed { rows: histories, num_all })
    }

    async fn create_gateway(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
        organization: Option<OrganizationId>,
        fields: &GatewayFields,
    ) -> Result<GatewayRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&resource(organization))?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO gateway (gateway_id, organization_id, name, created_by) VALUES ($1, $2, $3, $4) RETURNING id",
                &[&gateway.to_string(), &organization.map(|o| o.0), &fields.name, &write.user_id()],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        self.write_gateway(&write, id, fields).await?;
        write.record(ChangeAction::Create, ChangedEntity::Gateway, id, None).await?;
        let made = self.one_gateway(write.db(), "id", &id).await?;
        write.commit().await?;
        Ok(made)
    }

    async fn update_gateway(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
        fields: &GatewayFields,
    ) -> Result<GatewayRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = self.begin_gateway_change(&write, gateway).await?;
        self.write_gateway(&write, before.id, fields).await?;
        write.record(ChangeAction::Update, ChangedEntity::Gateway, before.id, snapshot).await?;
        let changed = self.one_gateway(write.db(), "id", &before.id).await?;
        write.commit().await?;
        Ok(changed)
    }

    async fn move_gateway(
        &self,
        permit: &Permit,
        target: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
        organization: OrganizationId,
    ) -> Result<GatewayRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = self.begin_gateway_change(&write, gateway).await?;
        covers(Some(target), &resource(Some(organization)))?;
        write
            .db()
            .execute(
                "UPDATE gateway SET organization_id = $2, updated_by = $3, updated_at = now() WHERE id = $1",
                &[&before.id, &organization.0, &write.user_id()],
            )
            .await
            .map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::Gateway, before.id, snapshot).await?;
        let changed = self.one_gateway(write.db(), "id", &before.id).await?;
        write.commit().await?;
        Ok(changed)
    }

    async fn delete_gateway(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        gateway: GatewayId,
    ) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = self.begin_gateway_change(&write, gateway).await?;
        let num = write.db().execute("DELETE FROM gateway WHERE id = $1", &[&before.id]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Gateway, before.id, snapshot).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }

    async fn store_gateway_figures(&self, figures: &[GatewayFigures]) -> Result<(), AdminError> {
        let gateways: Vec<String> = figures.iter().map(|f| f.gateway.to_string()).collect();
        let received: Vec<i64> = figures.iter().map(|f| f.num_received).collect();
        let sent: Vec<i64> = figures.iter().map(|f| f.num_sent).collect();
        let seen: Vec<Option<DateTime<Utc>>> = figures.iter().map(|f| f.last_seen_at).collect();
        self.client()
            .await?
            .execute(
                "UPDATE gateway g SET rx_packets_received = n.received, tx_packets_emitted = n.sent, \
                 last_seen_at = GREATEST(g.last_seen_at, n.seen) \
                 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[]) AS n(gateway_id, received, sent, seen) \
                 WHERE g.gateway_id = n.gateway_id AND (g.rx_packets_received, g.tx_packets_emitted, g.last_seen_at) \
                       IS DISTINCT FROM (n.received, n.sent, GREATEST(g.last_seen_at, n.seen))",
                &[&gateways, &received, &sent, &seen],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }

    async fn mark_offline_notified(&self, gateway: GatewayId, is_notified: bool) -> Result<bool, AdminError> {
        let num = self
            .client()
            .await?
            .execute(
                "UPDATE gateway SET has_sent_offline_notification = $2 \
                 WHERE gateway_id = $1 AND COALESCE(has_sent_offline_notification, false) <> $2",
                &[&gateway.to_string(), &is_notified],
            )
            .await
            .map_err(pg)?;
        Ok(num > 0)
    }

    async fn gateways_with_alarms(&self, num_max: i64) -> Result<Vec<GatewayRow>, AdminError> {
        let sql = format!(
            "{} WHERE g.alarm_mail <> '' AND (g.notify_offline OR g.notify_unusual_packages) ORDER BY g.id LIMIT $1",
            select()
        );
        let rows = self.client().await?.query(&sql, &[&num_max]).await.map_err(pg)?;
        rows.iter().map(gateway_of).collect()
    }
}
