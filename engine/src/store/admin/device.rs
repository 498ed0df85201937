//! Devices as rows in PostgreSQL. Every write is one transaction with its audit entry and change event (I5), and checks its
//! permit against the locked row: a device that moved meanwhile is not changed.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use sluse_schema::change::ChangedEntity;
use sluse_schema::device::DeviceCounters;
use sluse_schema::id::{ApplicationId, DecoderId, DeviceId, DeviceKey, OrganizationId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::device::{
    DeviceAdminStore, DeviceFields, DeviceOfDecoder, DeviceRow, DeviceType, LatestMessage, NewRoute, StoredState,
};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page};
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::{application_resource, covers, organization_of, stamps, visible_ids};
use super::{PgAdminStore, pg, secrets};
use crate::store::window_bytes;

pub(super) const COLUMNS: &str = "d.id, d.application_id, a.organization_id, d.device_model_id, d.type, d.name, d.longitude, \
     d.latitude, d.comment_on_location, d.comment, d.metadata, d.device_eui, d.api_key_enc, d.settings, d.settings_enc, \
     d.created_at, d.updated_at, d.created_by, d.updated_by";

pub(super) const FROM: &str = "FROM iot_device d JOIN application a ON a.id = d.application_id";

impl PgAdminStore {
    pub(super) fn device_of(&self, row: &Row) -> Result<DeviceRow, AdminError> {
        let kind: &str = row.try_get("type").map_err(pg)?;
        let settings: Value = row.try_get("settings").map_err(pg)?;
        let api_key: Option<&[u8]> = row.try_get("api_key_enc").map_err(pg)?;
        let dev_eui: Option<&str> = row.try_get("device_eui").map_err(pg)?;
        Ok(DeviceRow {
            id: DeviceId(row.try_get("id").map_err(pg)?),
            organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
            fields: DeviceFields {
                application: ApplicationId(row.try_get("application_id").map_err(pg)?),
                device_model: row.try_get("device_model_id").map_err(pg)?,
                kind: DeviceType::of_str(kind).ok_or_else(|| secrets::unreadable("iot_device.type"))?,
                name: row.try_get("name").map_err(pg)?,
                longitude: row.try_get("longitude").map_err(pg)?,
                latitude: row.try_get("latitude").map_err(pg)?,
                comment_on_location: row.try_get("comment_on_location").map_err(pg)?,
                comment: row.try_get("comment").map_err(pg)?,
                metadata: row.try_get("metadata").map_err(pg)?,
                dev_eui: dev_eui.and_then(|text| text.parse().ok()),
                api_key: api_key.map(|sealed| secrets::open(&self.cipher, sealed)).transpose()?,
                settings: if let Value::Object(map) = settings { map } else { Map::new() },
                secrets: secrets::open_map(&self.cipher, row.try_get("settings_enc").map_err(pg)?)?,
            },
            stamps: stamps(row)?,
        })
    }

    async fn one_device(
        &self,
        client: &impl deadpool_postgres::GenericClient,
        id: DeviceId,
    ) -> Result<DeviceRow, AdminError> {
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE d.id = $1");
        let row = client.query_opt(&sql, &[&id.0]).await.map_err(pg)?.ok_or(AdminError::NotFound)?;
        self.device_of(&row)
    }

    /// The device as it is before a write, once the permit was checked against its row. Locks the row.
    async fn begin_device_change(
        &self,
        write: &Write<'_>,
        id: DeviceId,
    ) -> Result<(DeviceRow, Option<Value>), AdminError> {
        let snapshot = write.snapshot(ChangedEntity::Device, id.0).await?.ok_or(AdminError::NotFound)?;
        let device = self.one_device(write.db(), id).await?;
        write.check(&application_resource(device.fields.application, device.organization))?;
        Ok((device, Some(snapshot)))
    }

