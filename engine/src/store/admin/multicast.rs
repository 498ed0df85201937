//! Multicast groups as rows in PostgreSQL. Devices have to be radio devices of the group's own application: the statement that
//! writes them sees to it.

use async_trait::async_trait;
use serde_json::json;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::lorawan::{MulticastFields, MulticastRow, MulticastStore};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page};
use tokio_postgres::Row;
use uuid::Uuid;

use super::change::{ChangeAction, Write};
use super::device_profile::network_id;
use super::related::{application_resource, order_by, organization_of, stamps, visible_ids};
use super::{PgAdminStore, pg, secrets};

const SELECT: &str = "SELECT m.*, a.organization_id, \
     ARRAY(SELECT device_id FROM multicast_device d WHERE d.multicast_id = m.id ORDER BY 1) AS devices \
     FROM multicast m JOIN application a ON a.id = m.application_id";

impl PgAdminStore {
    fn multicast_of(&self, row: &Row) -> Result<MulticastRow, AdminError> {
        let devices: Vec<i64> = row.try_get("devices").map_err(pg)?;
        Ok(MulticastRow {
            id: row.try_get("id").map_err(pg)?,
            organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
            fields: MulticastFields {
                application: ApplicationId(row.try_get("application_id").map_err(pg)?),
                name: row.try_get("name").map_err(pg)?,
                address: row.try_get("address").map_err(pg)?,
                frame_counter: row.try_get("frame_counter").map_err(pg)?,
                data_rate: row.try_get("data_rate").map_err(pg)?,
                frequency_hz: row.try_get("frequency").map_err(pg)?,
                group_type: row.try_get("group_type").map_err(pg)?,
                secrets: secrets::open_map(&self.cipher, row.try_get("settings_enc").map_err(pg)?)?,
            },
            network_id: row.try_get::<_, Option<Uuid>>("chirpstack_group_id").map_err(pg)?.map(|id| id.to_string()),
            devices: devices.into_iter().map(DeviceId).collect(),
            stamps: stamps(row)?,
        })
    }

    async fn one_multicast(
        &self,
        db: &impl deadpool_postgres::GenericClient,
        id: i64,
    ) -> Result<MulticastRow, AdminError> {
        let row = db.query_opt(&format!("{SELECT} WHERE m.id = $1"), &[&id]).await.map_err(pg)?;
        self.multicast_of(&row.ok_or(AdminError::NotFound)?)
    }

    async fn write_multicast(
        &self,
        write: &Write<'_>,
        id: i64,
        fields: &MulticastFields,
        devices: &[DeviceId],
        network: Option<&str>,
    ) -> Result<(), AdminError> {
        let network = network.map(network_id).transpose()?;
        write
            .db()
            .execute(
                "UPDATE multicast SET name = $2, address = $3, frame_counter = $4, data_rate = $5, frequency = $6, \
                 group_type = $7, settings_enc = $8, chirpstack_group_id = $9, updated_by = $10, updated_at = now() \
                 WHERE id = $1",
                &[
                    &id,
                    &fields.name,
                    &fields.address,
                    &fields.frame_counter,
                    &fields.data_rate,
                    &fields.frequency_hz,
                    &fields.group_type,
                    &secrets::seal_map(&self.cipher, &fields.secrets),
                    &network,
                    &write.user_id(),
                ],
            )
            .await
            .map_err(pg)?;
        let mut devices: Vec<i64> = devices.iter().map(|device| device.0).collect();
        devices.sort_unstable();
        devices.dedup();
        let db = write.db();
        db.execute("DELETE FROM multicast_device WHERE multicast_id = $1", &[&id]).await.map_err(pg)?;
        let num_added = db
            .execute(
                "INSERT INTO multicast_device (multicast_id, device_id) SELECT $1, d.id FROM iot_device d \
                 WHERE d.id = ANY($2) AND d.application_id = $3 AND d.type = 'LORAWAN'",
                &[&id, &devices, &fields.application.0],
            )
            .await
            .map_err(pg)?;
        if num_added == devices.len() as u64 { Ok(()) } else { Err(AdminError::BadReference("device")) }
    }
}

