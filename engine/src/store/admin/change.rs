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
pub use sluse_schema::port::admin::AuditAction as ChangeAction;
use sluse_schema::port::admin::{AdminError, ChangedBy};
use sluse_schema::text::without_user_info;

use super::audit_line::AuditLine;
use super::pg;

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
        let sql = format!("SELECT to_jsonb(t) || {links} FROM {table} t WHERE t.id = $1");
        let statement = self.transaction.prepare_cached(&sql).await.map_err(pg)?;
        let row = self.transaction.query_opt(&statement, &[&id]).await.map_err(pg)?;
        Ok(row.map(|r| r.try_get(0)).transpose().map_err(pg)?.map(without_secrets))
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
        let mut owners = Owners::of(entity, id, before.iter().chain(&after));
        if owners.is_empty() {
            // A downlink's row says nothing of an organisation; what was allowed does.
            owners.organizations = organizations_of(self.permit.resource());
        }
        let statement = self.transaction.prepare_cached(INSERT_LINE).await.map_err(pg)?;
        self.transaction
            .execute(
                &statement,
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
                    &self.by.credential,
                    &name,
                    &owners.organizations,
                    &owners.applications,
                    &owners.targets,
                ],
            )
            .await
            .map_err(pg)?;
        self.lines.push(AuditLine {
            action,
            kind: entity.reference_name_of(action.as_str()).to_owned(),
            id: Some(id),
            name,
            is_success: true,
        });
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
        let statement = self.transaction.prepare_cached(INSERT_NOTE).await.map_err(pg)?;
        self.transaction
            .execute(
                &statement,
                &[
                    &self.by.user_id(),
                    &self.by.kind.as_str(),
                    &self.by.remote_address,
                    &self.by.request_id,
                    &action.as_str(),
                    &entity.as_str(),
                    &id,
                    &after,
                    &self.by.credential,
                    &name,
                    &organizations_of(self.permit.resource()),
                ],
            )
            .await
            .map_err(pg)?;
        let kind = entity.reference_name_of(action.as_str()).to_owned();
        self.lines.push(AuditLine { action, kind, id, name, is_success: true });
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
            line.write(self.by);
        }
        Ok(())
    }
}

const INSERT_LINE: &str = "WITH event AS (INSERT INTO change_event (entity, entity_id) VALUES ($6, $7)) \
     INSERT INTO change_log (user_id, principal, remote_address, request_id, action, entity, entity_id, before, after, \
                             credential, name, organization_ids) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, ARRAY( \
         SELECT unnest($12::bigint[]) UNION SELECT organization_id FROM application WHERE id = ANY($13) \
         UNION SELECT a.organization_id FROM data_target t JOIN application a ON a.id = t.application_id \
         WHERE t.id = ANY($14) ORDER BY 1))";

const INSERT_NOTE: &str = "INSERT INTO change_log (user_id, principal, remote_address, request_id, action, entity, entity_id, \
                             after, credential, name, organization_ids) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// Whose the resource of a permit is.
fn organizations_of(resource: &Resource) -> Vec<i64> {
    match resource {
        Resource::Organization(o)
        | Resource::OrganizationUsers(o)
        | Resource::OrganizationProfile(o)
        | Resource::OrganizationGateways(o)
        | Resource::Application { organization: o, .. } => vec![o.0],
        Resource::Account { organizations, .. }
        | Resource::NewAccount { organizations, .. }
        | Resource::ApiKey { organizations, .. } => organizations.iter().map(|o| o.0).collect(),
        Resource::Platform | Resource::Shared | Resource::Own(_) => Vec::new(),
    }
}

/// Whose administrators may read a line: organisations that the row was or is of, by itself, by an application or by a target.
#[derive(Debug, Default)]
struct Owners {
    organizations: Vec<i64>,
    applications: Vec<i64>,
    targets: Vec<i64>,
}

impl Owners {
    fn is_empty(&self) -> bool {
        self.organizations.is_empty() && self.applications.is_empty() && self.targets.is_empty()
    }

