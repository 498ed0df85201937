//! Log-ins by a provider.

use async_trait::async_trait;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::UserId;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{Account, AdminError, ChangedBy, LogInStore};

use super::account::find;
use super::change::{ChangeAction, Write};
use super::{PgAdminStore, pg};

#[async_trait]
impl LogInStore for PgAdminStore {
    async fn claim_attempt(&self, attempt: &str) -> Result<bool, AdminError> {
        let client = self.client().await?;
        let sql = "INSERT INTO answered_log_in (attempt) VALUES ($1) ON CONFLICT DO NOTHING";
        let num_new = client.execute(sql, &[&attempt]).await.map_err(pg)?;
        Ok(num_new == 1)
    }

    async fn account_of_name_id(&self, name_id: &str) -> Result<Option<Account>, AdminError> {
        let client = self.client().await?;
        find(&client, "u.name_id = $1", &name_id).await
    }

    async fn create_vouched_user(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        name: &str,
        name_id: &str,
    ) -> Result<Account, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Account { user: UserId(0), organizations: Vec::new(), is_global_admin: false })?;
        let sql = "INSERT INTO app_user (name, name_id, active, show_welcome_screen) VALUES ($1, $2, true, true) RETURNING id";
        let id: i64 = write.db().query_one(sql, &[&name, &name_id]).await.map_err(pg)?.get(0);
        write.record(ChangeAction::Create, ChangedEntity::User, id, None).await?;
        write.commit().await?;
        find(&client, "u.id = $1", &id).await?.ok_or(AdminError::NotFound)
    }

    async fn record_log_out(&self, permit: &Permit, by: &ChangedBy, user: UserId) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Own(user))?;
        let before = write.snapshot(ChangedEntity::User, user.0).await?.ok_or(AdminError::NotFound)?;
        let sql = "UPDATE app_user SET token_version = token_version + 1 WHERE id = $1";
        write.db().execute(sql, &[&user.0]).await.map_err(pg)?;
        write.record(ChangeAction::LogOut, ChangedEntity::User, user.0, Some(before)).await?;
        write.commit().await
    }
}
