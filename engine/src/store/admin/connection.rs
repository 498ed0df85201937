//! Connections as rows in PostgreSQL. Devices reload by their own id, so a change of a connection announces every device that
//! it named before or names now.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, ConnectionId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::connection::{
    ConnectionAdminStore, ConnectionFields, ConnectionFilter, ConnectionRow, NUM_DEVICES_MAX,
};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::{application_resource, covers, stamps, visible_ids};
use super::{PgAdminStore, pg};

const COLUMNS: &str = "c.id, t.application_id, a.organization_id, c.data_target_id, c.payload_decoder_id, c.created_at, c.updated_at, \
     c.created_by, c.updated_by, \
     ARRAY(SELECT device_id FROM connection_device cd WHERE cd.connection_id = c.id ORDER BY device_id) AS devices";

const FROM: &str = "FROM connection c JOIN data_target t ON t.id = c.data_target_id \
     JOIN application a ON a.id = t.application_id";

fn connection_of(row: &Row) -> Result<ConnectionRow, AdminError> {
    let devices: Vec<i64> = row.try_get("devices").map_err(pg)?;
    let decoder: Option<i64> = row.try_get("payload_decoder_id").map_err(pg)?;
    Ok(ConnectionRow {
        id: ConnectionId(row.try_get("id").map_err(pg)?),
        application: ApplicationId(row.try_get("application_id").map_err(pg)?),
        organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
        fields: ConnectionFields {
            target: TargetId(row.try_get("data_target_id").map_err(pg)?),
            decoder: decoder.map(DecoderId),
            devices: devices.into_iter().map(DeviceId).collect(),
        },
        stamps: stamps(row)?,
    })
}

async fn one_connection(
    client: &impl deadpool_postgres::GenericClient,
    id: ConnectionId,
) -> Result<ConnectionRow, AdminError> {
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE c.id = $1");
    let row = client.query_opt(&sql, &[&id.0]).await.map_err(pg)?;
    connection_of(&row.ok_or(AdminError::NotFound)?)
}

/// The connection as it is before a write, once the permit was checked against its row. Locks the row.
async fn begin_change(write: &Write<'_>, id: ConnectionId) -> Result<(ConnectionRow, Option<Value>), AdminError> {
    let snapshot = write.snapshot(ChangedEntity::Connection, id.0).await?.ok_or(AdminError::NotFound)?;
    let connection = one_connection(write.db(), id).await?;
    write.check(&application_resource(connection.application, connection.organization))?;
    Ok((connection, Some(snapshot)))
}

/// The application that a target is in, once the permit was checked against it. Holds the target where it is.
async fn covers_target(write: &Write<'_>, permit: &Permit, target: TargetId) -> Result<ApplicationId, AdminError> {
    let row = write
        .db()
        .query_opt(
            "SELECT t.application_id, a.organization_id FROM data_target t JOIN application a ON a.id = t.application_id \
             WHERE t.id = $1 FOR SHARE OF t",
            &[&target.0],
        )
        .await
        .map_err(pg)?
        .ok_or(AdminError::BadReference("data target"))?;
    let application = ApplicationId(row.try_get(0).map_err(pg)?);
    covers(Some(permit), &application_resource(application, OrganizationId(row.try_get(1).map_err(pg)?)))?;
    Ok(application)
}

/// Links the devices that are in `application`; any other means that something changed meanwhile.
async fn link_devices(
    write: &Write<'_>,
    id: i64,
    application: ApplicationId,
    devices: &[DeviceId],
) -> Result<(), AdminError> {
    let ids: Vec<i64> = devices.iter().map(|d| d.0).collect();
    let num_linked = write
        .db()
        .execute(
            "INSERT INTO connection_device (connection_id, device_id) \
             SELECT $1, d.id FROM iot_device d WHERE d.id = ANY($2) AND d.application_id = $3",
            &[&id, &ids, &application.0],
        )
        .await
        .map_err(pg)?;
    if usize::try_from(num_linked) == Ok(ids.len()) { Ok(()) } else { Err(AdminError::BadReference("device")) }
}

async fn touch_devices(write: &Write<'_>, before: &[DeviceId], after: &[DeviceId]) -> Result<(), AdminError> {
    let devices: BTreeSet<i64> = before.iter().chain(after).map(|d| d.0).collect();
    write.touch(ChangedEntity::Device, &devices.into_iter().collect::<Vec<_>>()).await
}

#[async_trait]
impl ConnectionAdminStore for PgAdminStore {
    async fn connection(&self, id: ConnectionId) -> Result<ConnectionRow, AdminError> {
        one_connection(&self.client().await?, id).await
    }

