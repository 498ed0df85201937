//! The change log and the system log: lines about what changed nothing, and reading both.
//!
//! Lists are bounded: pages by their limit, the count by [`LOG_COUNT_MAX`]. Every filter has an index to go by.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::port::admin::{
    AdminError, AuditEvent, AuditStore, ChangeLogQuery, ChangeLogRow, ChangedBy, LOG_COUNT_MAX, Listed, Page,
    SystemLogEntry, SystemLogQuery, SystemLogRow,
};
use sluse_schema::text::printable;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::audit_line::AuditLine;
use super::{PgAdminStore, pg};
use crate::config::AuditConfig;
use crate::store::connect::Store;

/// Lines deleted in one statement.
const NUM_EXPIRED_AT_ONCE: u32 = 5000;

/// Conditions of a list with their parameters.
#[derive(Default)]
struct Filter<'a> {
    sql: String,
    parameters: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Filter<'a> {
    /// Adds `condition`, in which `{}` stands for the parameter, when there is something to compare with.
    fn and<T: ToSql + Sync>(&mut self, condition: &str, value: &'a Option<T>) {
        if let Some(value) = value {
            self.parameters.push(value);
            let joint = if self.sql.is_empty() { "WHERE" } else { "AND" };
            let place = format!("${}", self.parameters.len());
            // Writing to a String does not fail.
            let _ = write!(self.sql, " {joint} {}", condition.replace("{}", &place));
        }
    }
}

/// The part of the order that both logs have.
fn direction(page: &Page) -> &'static str {
    if page.order_on.is_some() && !page.is_descending { "ASC" } else { "DESC" }
}

impl PgAdminStore {
    async fn log_page(
        &self,
        columns: &str,
        table: &str,
        filter: &Filter<'_>,
        page: &Page,
    ) -> Result<(Vec<Row>, i64), AdminError> {
        let client = self.client().await?;
        let num = filter.parameters.len();
        let sql = format!(
            "SELECT {columns} FROM {table} {} ORDER BY id {} LIMIT ${} OFFSET ${}",
            filter.sql,
            direction(page),
            num + 1,
            num + 2
        );
        let mut parameters = filter.parameters.clone();
        parameters.push(&page.limit);
        parameters.push(&page.offset);
        let rows = client.query(&sql, &parameters).await.map_err(pg)?;
        let count =
            format!("SELECT count(*) FROM (SELECT 1 FROM {table} {} LIMIT {LOG_COUNT_MAX}) bounded", filter.sql);
        let num_all = client.query_one(&count, &filter.parameters).await.map_err(pg)?.get(0);
        Ok((rows, num_all))
    }
}

fn clean(text: &str) -> String {
    printable(text.as_bytes(), 1024)
}

