//! Accounts: one query brings a caller with his groups.

use async_trait::async_trait;
use deadpool_postgres::GenericClient;
use serde::Deserialize;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, OrganizationId, UserId};
use sluse_schema::permission::{Grant, Role};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{Account, AccountStore, AdminError, ApiKeyCaller, ChangedBy};
use sluse_schema::secret::Secret;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, ToSql};

use super::change::{ChangeAction, Write};
use super::{PgAdminStore, pg};

/// Groups as JSON over `permission p`. An application of another organisation than the group's gives nothing.
const GRANTS: &str = "COALESCE(jsonb_agg(jsonb_build_object(\
     'organization', p.organization_id, \
     'roles', ARRAY(SELECT l.type FROM permission_level l WHERE l.permission_id = p.id), \
     'applications', ARRAY(SELECT a.id FROM permission_application pa JOIN application a ON a.id = pa.application_id \
                           WHERE pa.permission_id = p.id AND a.organization_id = p.organization_id))), '[]')";

#[derive(Debug, Deserialize)]
struct GrantJson {
    organization: Option<OrganizationId>,
    roles: Vec<Role>,
    applications: Vec<ApplicationId>,
}

fn grants(row: &Row) -> Vec<Grant> {
    let Json(found): Json<Vec<GrantJson>> = row.get("grants");
    let of = |g: GrantJson| Grant { organization: g.organization, roles: g.roles, applications: g.applications };
    found.into_iter().map(of).collect()
}

pub(super) async fn find(
    db: &impl GenericClient,
    condition: &str,
    key: &(dyn ToSql + Sync),
) -> Result<Option<Account>, AdminError> {
    let sql = format!(
        "SELECT u.id, u.name, u.email, u.name_id, u.password_hash, u.active, u.expires_on, u.token_version, \
         (SELECT {GRANTS} FROM permission_user pu JOIN permission p ON p.id = pu.permission_id WHERE pu.user_id = u.id) \
         AS grants FROM app_user u WHERE {condition} AND NOT u.is_system_user"
    );
    let statement = db.prepare_cached(&sql).await.map_err(pg)?;
    let row = db.query_opt(&statement, &[key]).await.map_err(pg)?;
    Ok(row.map(|row| Account {
        user: UserId(row.get("id")),
        name: row.get("name"),
        email: row.get("email"),
        name_id: row.get("name_id"),
        password_hash: row.get::<_, Option<String>>("password_hash").map(Secret::new),
        is_active: row.get("active"),
        expires_at: row.get("expires_on"),
        token_version: row.get("token_version"),
        grants: grants(&row),
    }))
}

#[async_trait]
impl AccountStore for PgAdminStore {
    async fn account_of_email(&self, email: &str) -> Result<Option<Account>, AdminError> {
        let client = self.client().await?;
        find(&client, "lower(u.email) = lower($1)", &email).await
    }

    async fn account_of_user(&self, user: UserId) -> Result<Option<Account>, AdminError> {
        let client = self.client().await?;
        find(&client, "u.id = $1", &user.0).await
    }

    async fn caller_of_api_key(&self, key_hash: &[u8; 32]) -> Result<Option<ApiKeyCaller>, AdminError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT k.id, k.system_user_id, k.name, k.expires_on, \
             (SELECT {GRANTS} FROM api_key_permission kp JOIN permission p ON p.id = kp.permission_id \
              WHERE kp.api_key_id = k.id) AS grants FROM api_key k WHERE k.key_hash = $1"
        );
        let statement = client.prepare_cached(&sql).await.map_err(pg)?;
        let row = client.query_opt(&statement, &[&key_hash.as_slice()]).await.map_err(pg)?;
        Ok(row.map(|row| ApiKeyCaller {
            key: row.get("id"),
            system_user: UserId(row.get("system_user_id")),
            name: row.get("name"),
            expires_at: row.get("expires_on"),
            grants: grants(&row),
        }))
    }

    async fn record_log_in(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        user: UserId,
        rehash: Option<&Secret>,
    ) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Own(user))?;
        write
            .db()
            .execute(
                "UPDATE app_user SET last_login_at = now(), password_hash = COALESCE($2, password_hash) WHERE id = $1",
                &[&user.0, &rehash.map(Secret::reveal)],
            )
            .await
            .map_err(pg)?;
        write.record(ChangeAction::LogIn, ChangedEntity::User, user.0, None).await?;
        write.commit().await
    }
}