#[async_trait]
impl MulticastStore for PgAdminStore {
    async fn multicasts(
        &self,
        visible: &Visible,
        application: Option<ApplicationId>,
        page: &Page,
    ) -> Result<Listed<MulticastRow>, AdminError> {
        const WHERE: &str = "WHERE ($1::bigint[] IS NULL OR a.organization_id = ANY($1) OR m.application_id = ANY($2)) \
             AND ($3::bigint IS NULL OR m.application_id = $3)";
        let client = self.client().await?;
        let (organizations, applications) = visible_ids(visible);
        let application = application.map(|a| a.0);
        let order = order_by(page, &[("groupName", "m.name")], "m.id");
        let rows = client
            .query(
                &format!("{SELECT} {WHERE} ORDER BY {order} LIMIT $4 OFFSET $5"),
                &[&organizations, &applications, &application, &page.limit, &page.offset],
            )
            .await
            .map_err(pg)?;
        let count = format!("SELECT count(*) FROM multicast m JOIN application a ON a.id = m.application_id {WHERE}");
        let num_all = client
            .query_one(&count, &[&organizations, &applications, &application])
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(|row| self.multicast_of(row)).collect::<Result<_, _>>()?, num_all })
    }

    async fn multicast(&self, id: i64) -> Result<MulticastRow, AdminError> {
        self.one_multicast(&self.client().await?, id).await
    }

    async fn multicast_of_network(&self, id: &str) -> Result<Option<MulticastRow>, AdminError> {
        let Ok(id) = network_id(id) else { return Ok(None) };
        let sql = format!("{SELECT} WHERE m.chirpstack_group_id = $1");
        let row = self.client().await?.query_opt(&sql, &[&id]).await.map_err(pg)?;
        row.map(|row| self.multicast_of(&row)).transpose()
    }

    async fn create_multicast(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &MulticastFields,
        devices: &[DeviceId],
        network: Option<&str>,
    ) -> Result<MulticastRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let organization = organization_of(write.db(), fields.application).await?;
        write.check(&application_resource(fields.application, organization))?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO multicast (application_id, name, address, frame_counter, data_rate, frequency, group_type, \
                 created_by) VALUES ($1, $2, '', 0, 0, 0, '', $3) RETURNING id",
                &[&fields.application.0, &fields.name, &write.user_id()],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        self.write_multicast(&write, id, fields, devices, network).await?;
        write.record(ChangeAction::Create, ChangedEntity::Multicast, id, None).await?;
        let made = self.one_multicast(write.db(), id).await?;
        write.commit().await?;
        Ok(made)
    }

    async fn update_multicast(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        fields: &MulticastFields,
        devices: &[DeviceId],
        network: Option<&str>,
    ) -> Result<MulticastRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let snapshot = write.snapshot(ChangedEntity::Multicast, id).await?.ok_or(AdminError::NotFound)?;
        let before = self.one_multicast(write.db(), id).await?;
        write.check(&application_resource(before.fields.application, before.organization))?;
        if fields.application != before.fields.application {
            return Err(AdminError::BadReference("application"));
        }
        self.write_multicast(&write, id, fields, devices, network).await?;
        write.record(ChangeAction::Update, ChangedEntity::Multicast, id, Some(snapshot)).await?;
        let after = self.one_multicast(write.db(), id).await?;
        write.commit().await?;
        Ok(after)
    }

    async fn delete_multicast(&self, permit: &Permit, by: &ChangedBy, id: i64) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let snapshot = write.snapshot(ChangedEntity::Multicast, id).await?.ok_or(AdminError::NotFound)?;
        let before = self.one_multicast(write.db(), id).await?;
        write.check(&application_resource(before.fields.application, before.organization))?;
        let num = write.db().execute("DELETE FROM multicast WHERE id = $1", &[&id]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Multicast, id, Some(snapshot)).await?;
        write.commit().await?;
        Ok(NumDeleted(num))
    }

    async fn record_multicast_downlink(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        id: i64,
        port: i64,
    ) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let group = self.one_multicast(write.db(), id).await?;
        write.check(&application_resource(group.fields.application, group.organization))?;
        let after = json!({"name": group.fields.name, "multicast_id": id, "port": port});
        write.note(ChangeAction::Create, ChangedEntity::Downlink, None, Some(after)).await?;
        write.commit().await
    }
}
