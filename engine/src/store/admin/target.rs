//! Data targets as rows in PostgreSQL. A deleted target's cursor row stays: the target stage makes it a tombstone and counts
//! what was pending as discarded.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, OrganizationId, TargetId};
use sluse_schema::partition::partition_of_target;
use sluse_schema::permission::Visible;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::target::{Dataset, TargetAdminStore, TargetFields, TargetRow, TargetType};
use sluse_schema::port::admin::{AdminError, ChangedBy, Listed, NumDeleted, Page, Stamps};
use sluse_schema::secret::Secret;
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::{application_resource, covers, order_by, organization_of, stamps, visible_ids};
use super::{PgAdminStore, pg, secrets};

const COLUMNS: &str = "t.id, t.application_id, a.organization_id, t.type, t.name, t.url, t.timeout_ms, t.secrets_enc, \
     t.mqtt_port, t.mqtt_topic, t.mqtt_qos, t.mqtt_username, t.tenant, t.context, t.token_endpoint, t.client_id, \
     t.ca_certificates, t.rate_per_second, t.num_in_flight_max, t.age_seconds_max, t.last_message_at, t.created_at, \
     t.updated_at, t.created_by, t.updated_by, \
     EXISTS (SELECT 1 FROM target_log l WHERE l.target_id = t.id AND l.type = 'ERROR' \
             AND l.created_at > now() - interval '24 hours') AS has_recent_errors, \
     o.id AS dataset_id, o.name AS dataset_name, o.description, o.keywords, o.license, o.author_name, o.author_email, \
     o.resource_title, o.update_frequency, o.documentation_url, o.data_directory, o.created_at AS dataset_created_at, \
     o.updated_at AS dataset_updated_at, o.created_by AS dataset_created_by, o.updated_by AS dataset_updated_by";

const FROM: &str = "FROM data_target t JOIN application a ON a.id = t.application_id \
     LEFT JOIN open_data_dk_dataset o ON o.data_target_id = t.id";

const AUTHORIZATION: &str = "authorizationHeader";
const MQTT_PASSWORD: &str = "mqttPassword";
const CLIENT_SECRET: &str = "clientSecret";

impl PgAdminStore {
    fn target_of(&self, row: &Row) -> Result<TargetRow, AdminError> {
        let kind: &str = row.try_get("type").map_err(pg)?;
        let mut clear = secrets::open_map(&self.cipher, row.try_get("secrets_enc").map_err(pg)?)?;
        let dataset_id: Option<i64> = row.try_get("dataset_id").map_err(pg)?;
        let dataset = dataset_id.map(|id| dataset_of(row, id)).transpose()?;
        let (dataset, dataset_row) = match dataset {
            Some((dataset, row)) => (Some(dataset), Some(row)),
            None => (None, None),
        };
        Ok(TargetRow {
            id: TargetId(row.try_get("id").map_err(pg)?),
            organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
            fields: TargetFields {
                application: ApplicationId(row.try_get("application_id").map_err(pg)?),
                kind: TargetType::of_str(kind).ok_or_else(|| secrets::unreadable("data_target.type"))?,
                name: row.try_get("name").map_err(pg)?,
                url: row.try_get("url").map_err(pg)?,
                timeout_ms: row.try_get("timeout_ms").map_err(pg)?,
                authorization_header: clear.remove(AUTHORIZATION),
                mqtt_port: row.try_get("mqtt_port").map_err(pg)?,
                mqtt_topic: row.try_get("mqtt_topic").map_err(pg)?,
                mqtt_qos: row.try_get("mqtt_qos").map_err(pg)?,
                mqtt_username: row.try_get("mqtt_username").map_err(pg)?,
                mqtt_password: clear.remove(MQTT_PASSWORD),
                tenant: row.try_get("tenant").map_err(pg)?,
                context: row.try_get("context").map_err(pg)?,
                token_endpoint: row.try_get("token_endpoint").map_err(pg)?,
                client_id: row.try_get("client_id").map_err(pg)?,
                client_secret: clear.remove(CLIENT_SECRET),
                ca_certificates: row.try_get("ca_certificates").map_err(pg)?,
                rate_per_second: row.try_get("rate_per_second").map_err(pg)?,
                num_in_flight_max: row.try_get("num_in_flight_max").map_err(pg)?,
                age_seconds_max: row.try_get("age_seconds_max").map_err(pg)?,
                dataset,
            },
            dataset_row,
            last_message_at: row.try_get("last_message_at").map_err(pg)?,
            has_recent_errors: row.try_get("has_recent_errors").map_err(pg)?,
            stamps: stamps(row)?,
        })
    }

    async fn one_target(
        &self,
        client: &impl deadpool_postgres::GenericClient,
        id: TargetId,
    ) -> Result<TargetRow, AdminError> {
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE t.id = $1");
        let row = client.query_opt(&sql, &[&id.0]).await.map_err(pg)?.ok_or(AdminError::NotFound)?;
        self.target_of(&row)
    }