    /// Writes the columns that people set.
    async fn write_device(&self, write: &Write<'_>, id: DeviceId, fields: &DeviceFields) -> Result<(), AdminError> {
        let sealed = Sealed::of(self, fields);
        write
            .db()
            .execute(
                "UPDATE iot_device SET application_id = $2, device_model_id = $3, name = $4, longitude = $5, \
                 latitude = $6, comment_on_location = $7, comment = $8, metadata = $9, device_eui = $10, \
                 api_key_hash = $11, api_key_enc = $12, settings = $13, settings_enc = $14, updated_by = $15, \
                 updated_at = now() WHERE id = $1",
                &[
                    &id.0,
                    &fields.application.0,
                    &fields.device_model,
                    &fields.name,
                    &fields.longitude,
                    &fields.latitude,
                    &fields.comment_on_location,
                    &fields.comment,
                    &fields.metadata,
                    &sealed.dev_eui,
                    &sealed.api_key_hash,
                    &sealed.api_key,
                    &sealed.settings,
                    &sealed.secrets,
                    &write.user_id(),
                ],
            )
            .await
            .map_err(pg)?;
        Ok(())
    }
}

/// What goes into the columns that are not stored as they are.
struct Sealed {
    dev_eui: Option<String>,
    api_key_hash: Option<Vec<u8>>,
    api_key: Option<Vec<u8>>,
    settings: Value,
    secrets: Option<Vec<u8>>,
}

impl Sealed {
    fn of(store: &PgAdminStore, fields: &DeviceFields) -> Self {
        let hash = fields.api_key.as_ref().and_then(|key| match DeviceKey::of_api_key(key.reveal()) {
            DeviceKey::ApiKey(hash) => Some(hash.to_vec()),
            DeviceKey::DevEui(_) => None,
        });
        Self {
            dev_eui: fields.dev_eui.map(|eui| eui.to_string()),
            api_key_hash: hash,
            api_key: fields.api_key.as_ref().map(|key| secrets::seal(&store.cipher, key)),
            settings: Value::Object(fields.settings.clone()),
            secrets: secrets::seal_map(&store.cipher, &fields.secrets),
        }
    }
}

fn latest_of(row: &Row) -> Result<Option<LatestMessage>, AdminError> {
    let Some(sent_at) = row.try_get("latest_event_at").map_err(pg)? else { return Ok(None) };
    let received_at: Option<_> = row.try_get("latest_received_at").map_err(pg)?;
    Ok(Some(LatestMessage {
        payload: row.try_get::<_, Option<Vec<u8>>>("payload").map_err(pg)?.map(Bytes::from),
        sent_at,
        received_at: received_at.unwrap_or(sent_at),
        rssi_dbm: row.try_get("rssi_dbm").map_err(pg)?,
        snr_db: row.try_get("snr_db").map_err(pg)?,
        created_at: row.try_get("state_created_at").map_err(pg)?,
        updated_at: row.try_get("state_updated_at").map_err(pg)?,
    }))
}

fn count(row: &Row, column: &str) -> Result<u64, AdminError> {
    let n: i64 = row.try_get(column).map_err(pg)?;
    Ok(u64::try_from(n).unwrap_or(0))
}

#[async_trait]
impl DeviceAdminStore for PgAdminStore {
    async fn device(&self, id: DeviceId) -> Result<DeviceRow, AdminError> {
        self.one_device(&self.client().await?, id).await
    }

