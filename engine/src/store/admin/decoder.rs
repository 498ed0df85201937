//! Payload decoders as rows in PostgreSQL. A change of a decoder announces the decoder; whoever runs it reloads by that.

use async_trait::async_trait;
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::device::Dialect;
use sluse_schema::id::{DecoderId, OrganizationId};
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::decoder::{DecoderAdminStore, DecoderFields, DecoderRow};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::{covers, order_by, stamps};
use super::{PgAdminStore, pg};

const COLUMNS: &str =
    "id, organization_id, name, decoding_function, dialect, created_at, updated_at, created_by, updated_by";

fn decoder_of(row: &Row) -> Result<DecoderRow, AdminError> {
    let dialect: Option<&str> = row.try_get("dialect").map_err(pg)?;
    Ok(DecoderRow {
        id: DecoderId(row.try_get("id").map_err(pg)?),
        fields: DecoderFields {
            organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
            name: row.try_get("name").map_err(pg)?,
            source: row.try_get("decoding_function").map_err(pg)?,
            dialect: dialect.and_then(Dialect::of_str),
        },
        stamps: stamps(row)?,
    })
}

/// The organisation that a decoder belongs to before a write, once the permit was checked against it. Locks the row.
async fn begin_change(write: &Write<'_>, id: DecoderId) -> Result<(OrganizationId, Option<Value>), AdminError> {
    let snapshot = write.snapshot(ChangedEntity::Decoder, id.0).await?.ok_or(AdminError::NotFound)?;
    let row = write
        .db()
        .query_one("SELECT organization_id FROM payload_decoder WHERE id = $1", &[&id.0])
        .await
        .map_err(pg)?;
    let organization = OrganizationId(row.try_get(0).map_err(pg)?);
    write.check(&Resource::Organization(organization))?;
    Ok((organization, Some(snapshot)))
}

#[async_trait]
impl DecoderAdminStore for PgAdminStore {
    async fn decoder(&self, id: DecoderId) -> Result<DecoderRow, AdminError> {
        let sql = format!("SELECT {COLUMNS} FROM payload_decoder WHERE id = $1");
        let row = self.client().await?.query_opt(&sql, &[&id.0]).await.map_err(pg)?;
        decoder_of(&row.ok_or(AdminError::NotFound)?)
    }

    async fn decoders_by_id(&self, ids: &[DecoderId]) -> Result<Vec<DecoderRow>, AdminError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let sql = format!("SELECT {COLUMNS} FROM payload_decoder WHERE id = ANY($1) ORDER BY id");
        let rows = self.client().await?.query(&sql, &[&ids]).await.map_err(pg)?;
        rows.iter().map(decoder_of).collect()
    }

    async fn decoders(
        &self,
        organization: Option<OrganizationId>,
        page: &Page,
    ) -> Result<Listed<DecoderRow>, AdminError> {
        let client = self.client().await?;
        let organization = organization.map(|o| o.0);
        let order = order_by(page, &[("name", "name")], "id");
        let sql = format!(
            "SELECT {COLUMNS} FROM payload_decoder WHERE $1::bigint IS NULL OR organization_id = $1 \
             ORDER BY {order} LIMIT $2 OFFSET $3"
        );
        let rows = client.query(&sql, &[&organization, &page.limit, &page.offset]).await.map_err(pg)?;
        let num_all = client
            .query_one(
                "SELECT count(*) FROM payload_decoder WHERE $1::bigint IS NULL OR organization_id = $1",
                &[&organization],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(decoder_of).collect::<Result<_, _>>()?, num_all })
    }

    async fn decoder_names(&self, num_max: i64) -> Result<Listed<(DecoderId, String)>, AdminError> {
        let client = self.client().await?;
        let rows =
            client.query("SELECT id, name FROM payload_decoder ORDER BY id LIMIT $1", &[&num_max]).await.map_err(pg)?;
        let num_all =
            client.query_one("SELECT count(*) FROM payload_decoder", &[]).await.map_err(pg)?.try_get(0).map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(|row| (DecoderId(row.get(0)), row.get(1))).collect(), num_all })
    }

    async fn create_decoder(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &DecoderFields,
    ) -> Result<DecoderRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        write.check(&Resource::Organization(fields.organization))?;
        let sql = format!(
            "INSERT INTO payload_decoder (organization_id, name, decoding_function, dialect, created_by, updated_by) \
             VALUES ($1, $2, $3, $4, $5, $5) RETURNING {COLUMNS}"
        );
        let dialect = fields.dialect.map(Dialect::as_str);
        let row = write
            .db()
            .query_one(&sql, &[&fields.organization.0, &fields.name, &fields.source, &dialect, &write.user_id()])
            .await
            .map_err(pg)?;
        let decoder = decoder_of(&row)?;
        write.record(ChangeAction::Create, ChangedEntity::Decoder, decoder.id.0, None).await?;
        write.commit().await?;
        Ok(decoder)
    }

    async fn update_decoder(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: DecoderId,
        fields: &DecoderFields,
    ) -> Result<DecoderRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (organization, snapshot) = begin_change(&write, id).await?;
        if fields.organization != organization {
            covers(target_permit, &Resource::Organization(fields.organization))?;
        }
        let sql = format!(
            "UPDATE payload_decoder SET organization_id = $2, name = $3, decoding_function = $4, dialect = $5, \
             updated_by = $6, updated_at = now() WHERE id = $1 RETURNING {COLUMNS}"
        );
        let dialect = fields.dialect.map(Dialect::as_str);
        let row = write
            .db()
            .query_one(&sql, &[&id.0, &fields.organization.0, &fields.name, &fields.source, &dialect, &write.user_id()])
            .await
            .map_err(pg)?;
        let decoder = decoder_of(&row)?;
        write.record(ChangeAction::Update, ChangedEntity::Decoder, id.0, snapshot).await?;
        write.commit().await?;
        Ok(decoder)
    }

    async fn delete_decoder(&self, permit: &Permit, by: &ChangedBy, id: DecoderId) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (_, snapshot) = begin_change(&write, id).await?;
        // A connection that uses it makes this an `InUse`.
        let num_deleted =
            write.db().execute("DELETE FROM payload_decoder WHERE id = $1", &[&id.0]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Decoder, id.0, snapshot).await?;
        write.commit().await?;
        Ok(NumDeleted(num_deleted))
    }
}
