//! The one way to write an administrative row: row, line in the change log and change event in one transaction (I5).
//!
//! ```ignore
//! let mut client = self.client().await?;
//! let mut write = Write::begin(&mut client, permit, by).await?;
//! let before = write.snapshot(ChangedEntity::DeviceModel, id).await?;
//! write.check(&Resource::Organization(organization))?;          // against the row, not against the request
//! write.db().execute("UPDATE device_model SET …", &[…]).await.map_err(pg)?;
//! write.record(ChangeAction::Update, ChangedEntity::DeviceModel, id, before).await?;
//! write.commit().await?;
//! ```
//!
//! A write that recorded nothing is refused at its commit. Dropped without a commit, everything is rolled back.

use deadpool_postgres::{Client, Transaction};
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::StoreError;
use sluse_schema::port::admin::{AdminError, ChangedBy};

use super::pg;

/// What was done to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeAction {
    Create,
    Update,
    Delete,
    /// Somebody logged in.
    LogIn,
    /// Somebody was shown secrets in clear.
    Reveal,
}

impl ChangeAction {
    /// Text form in the change log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::LogIn => "LOGIN",
            Self::Reveal => "REVEAL",
        }
    }
}

/// A line for the log, once it is true.
#[derive(Debug)]
struct AuditLine {
    action: ChangeAction,
    entity: ChangedEntity,
    id: i64,
    name: Option<String>,
}

/// A transaction that writes administrative rows.
pub struct Write<'a> {
    transaction: Transaction<'a>,
    permit: &'a Permit,
    by: &'a ChangedBy,
    lines: Vec<AuditLine>,
}

impl std::fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write").field("permit", self.permit).field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl<'a> Write<'a> {
    /// Begins a transaction under a permit.
    pub async fn begin(client: &'a mut Client, permit: &'a Permit, by: &'a ChangedBy) -> Result<Self, AdminError> {
        let transaction = client.transaction().await.map_err(pg)?;
        Ok(Self { transaction, permit, by, lines: Vec::new() })
    }

    /// The transaction, for the resource's own statements.
    pub fn db(&self) -> &Transaction<'a> {
        &self.transaction
    }

    /// Who is writing, as a foreign key.
    pub fn user_id(&self) -> Option<i64> {
        self.by.user_id()
    }

    /// Refuses unless the permit is for writing exactly this. Call it with what the database says of the row.
    pub fn check(&self, resource: &Resource) -> Result<(), AdminError> {
        if self.permit.covers_write(resource) { Ok(()) } else { Err(AdminError::NotCovered) }
    }

    /// The row as it is now, without secrets; `None` when there is none. Locks it until the end of the transaction.
    pub async fn snapshot(&self, entity: ChangedEntity, id: i64) -> Result<Option<Value>, AdminError> {
        let Some(table) = table(entity) else { return Ok(None) };
        let lock = format!("SELECT 1 FROM {table} WHERE id = $1 FOR UPDATE");
        if self.transaction.query_opt(&lock, &[&id]).await.map_err(pg)?.is_none() {
            return Ok(None);
        }
        self.read(entity, id).await
    }

    async fn read(&self, entity: ChangedEntity, id: i64) -> Result<Option<Value>, AdminError> {
        let Some(table) = table(entity) else { return Ok(None) };
        let links = links(entity);
        let sql = format!("SELECT (to_jsonb(t) - $2::text[]) || {links} FROM {table} t WHERE t.id = $1");
        let row = self.transaction.query_opt(&sql, &[&id, &SECRET_COLUMNS.as_slice()]).await.map_err(pg)?;
        row.map(|r| r.try_get(0)).transpose().map_err(pg)
    }

    /// Writes the change log's line and the change event of a row that this transaction changed. `before` is its
    /// [`Write::snapshot`] from before; what it is now is read here.
    pub async fn record(
        &mut self,
        action: ChangeAction,
        entity: ChangedEntity,
        id: i64,
        before: Option<Value>,
    ) -> Result<(), AdminError> {
        let after = if action == ChangeAction::Delete { None } else { self.read(entity, id).await? };
        let name = after.as_ref().or(before.as_ref()).and_then(|v| v.get("name")?.as_str()).map(str::to_owned);
        self.transaction
            .execute(
                "WITH event AS (INSERT INTO change_event (entity, entity_id) VALUES ($6, $7)) \
                 INSERT INTO change_log (user_id, principal, remote_address, request_id, action, entity, entity_id, \
                                         before, after) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                &[
                    &self.by.user_id(),
                    &self.by.kind.as_str(),
                    &self.by.remote_address,
                    &self.by.request_id,
                    &action.as_str(),
                    &entity.as_str(),
                    &id,
                    &before,
                    &after,
                ],
            )
            .await
            .map_err(pg)?;
        self.lines.push(AuditLine { action, entity, id, name });
        Ok(())
    }

    /// Writes the change log's line of something that changed no row here: a remote system's row, or that secrets were shown.
    /// No change event: nothing reloads by it.
    pub async fn note(
        &mut self,
        action: ChangeAction,
        entity: ChangedEntity,
        id: Option<i64>,
        after: Option<Value>,
    ) -> Result<(), AdminError> {
        let name = after.as_ref().and_then(|v| v.get("name")?.as_str()).map(str::to_owned);
        self.transaction
            .execute(
                "INSERT INTO change_log (user_id, principal, remote_address, request_id, action, entity, entity_id, after) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &self.by.user_id(),
                    &self.by.kind.as_str(),
                    &self.by.remote_address,
                    &self.by.request_id,
                    &action.as_str(),
                    &entity.as_str(),
                    &id,
                    &after,
                ],
            )
            .await
            .map_err(pg)?;
        self.lines.push(AuditLine { action, entity, id: id.unwrap_or_default(), name });
        Ok(())
    }

    /// Change events of rows that went along with the recorded one (a cascade): caches and actors have to hear of each.
    pub async fn touch(&self, entity: ChangedEntity, ids: &[i64]) -> Result<(), AdminError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.transaction
            .execute(
                "INSERT INTO change_event (entity, entity_id) SELECT $1, id FROM unnest($2::bigint[]) AS id",
                &[&entity.as_str(), &ids],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }

    /// Makes it true, and says so in the log.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when nothing was recorded: then nothing is written.
    pub async fn commit(self) -> Result<(), AdminError> {
        if self.lines.is_empty() {
            return Err(StoreError::Refused("an administrative write without a change event".to_owned()).into());
        }
        self.transaction.commit().await.map_err(pg)?;
        for line in self.lines {
            tracing::info!(
                target: "audit",
                user_id = self.by.user.0,
                principal = self.by.kind.as_str(),
                action = line.action.as_str(),
                entity = line.entity.as_str(),
                id = line.id,
                name = line.name,
                remote_address = self.by.remote_address,
                request_id = self.by.request_id,
                "changed"
            );
        }
        Ok(())
    }
}