#[async_trait]
impl AuditStore for PgAdminStore {
    async fn record_event(&self, by: &ChangedBy, event: &AuditEvent) -> Result<(), AdminError> {
        let client = self.client().await?;
        let organizations: Vec<i64> = event.organizations.iter().map(|o| o.0).collect();
        let statement = client
            .prepare_cached(
                "INSERT INTO change_log (user_id, principal, credential, remote_address, request_id, action, entity, \
                                         entity_id, name, organization_ids, succeeded, reason) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .await
            .map_err(pg)?;
        client
            .execute(
                &statement,
                &[
                    &by.user_id(),
                    &by.kind.as_str(),
                    &by.credential,
                    &by.remote_address,
                    &by.request_id,
                    &event.action.as_str(),
                    &clean(&event.entity),
                    &event.entity_id,
                    &event.name.as_deref().map(clean),
                    &organizations,
                    &event.failure.is_none(),
                    &event.failure.as_deref().map(clean),
                ],
            )
            .await
            .map_err(pg)?;
        let known = ChangedEntity::of_str(&event.entity);
        AuditLine {
            action: event.action,
            kind: known.map_or_else(|| clean(&event.entity), |entity| entity.reference_name().to_owned()),
            id: event.entity_id,
            name: event.name.as_deref().map(clean),
            is_success: event.failure.is_none(),
        }
        .write(by);
        Ok(())
    }

    async fn change_log(&self, query: &ChangeLogQuery, page: &Page) -> Result<Listed<ChangeLogRow>, AdminError> {
        let among: Option<Vec<i64>> = query.among.as_ref().map(|ids| ids.iter().map(|o| o.0).collect());
        let mut filter = Filter::default();
        filter.and("organization_ids && {}::bigint[]", &among);
        filter.and("entity = {}", &query.entity);
        filter.and("entity_id = {}", &query.entity_id);
        filter.and("user_id = {}", &query.user);
        filter.and("action = {}", &query.action);
        filter.and("happened_at >= {}", &query.from);
        filter.and("happened_at < {}", &query.to);
        let columns = "id, happened_at, user_id, principal, credential, remote_address, request_id, action, entity, \
                       entity_id, name, organization_ids, before, after, succeeded, reason";
        let (rows, num_all) = self.log_page(columns, "change_log", &filter, page).await?;
        let rows = rows
            .iter()
            .map(|row| ChangeLogRow {
                id: row.get("id"),
                happened_at: row.get("happened_at"),
                user: row.get("user_id"),
                principal: row.get("principal"),
                credential: row.get("credential"),
                remote_address: row.get("remote_address"),
                request_id: row.get("request_id"),
                action: row.get("action"),
                entity: row.get("entity"),
                entity_id: row.get("entity_id"),
                name: row.get("name"),
                organizations: row.get::<_, Vec<i64>>("organization_ids").into_iter().map(OrganizationId).collect(),
                before: row.get("before"),
                after: row.get("after"),
                is_success: row.get("succeeded"),
                reason: row.get("reason"),
            })
            .collect();
        Ok(Listed { rows, num_all })
    }

    async fn system_log(&self, query: &SystemLogQuery, page: &Page) -> Result<Listed<SystemLogRow>, AdminError> {
        let mut filter = Filter::default();
        filter.and("level = {}", &query.level);
        filter.and("node_id = {}", &query.node_id);
        filter.and("starts_with(target, {})", &query.target);
        filter.and("happened_at >= {}", &query.from);
        filter.and("happened_at < {}", &query.to);
        let columns = "id, happened_at, node_id, level, target, message, fields, num_times";
        let (rows, num_all) = self.log_page(columns, "system_log", &filter, page).await?;
        let rows = rows
            .iter()
            .map(|row| SystemLogRow {
                id: row.get("id"),
                happened_at: row.get("happened_at"),
                node_id: row.get("node_id"),
                level: row.get("level"),
                target: row.get("target"),
                message: row.get("message"),
                fields: row.get("fields"),
                num_times: row.get("num_times"),
            })
            .collect();
        Ok(Listed { rows, num_all })
    }
}

impl Store {
    /// Adds lines to the system log.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn record_system_log(&self, entries: &[SystemLogEntry]) -> Result<(), AdminError> {
        let client = PgAdminStore::new(self).client().await?;
        let column = |of: fn(&SystemLogEntry) -> &str| entries.iter().map(of).collect::<Vec<_>>();
        client
            .execute(
                "INSERT INTO system_log (happened_at, node_id, level, target, message, fields, num_times) \
                 SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], \
                                      $7::bigint[])",
                &[
                    &entries.iter().map(|e| e.happened_at).collect::<Vec<_>>(),
                    &column(|e| &e.node_id),
                    &column(|e| e.level),
                    &column(|e| &e.target),
                    &column(|e| &e.message),
                    &entries.iter().map(|e| &e.fields).collect::<Vec<_>>(),
                    &entries.iter().map(|e| e.num_times).collect::<Vec<_>>(),
                ],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }

    /// Applies [`Store::expire_logs`] every hour, and more often while there is much to delete, for ever.
    pub async fn expire_logs_hourly(self: Arc<Self>, keep: AuditConfig) {
        loop {
            let pause = match self.expire_logs(keep.change_log_days, keep.system_log_days).await {
                Ok(num) if num >= NUM_EXPIRED_AT_ONCE as u64 => Duration::from_secs(1),
                Ok(_) => Duration::from_secs(3600),
                Err(error) => {
                    tracing::warn!(%error, "old lines of the change log and the system log could not be deleted, trying again");
                    Duration::from_secs(60)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Deletes lines of both logs that are older than so many days, a bounded number at a time; `None`: none. Returns how many.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn expire_logs(
        &self,
        change_log_days: Option<u32>,
        system_log_days: Option<u32>,
    ) -> Result<u64, AdminError> {
        let client = PgAdminStore::new(self).client().await?;
        let mut num = 0;
        for (table, days) in [("change_log", change_log_days), ("system_log", system_log_days)] {
            let Some(days) = days.and_then(|days| i32::try_from(days).ok()) else { continue };
            let sql = format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} \
                 WHERE happened_at < now() - make_interval(days => $1) ORDER BY happened_at LIMIT {NUM_EXPIRED_AT_ONCE})"
            );
            num += client.execute(&sql, &[&days]).await.map_err(pg)?;
        }
        // Whatever happens, the system log stays of a size that can be searched.
        let excess =
            "DELETE FROM system_log WHERE id IN (SELECT id FROM system_log ORDER BY id DESC OFFSET 200000 LIMIT 5000)";
        num += client.execute(excess, &[]).await.map_err(pg)?;
        Ok(num)
    }
}