    async fn devices_by_id(&self, ids: &[DeviceId]) -> Result<Vec<DeviceRow>, AdminError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE d.id = ANY($1) ORDER BY d.id");
        let rows = self.client().await?.query(&sql, &[&ids]).await.map_err(pg)?;
        rows.iter().map(|row| self.device_of(row)).collect()
    }

    async fn device_state(&self, id: DeviceId) -> Result<Option<StoredState>, AdminError> {
        let row = self
            .client()
            .await?
            .query_opt(
                "SELECT latest_payload AS payload, latest_received_at, latest_event_at, rssi_dbm, snr_db, transmissions, link, \
                 num_uplinks, num_repeats, num_decode_failures, num_f_cnt_missing, created_at AS state_created_at, \
                 updated_at AS state_updated_at FROM device_state WHERE device_id = $1",
                &[&id.0],
            )
            .await
            .map_err(pg)?;
        let Some(row) = row else { return Ok(None) };
        let transmissions: &[u8] = row.try_get("transmissions").map_err(pg)?;
        let link: &[u8] = row.try_get("link").map_err(pg)?;
        Ok(Some(StoredState {
            latest: latest_of(&row)?,
            transmissions: window_bytes::decode(transmissions)
                .ok_or_else(|| secrets::unreadable("device_state.transmissions"))?,
            link: serde_json::from_slice(link).map_err(|_| secrets::unreadable("device_state.link"))?,
            counters: DeviceCounters {
                num_uplinks: count(&row, "num_uplinks")?,
                num_repeats: count(&row, "num_repeats")?,
                num_decode_failures: count(&row, "num_decode_failures")?,
                num_f_cnt_missing: count(&row, "num_f_cnt_missing")?,
            },
            updated_at: row.try_get("state_updated_at").map_err(pg)?,
        }))
    }

    async fn all_devices_of(&self, application: ApplicationId, num_max: i64) -> Result<Vec<DeviceRow>, AdminError> {
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE d.application_id = $1 ORDER BY d.id LIMIT $2");
        let rows = self.client().await?.query(&sql, &[&application.0, &num_max]).await.map_err(pg)?;
        rows.iter().map(|row| self.device_of(row)).collect()
    }

    async fn devices_of_decoder(
        &self,
        decoder: DecoderId,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<DeviceOfDecoder>, AdminError> {
        let client = self.client().await?;
        let (organizations, applications) = visible_ids(visible);
        const WHERE: &str = "WHERE ($1::bigint[] IS NULL OR a.organization_id = ANY($1) OR d.application_id = ANY($2)) \
             AND EXISTS (SELECT 1 FROM connection_device cd JOIN connection c ON c.id = cd.connection_id \
                         WHERE cd.device_id = d.id AND c.payload_decoder_id = $3)";
        let sql = format!(
            "SELECT d.id, d.name, d.application_id, a.organization_id, s.latest_event_at {FROM} \
             LEFT JOIN device_state s ON s.device_id = d.id {WHERE} ORDER BY d.id LIMIT $4 OFFSET $5"
        );
        let rows = client
            .query(&sql, &[&organizations, &applications, &decoder.0, &page.limit, &page.offset])
            .await
            .map_err(pg)?;
        let num_all = client
            .query_one(&format!("SELECT count(*) {FROM} {WHERE}"), &[&organizations, &applications, &decoder.0])
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        let rows = rows
            .iter()
            .map(|row| {
                Ok(DeviceOfDecoder {
                    id: DeviceId(row.try_get("id").map_err(pg)?),
                    name: row.try_get("name").map_err(pg)?,
                    application: ApplicationId(row.try_get("application_id").map_err(pg)?),
                    organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
                    last_active_at: row.try_get("latest_event_at").map_err(pg)?,
                })
            })
            .collect::<Result<_, AdminError>>()?;
        Ok(Listed { rows, num_all })
    }

    async fn create_device(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &DeviceFields,
    ) -> Result<DeviceRow, AdminError> {
        let sealed = Sealed::of(self, fields);
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let organization = organization_of(write.db(), fields.application).await?;
        write.check(&application_resource(fields.application, organization))?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO iot_device (application_id, device_model_id, type, name, longitude, latitude, \
                 comment_on_location, comment, metadata, device_eui, api_key_hash, api_key_enc, settings, settings_enc, \
                 created_by, updated_by) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15) RETURNING id",
                &[
                    &fields.application.0,
                    &fields.device_model,
                    &fields.kind.as_str(),
                    &fields.name,
                    &fields.longitude,
                    &fields.latitude,
                    &fields.comment_on_location,
                    &fields.comment,
                    &fields.metadata,
                    &sealed.dev_eui,
                    &sealed.api_key_hash,
                    &sealed.api_key,
                    &sealed.settings,
                    &sealed.secrets,
                    &write.user_id(),
                ],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        if fields.kind == DeviceType::MqttInternalBroker {
            // The topic of our own broker names the row, so it is known only now.
            write
                .db()
                .execute(
                    "UPDATE iot_device d SET settings = settings || jsonb_build_object('mqtttopicname', \
                     format('devices/%s/%s/%s', a.organization_id, a.id, d.id)) \
                     FROM application a WHERE d.id = $1 AND a.id = d.application_id",
                    &[&id],
                )
                .await
                .map_err(pg)?;
        }
        write.record(ChangeAction::Create, ChangedEntity::Device, id, None).await?;
        let row = self.one_device(write.db(), DeviceId(id)).await?;
        write.commit().await?;
        Ok(row)
    }

    async fn update_device(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: DeviceId,
        fields: &DeviceFields,
    ) -> Result<DeviceRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = self.begin_device_change(&write, id).await?;
        if fields.application != before.fields.application {
            enter_application(&write, target_permit, fields.application).await?;
            leave_connections(&write, id).await?;
        }
        self.write_device(&write, id, fields).await?;
        write.record(ChangeAction::Update, ChangedEntity::Device, id.0, snapshot).await?;
        let row = self.one_device(write.db(), id).await?;
        write.commit().await?;
        Ok(row)
    }

    async fn move_device(
        &self,
        permit: &Permit,
        target_permit: &Permit,
        by: &ChangedBy,
        id: DeviceId,
        fields: &DeviceFields,
        routes: &[NewRoute],
    ) -> Result<DeviceRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (_, snapshot) = self.begin_device_change(&write, id).await?;
        enter_application(&write, Some(target_permit), fields.application).await?;
        leave_connections(&write, id).await?;
        self.write_device(&write, id, fields).await?;
        write.record(ChangeAction::Update, ChangedEntity::Device, id.0, snapshot).await?;
        for route in routes {
            let connection: i64 = write
                .db()
                .query_opt(
                    "INSERT INTO connection (data_target_id, payload_decoder_id, created_by, updated_by) \
                     SELECT t.id, $2, $4, $4 FROM data_target t WHERE t.id = $1 AND t.application_id = $3 RETURNING id",
                    &[&route.target.0, &route.decoder.map(|d| d.0), &fields.application.0, &write.user_id()],
                )
                .await
                .map_err(pg)?
                .ok_or(AdminError::BadReference("data target"))?
                .try_get(0)
                .map_err(pg)?;
            write
                .db()
                .execute(
                    "INSERT INTO connection_device (connection_id, device_id) VALUES ($1, $2)",
                    &[&connection, &id.0],
                )
                .await
                .map_err(pg)?;
            write.record(ChangeAction::Create, ChangedEntity::Connection, connection, None).await?;
        }
        let row = self.one_device(write.db(), id).await?;
        write.commit().await?;
        Ok(row)
    }

    async fn delete_device(&self, permit: &Permit, by: &ChangedBy, id: DeviceId) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (_, snapshot) = self.begin_device_change(&write, id).await?;
        let num_deleted = write.db().execute("DELETE FROM iot_device WHERE id = $1", &[&id.0]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Device, id.0, snapshot).await?;
        write.commit().await?;
        Ok(NumDeleted(num_deleted))
    }
}

/// Checks that a permit covers the application that a device comes to.
async fn enter_application(
    write: &Write<'_>,
    permit: Option<&Permit>,
    application: ApplicationId,
) -> Result<(), AdminError> {
    let organization = organization_of(write.db(), application).await?;
    covers(permit, &application_resource(application, organization))
}

/// A device that leaves its application leaves the connections there: a connection never crosses applications.
async fn leave_connections(write: &Write<'_>, id: DeviceId) -> Result<(), AdminError> {
    let left = write
        .db()
        .query("DELETE FROM connection_device WHERE device_id = $1 RETURNING connection_id", &[&id.0])
        .await
        .map_err(pg)?;
    let ids: Vec<i64> = left.iter().map(|row| row.get(0)).collect();
    write.touch(ChangedEntity::Connection, &ids).await
}