/// Columns that never leave their table.
const SECRET_COLUMNS: [&str; 8] = [
    "password_hash",
    "password_enc",
    "api_key_hash",
    "api_key_enc",
    "key_hash",
    "settings_enc",
    "secrets_enc",
    "token_version",
];

fn table(entity: ChangedEntity) -> Option<&'static str> {
    match entity {
        ChangedEntity::Organization => Some("organization"),
        ChangedEntity::Application => Some("application"),
        ChangedEntity::Device => Some("iot_device"),
        ChangedEntity::DeviceModel => Some("device_model"),
        ChangedEntity::Decoder => Some("payload_decoder"),
        ChangedEntity::Target => Some("data_target"),
        ChangedEntity::Connection => Some("connection"),
        ChangedEntity::Permission => Some("permission"),
        ChangedEntity::User => Some("app_user"),
        ChangedEntity::ApiKey => Some("api_key"),
        ChangedEntity::SigfoxGroup => Some("sigfox_group"),
        ChangedEntity::SigfoxDeviceType => None,
        ChangedEntity::TargetRequest => Some("target_request"),
    }
}

/// What belongs to a row but stands in a table of links, as an SQL expression over `t`.
fn links(entity: ChangedEntity) -> &'static str {
    match entity {
        ChangedEntity::Permission => {
            "jsonb_build_object(\
             'roles', ARRAY(SELECT type FROM permission_level l WHERE l.permission_id = t.id ORDER BY l.id), \
             'users', ARRAY(SELECT user_id FROM permission_user u WHERE u.permission_id = t.id ORDER BY 1), \
             'applications', ARRAY(SELECT application_id FROM permission_application a WHERE a.permission_id = t.id \
                                   ORDER BY 1))"
        }
        ChangedEntity::User => {
            "jsonb_build_object('permissions', \
             ARRAY(SELECT permission_id FROM permission_user u WHERE u.user_id = t.id ORDER BY 1))"
        }
        ChangedEntity::Application => {
            "jsonb_build_object('permissions', \
             ARRAY(SELECT permission_id FROM permission_application a WHERE a.application_id = t.id ORDER BY 1))"
        }
        ChangedEntity::Connection => {
            "jsonb_build_object('devices', \
             ARRAY(SELECT device_id FROM connection_device d WHERE d.connection_id = t.id ORDER BY 1))"
        }
        _ => "'{}'::jsonb",
    }
}