    async fn connections(
        &self,
        filter: ConnectionFilter,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<ConnectionRow>, AdminError> {
        let client = self.client().await?;
        let (organizations, applications) = visible_ids(visible);
        let (condition, id) = match filter {
            ConnectionFilter::All => ("$3::bigint IS NULL", None),
            ConnectionFilter::OfTarget(id) => ("c.data_target_id = $3", Some(id.0)),
            ConnectionFilter::OfDecoder(id) => ("c.payload_decoder_id = $3", Some(id.0)),
            ConnectionFilter::OfDevice(id) => (
                "EXISTS (SELECT 1 FROM connection_device x WHERE x.connection_id = c.id AND x.device_id = $3)",
                Some(id.0),
            ),
        };
        let filter = format!(
            "WHERE ($1::bigint[] IS NULL OR a.organization_id = ANY($1) OR t.application_id = ANY($2)) AND {condition}"
        );
        let sql = format!("SELECT {COLUMNS} {FROM} {filter} ORDER BY c.id LIMIT $4 OFFSET $5");
        let rows =
            client.query(&sql, &[&organizations, &applications, &id, &page.limit, &page.offset]).await.map_err(pg)?;
        let num_all = client
            .query_one(&format!("SELECT count(*) {FROM} {filter}"), &[&organizations, &applications, &id])
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(connection_of).collect::<Result<_, _>>()?, num_all })
    }

    async fn create_connection(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &ConnectionFields,
    ) -> Result<ConnectionRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let application = covers_target(&write, permit, fields.target).await?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO connection (data_target_id, payload_decoder_id, created_by, updated_by) \
                 VALUES ($1, $2, $3, $3) RETURNING id",
                &[&fields.target.0, &fields.decoder.map(|d| d.0), &write.user_id()],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        link_devices(&write, id, application, &fields.devices).await?;
        write.record(ChangeAction::Create, ChangedEntity::Connection, id, None).await?;
        touch_devices(&write, &[], &fields.devices).await?;
        let row = one_connection(write.db(), ConnectionId(id)).await?;
        write.commit().await?;
        Ok(row)
    }

    async fn update_connection(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: ConnectionId,
        fields: &ConnectionFields,
    ) -> Result<ConnectionRow, AdminError> {
        let mut client = self.client().await?;
        let write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = begin_change(&write, id).await?;
        let application = covers_target(&write, target_permit.unwrap_or(permit), fields.target).await?;
        write
            .db()
            .execute(
                "UPDATE connection SET data_target_id = $2, payload_decoder_id = $3 WHERE id = $1",
                &[&id.0, &fields.target.0, &fields.decoder.map(|d| d.0)],
            )
            .await
            .map_err(pg)?;
        write.db().execute("DELETE FROM connection_device WHERE connection_id = $1", &[&id.0]).await.map_err(pg)?;
        link_devices(&write, id.0, application, &fields.devices).await?;
        finish_change(write, &before, snapshot).await
    }

    async fn append_device(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: ConnectionId,
        device: DeviceId,
    ) -> Result<ConnectionRow, AdminError> {
        let mut client = self.client().await?;
        let write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = begin_change(&write, id).await?;
        if before.fields.devices.contains(&device) {
            return Ok(before);
        }
        if before.fields.devices.len() >= NUM_DEVICES_MAX {
            return Err(AdminError::BadReference("one device more than a connection may name"));
        }
        link_devices(&write, id.0, before.application, &[device]).await?;
        finish_change(write, &before, snapshot).await
    }

    async fn delete_connection(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: ConnectionId,
    ) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = begin_change(&write, id).await?;
        let num_deleted = write.db().execute("DELETE FROM connection WHERE id = $1", &[&id.0]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Connection, id.0, snapshot).await?;
        touch_devices(&write, &before.fields.devices, &[]).await?;
        write.commit().await?;
        Ok(NumDeleted(num_deleted))
    }
}

/// Stamps, records and commits a change, and tells every device that was connected or is.
async fn finish_change(
    mut write: Write<'_>,
    before: &ConnectionRow,
    snapshot: Option<Value>,
) -> Result<ConnectionRow, AdminError> {
    write
        .db()
        .execute(
            "UPDATE connection SET updated_by = $2, updated_at = now() WHERE id = $1",
            &[&before.id.0, &write.user_id()],
        )
        .await
        .map_err(pg)?;
    write.record(ChangeAction::Update, ChangedEntity::Connection, before.id.0, snapshot).await?;
    let row = one_connection(write.db(), before.id).await?;
    touch_devices(&write, &before.fields.devices, &row.fields.devices).await?;
    write.commit().await?;
    Ok(row)
}