    fn of<'v>(entity: ChangedEntity, id: i64, rows: impl Iterator<Item = &'v Value>) -> Self {
        let mut owners = Self::default();
        if entity == ChangedEntity::Organization {
            owners.organizations.push(id);
        }
        for row in rows {
            let column = |name: &str| row.get(name).and_then(Value::as_i64);
            let groups = row.get("permissions").and_then(Value::as_array).into_iter().flatten();
            owners.organizations.extend(groups.filter_map(|group| group.get("organization")?.as_i64()));
            let requested = row.get("requested_organizations").and_then(Value::as_array).into_iter().flatten();
            owners.organizations.extend(requested.filter_map(Value::as_i64));
            owners.organizations.extend(column("organization_id"));
            owners.applications.extend(column("application_id"));
            owners.targets.extend(column("data_target_id").or_else(|| column("target_id")));
        }
        owners
    }
}

/// A row as the change log may show it: columns that hold secrets are left out by their names, passwords in addresses too.
fn without_secrets(mut row: Value) -> Value {
    if let Some(columns) = row.as_object_mut() {
        columns.retain(|name, _| !is_secret_column(name));
        for value in columns.values_mut() {
            if let Value::String(text) = value {
                *text = without_user_info(text);
            }
        }
    }
    row
}

fn is_secret_column(name: &str) -> bool {
    name.ends_with("_enc") || name.ends_with("_hash") || name == "token_version"
}

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
        ChangedEntity::Gateway => Some("gateway"),
        ChangedEntity::DeviceProfile => Some("device_profile"),
        ChangedEntity::Multicast => Some("multicast"),
        ChangedEntity::Downlink => Some("downlink"),
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
             ARRAY(SELECT jsonb_build_object('id', p.id, 'organization', p.organization_id) FROM permission_user u \
                   JOIN permission p ON p.id = u.permission_id WHERE u.user_id = t.id ORDER BY p.id), \
             'requested_organizations', \
             ARRAY(SELECT organization_id FROM user_requested_organization r WHERE r.user_id = t.id ORDER BY 1))"
        }
        ChangedEntity::ApiKey => {
            "jsonb_build_object('permissions', \
             ARRAY(SELECT jsonb_build_object('id', p.id, 'organization', p.organization_id) FROM api_key_permission k \
                   JOIN permission p ON p.id = k.permission_id WHERE k.api_key_id = t.id ORDER BY p.id))"
        }
        ChangedEntity::Application => {
            "jsonb_build_object('permissions', \
             ARRAY(SELECT permission_id FROM permission_application a WHERE a.application_id = t.id ORDER BY 1))"
        }
        ChangedEntity::Connection => {
            "jsonb_build_object('devices', \
             ARRAY(SELECT device_id FROM connection_device d WHERE d.connection_id = t.id ORDER BY 1))"
        }
        ChangedEntity::Multicast => {
            "jsonb_build_object('devices', \
             ARRAY(SELECT device_id FROM multicast_device d WHERE d.multicast_id = t.id ORDER BY 1))"
        }
        _ => "'{}'::jsonb",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_shown_without_its_secrets() {
        let row = json!({"id": 1, "name": "a", "password_hash": "x", "secrets_enc": "x", "token_version": 3,
                         "url": "mqtt://rita:hunter2@broker"});
        assert_eq!(without_secrets(row), json!({"id": 1, "name": "a", "url": "mqtt://********@broker"}));
    }

    #[test]
    fn a_line_is_its_organisations_before_and_after() {
        let (before, after) = (json!({"organization_id": 1}), json!({"organization_id": 2, "application_id": 7}));
        let owners = Owners::of(ChangedEntity::Application, 5, [&before, &after].into_iter());
        assert_eq!((owners.organizations, owners.applications), (vec![1, 2], vec![7]));
        let user = json!({"permissions": [{"id": 9, "organization": 4}, {"id": 1, "organization": null}]});
        assert_eq!(Owners::of(ChangedEntity::User, 5, [&user].into_iter()).organizations, [4]);
    }
}