    /// The target as it is before a write, once the permit was checked against its row. Locks the row.
    async fn begin_target_change(
        &self,
        write: &Write<'_>,
        id: TargetId,
    ) -> Result<(TargetRow, Option<Value>), AdminError> {
        let snapshot = write.snapshot(ChangedEntity::Target, id.0).await?.ok_or(AdminError::NotFound)?;
        let target = self.one_target(write.db(), id).await?;
        write.check(&application_resource(target.fields.application, target.organization))?;
        Ok((target, Some(snapshot)))
    }

    fn seal_target(&self, fields: &TargetFields) -> Option<Vec<u8>> {
        let named = [
            (AUTHORIZATION, &fields.authorization_header),
            (MQTT_PASSWORD, &fields.mqtt_password),
            (CLIENT_SECRET, &fields.client_secret),
        ];
        let clear: BTreeMap<String, Secret> =
            named.into_iter().filter_map(|(name, secret)| Some((name.to_owned(), secret.clone()?))).collect();
        secrets::seal_map(&self.cipher, &clear)
    }
}

pub(super) fn dataset_of(row: &Row, id: i64) -> Result<(Dataset, (i64, Stamps)), AdminError> {
    let dataset = Dataset {
        name: row.try_get("dataset_name").map_err(pg)?,
        description: row.try_get("description").map_err(pg)?,
        keywords: row.try_get("keywords").map_err(pg)?,
        license: row.try_get("license").map_err(pg)?,
        author_name: row.try_get("author_name").map_err(pg)?,
        author_email: row.try_get("author_email").map_err(pg)?,
        resource_title: row.try_get("resource_title").map_err(pg)?,
        update_frequency: row.try_get("update_frequency").map_err(pg)?,
        documentation_url: row.try_get("documentation_url").map_err(pg)?,
        data_directory: row.try_get("data_directory").map_err(pg)?,
    };
    let times = Stamps {
        created_at: row.try_get("dataset_created_at").map_err(pg)?,
        updated_at: row.try_get("dataset_updated_at").map_err(pg)?,
        created_by: row.try_get("dataset_created_by").map_err(pg)?,
        updated_by: row.try_get("dataset_updated_by").map_err(pg)?,
    };
    Ok((dataset, (id, times)))
}

#[async_trait]
impl TargetAdminStore for PgAdminStore {
    async fn target(&self, id: TargetId) -> Result<TargetRow, AdminError> {
        self.one_target(&self.client().await?, id).await
    }

    async fn targets_by_id(&self, ids: &[TargetId]) -> Result<Vec<TargetRow>, AdminError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE t.id = ANY($1) ORDER BY t.id");
        let rows = self.client().await?.query(&sql, &[&ids]).await.map_err(pg)?;
        rows.iter().map(|row| self.target_of(row)).collect()
    }

    async fn targets(
        &self,
        application: Option<ApplicationId>,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<TargetRow>, AdminError> {
        let client = self.client().await?;
        let (organizations, applications) = visible_ids(visible);
        let application = application.map(|a| a.0);
        const NAMES: [(&str, &str); 3] =
            [("name", "t.name"), ("type", "t.type"), ("lastMessageDate", "t.last_message_at")];
        let order = order_by(page, &NAMES, "t.id");
        const WHERE: &str = "WHERE ($1::bigint[] IS NULL OR a.organization_id = ANY($1) OR t.application_id = ANY($2)) \
             AND ($3::bigint IS NULL OR t.application_id = $3)";
        let sql = format!("SELECT {COLUMNS} {FROM} {WHERE} ORDER BY {order} LIMIT $4 OFFSET $5");
        let rows = client
            .query(&sql, &[&organizations, &applications, &application, &page.limit, &page.offset])
            .await
            .map_err(pg)?;
        let num_all = client
            .query_one(
                &format!("SELECT count(*) FROM data_target t JOIN application a ON a.id = t.application_id {WHERE}"),
                &[&organizations, &applications, &application],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        let rows = rows.iter().map(|row| self.target_of(row)).collect::<Result<_, _>>()?;
        Ok(Listed { rows, num_all })
    }

    async fn create_target(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        fields: &TargetFields,
    ) -> Result<TargetRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let organization = organization_of(write.db(), fields.application).await?;
        write.check(&application_resource(fields.application, organization))?;
        let id: i64 = write
            .db()
            .query_one(
                "INSERT INTO data_target (application_id, type, name, created_by) VALUES ($1, $2, $3, $4) RETURNING id",
                &[&fields.application.0, &fields.kind.as_str(), &fields.name, &write.user_id()],
            )
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        let partition = partition_of_target(TargetId(id), self.num_partitions);
        let partition = i32::try_from(partition.0).map_err(|_| secrets::unreadable("the number of partitions"))?;
        write
            .db()
            .execute("UPDATE data_target SET partition = $2 WHERE id = $1", &[&id, &partition])
            .await
            .map_err(pg)?;
        self.write_target(&write, TargetId(id), fields).await?;
        write.record(ChangeAction::Create, ChangedEntity::Target, id, None).await?;
        let row = self.one_target(write.db(), TargetId(id)).await?;
        write.commit().await?;
        Ok(row)
    }

    async fn update_target(
        &self,
        permit: &Permit,
        target_permit: Option<&Permit>,
        by: &ChangedBy,
        id: TargetId,
        fields: &TargetFields,
    ) -> Result<TargetRow, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (before, snapshot) = self.begin_target_change(&write, id).await?;
        if fields.application != before.fields.application {
            let organization = organization_of(write.db(), fields.application).await?;
            covers(target_permit, &application_resource(fields.application, organization))?;
            end_connections(&write, id).await?;
        }
        self.write_target(&write, id, fields).await?;
        write.record(ChangeAction::Update, ChangedEntity::Target, id.0, snapshot).await?;
        let row = self.one_target(write.db(), id).await?;
        write.commit().await?;
        Ok(row)
    }

    async fn delete_target(&self, permit: &Permit, by: &ChangedBy, id: TargetId) -> Result<NumDeleted, AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        let (_, snapshot) = self.begin_target_change(&write, id).await?;
        end_connections(&write, id).await?;
        let num_deleted = write.db().execute("DELETE FROM data_target WHERE id = $1", &[&id.0]).await.map_err(pg)?;
        write.record(ChangeAction::Delete, ChangedEntity::Target, id.0, snapshot).await?;
        write.commit().await?;
        Ok(NumDeleted(num_deleted))
    }
}

