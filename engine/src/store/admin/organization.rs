//! Organisations.

use async_trait::async_trait;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::OrganizationId;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{
    AdminError, ChangedBy, Listed, NumDeleted, OrganizationListing, OrganizationRow, OrganizationStore, Page,
    PermissionRow,
};

use super::api_key::{keys_with_groups, remove_groupless};
use super::change::{ChangeAction, Write};
use super::{PgAdminStore, pg, row};

/// Groups that a new organisation gets: suffix, roles, whether new applications are added to it.
const DEFAULT_GROUPS: [(&str, &[&str], bool); 3] = [
    ("Læserettigheder", &["Read"], true),
    ("Applikationsadministrator", &["OrganizationApplicationAdmin", "Read"], true),
    (
        "Organisationsadministrator",
        &["OrganizationUserAdmin", "OrganizationApplicationAdmin", "OrganizationGatewayAdmin", "Read"],
        false,
    ),
];

#[async_trait]
impl OrganizationStore for PgAdminStore {
    async fn create_organization(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        name: &str,
    ) -> Result<OrganizationRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Platform)?;
        let user = write.user_id();
        let insert = "INSERT INTO organization (name, created_by, updated_by) VALUES ($1, $2, $2) RETURNING id";
        let id: i64 = write.db().query_one(insert, &[&name, &user]).await.map_err(pg)?.get(0);
        write.record(ChangeAction::Create, ChangedEntity::Organization, id, None).await?;
        for (suffix, roles, adds) in DEFAULT_GROUPS {
            let insert = "INSERT INTO permission (name, organization_id, automatically_add_new_applications, created_by, \
                          updated_by) VALUES ($1, $2, $3, $4, $4) RETURNING id";
            let group_name = format!("{name} - {suffix}");
            let group: i64 = write.db().query_one(insert, &[&group_name, &id, &adds, &user]).await.map_err(pg)?.get(0);
            let levels = "INSERT INTO permission_level (permission_id, type) SELECT $1, unnest($2::text[])";
            write.db().execute(levels, &[&group, &roles]).await.map_err(pg)?;
            write.record(ChangeAction::Create, ChangedEntity::Permission, group, None).await?;
        }
        let created = row::load_organization(write.db(), OrganizationId(id)).await?.ok_or(AdminError::NotFound)?;
        write.commit().await?;
        Ok(created)
    }

    async fn rename_organization(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: OrganizationId,
        name: &str,
    ) -> Result<(OrganizationRow, Vec<PermissionRow>), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Platform)?;
        let before = write.snapshot(ChangedEntity::Organization, id.0).await?.ok_or(AdminError::NotFound)?;
        let update = "UPDATE organization SET name = $2, updated_by = $3, updated_at = now() WHERE id = $1";
        write.db().execute(update, &[&id.0, &name, &write.user_id()]).await.map_err(pg)?;
        write.record(ChangeAction::Update, ChangedEntity::Organization, id.0, Some(before)).await?;
        let renamed = row::load_organization(write.db(), id).await?.ok_or(AdminError::NotFound)?;
        let permissions = row::permissions_of(write.db(), id).await?;
        write.commit().await?;
        Ok((renamed, permissions))
    }

    async fn delete_organization(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: OrganizationId,
    ) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Platform)?;
        let before = write.snapshot(ChangedEntity::Organization, id.0).await?.ok_or(AdminError::NotFound)?;
        let mut keys = Vec::new();
        // Rows that go with it, so that caches and actors hear of each.
        for (entity, sql) in [
            (
                ChangedEntity::Device,
                "SELECT d.id FROM iot_device d JOIN application a ON a.id = d.application_id WHERE a.organization_id = $1",
            ),
            (
                ChangedEntity::Target,
                "SELECT t.id FROM data_target t JOIN application a ON a.id = t.application_id WHERE a.organization_id = $1",
            ),
            (ChangedEntity::Application, "SELECT id FROM application WHERE organization_id = $1"),
            (ChangedEntity::Decoder, "SELECT id FROM payload_decoder WHERE organization_id = $1"),
            (ChangedEntity::Permission, "SELECT id FROM permission WHERE organization_id = $1"),
        ] {
            let ids: Vec<i64> = write.db().query(sql, &[&id.0]).await.map_err(pg)?.iter().map(|r| r.get(0)).collect();
            write.touch(entity, &ids).await?;
            if entity == ChangedEntity::Permission {
                keys = keys_with_groups(&write, &ids).await?;
            }
        }
        // Applications first: their devices hold on to device models, their connections to decoders.
        write.db().execute("DELETE FROM application WHERE organization_id = $1", &[&id.0]).await.map_err(pg)?;
        let num = write.db().execute("DELETE FROM organization WHERE id = $1", &[&id.0]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Organization, id.0, Some(before)).await?;
        remove_groupless(&mut write, keys).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }

    async fn organization(&self, id: OrganizationId) -> Result<(OrganizationRow, Vec<PermissionRow>), AdminError> {
        let client = self.client().await?;
        let found = row::load_organization(&client, id).await?.ok_or(AdminError::NotFound)?;
        Ok((found, row::permissions_of(&client, id).await?))
    }

    async fn organizations(
        &self,
        among: Option<&[OrganizationId]>,
        page: &Page,
    ) -> Result<Listed<OrganizationListing>, AdminError> {
        let client = self.client().await?;
        let among: Option<Vec<i64>> = among.map(|ids| ids.iter().map(|o| o.0).collect());
        let order = match page.order_on.as_deref() {
            Some("name") => "o.name",
            _ => "o.id",
        };
        let filter = "($1::bigint[] IS NULL OR o.id = ANY($1))";
        let sql = format!(
            "SELECT {} FROM organization o WHERE {filter} ORDER BY {order} {}, o.id LIMIT $2 OFFSET $3",
            row::ORGANIZATION,
            row::direction_of_known(page, order, "o.id")
        );
        let rows = client.query(&sql, &[&among, &page.limit, &page.offset]).await.map_err(pg)?;
        let count = format!("SELECT count(*) FROM organization o WHERE {filter}");
        let num_all = client.query_one(&count, &[&among]).await.map_err(pg)?.get(0);
        let ids: Vec<i64> = rows.iter().map(|r| r.get("o_id")).collect();
        let mut applications = row::applications_by_organization(&client, &ids).await?;
        let rows = rows
            .iter()
            .map(row::organization)
            .map(|organization| OrganizationListing {
                applications: applications.remove(&organization.id.0).unwrap_or_default(),
                permissions: Vec::new(),
                organization,
            })
            .collect();
        Ok(Listed { rows, num_all })
    }

    async fn organizations_with_groups(&self) -> Result<Vec<OrganizationListing>, AdminError> {
        let mut listed = self.organizations(None, &Page::first(i64::MAX)).await?.rows;
        let client = self.client().await?;
        let sql =
            format!("SELECT {} FROM permission p WHERE p.organization_id IS NOT NULL ORDER BY p.id", row::PERMISSION);
        let mut by_organization: std::collections::HashMap<_, Vec<PermissionRow>> = std::collections::HashMap::new();
        for found in client.query(&sql, &[]).await.map_err(pg)?.iter().map(row::permission) {
            by_organization.entry(found.organization_id).or_default().push(found);
        }
        for listing in &mut listed {
            listing.permissions = by_organization.remove(&Some(listing.organization.id)).unwrap_or_default();
        }
        Ok(listed)
    }

    async fn organization_names(&self) -> Result<Vec<(OrganizationId, String)>, AdminError> {
        let client = self.client().await?;
        let rows = client.query("SELECT id, name FROM organization ORDER BY id", &[]).await.map_err(pg)?;
        Ok(rows.iter().map(|r| (OrganizationId(r.get(0)), r.get(1))).collect())
    }
}