impl PgAdminStore {
    /// Writes every column that people set, and the data set.
    async fn write_target(&self, write: &Write<'_>, id: TargetId, fields: &TargetFields) -> Result<(), AdminError> {
        let tx = write.db();
        tx.execute(
            "UPDATE data_target SET application_id = $2, name = $3, url = $4, timeout_ms = $5, secrets_enc = $6, \
                 mqtt_port = $7, mqtt_topic = $8, mqtt_qos = $9, mqtt_username = $10, tenant = $11, context = $12, \
                 token_endpoint = $13, client_id = $14, ca_certificates = $15, rate_per_second = $16, \
                 num_in_flight_max = $17, age_seconds_max = $18, updated_by = $19, updated_at = now() \
                 WHERE id = $1",
            &[
                &id.0,
                &fields.application.0,
                &fields.name,
                &fields.url,
                &fields.timeout_ms,
                &self.seal_target(fields),
                &fields.mqtt_port,
                &fields.mqtt_topic,
                &fields.mqtt_qos,
                &fields.mqtt_username,
                &fields.tenant,
                &fields.context,
                &fields.token_endpoint,
                &fields.client_id,
                &fields.ca_certificates,
                &fields.rate_per_second,
                &fields.num_in_flight_max,
                &fields.age_seconds_max,
                &write.user_id(),
            ],
        )
        .await
        .map_err(pg)?;
        let Some(dataset) = &fields.dataset else {
            tx.execute("DELETE FROM open_data_dk_dataset WHERE data_target_id = $1", &[&id.0]).await.map_err(pg)?;
            return Ok(());
        };
        tx.execute(
            "INSERT INTO open_data_dk_dataset (data_target_id, name, description, keywords, license, author_name, \
             author_email, resource_title, update_frequency, documentation_url, data_directory, created_by, updated_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) \
             ON CONFLICT (data_target_id) DO UPDATE SET name = $2, description = $3, keywords = $4, license = $5, \
             author_name = $6, author_email = $7, resource_title = $8, update_frequency = $9, documentation_url = $10, \
             data_directory = $11, updated_by = $12, updated_at = now()",
            &[
                &id.0,
                &dataset.name,
                &dataset.description,
                &dataset.keywords,
                &dataset.license,
                &dataset.author_name,
                &dataset.author_email,
                &dataset.resource_title,
                &dataset.update_frequency,
                &dataset.documentation_url,
                &dataset.data_directory,
                &write.user_id(),
            ],
        )
        .await
        .map_err(pg)?;
        Ok(())
    }
}

/// Ends the connections of a target that goes or moves, and tells the devices that were connected.
async fn end_connections(write: &Write<'_>, id: TargetId) -> Result<(), AdminError> {
    let devices = write
        .db()
        .query(
            "SELECT DISTINCT cd.device_id FROM connection_device cd JOIN connection c ON c.id = cd.connection_id \
             WHERE c.data_target_id = $1",
            &[&id.0],
        )
        .await
        .map_err(pg)?;
    let ended = write
        .db()
        .query("DELETE FROM connection WHERE data_target_id = $1 RETURNING id", &[&id.0])
        .await
        .map_err(pg)?;
    let ids = |rows: &[Row]| rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>();
    write.touch(ChangedEntity::Connection, &ids(&ended)).await?;
    write.touch(ChangedEntity::Device, &ids(&devices)).await
}
