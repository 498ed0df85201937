//! What people look into and ask of the running data path, read from the rows that its stages write.
//!
//! Limits: one replay or purge handles at most `NUM_LETTERS_MAX` letters; at most 100 requests of one target wait; a list
//! shows texts cut at 4 kB.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::{ApplicationId, DeadLetterId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::inspect::{
    DeadLetterDetail, DeadLetterLine, DecoderErrorFilter, DecoderErrorLine, InspectStore, Letters, NUM_LETTERS_MAX,
    RewindTo, TargetLogLine, TargetState, UnknownSenderLine,
};
use sluse_schema::port::admin::{AdminError, ApplicationRow, ChangedBy, Listed, OrganizationRow, Page};
use sluse_schema::target::TargetCounters;
use sluse_schema::text::printable;
use tokio_postgres::Row;

use super::change::{ChangeAction, Write};
use super::related::{application_resource, visible_ids};
use super::{PgAdminStore, pg};

const TEXT_BYTES_MAX: usize = 4096;
/// So many of the rows whose secrets were shown at once are named.
const NUM_IDS_NOTED_MAX: usize = 1000;
/// More requests than this for one target are refused until its owner took some up.
const NUM_REQUESTS_WAITING_MAX: i64 = 100;

const LETTER_COLUMNS: &str = "l.id, l.device_id, d.name AS device_name, l.payload_decoder_id, l.kind, l.reason, \
     l.num_attempts, l.status_code, l.message, l.received_at, l.died_at, l.log_offset, \
     octet_length(l.body)::bigint AS num_body_bytes";

fn text(row: &Row, column: &str) -> Result<String, AdminError> {
    let bytes: &[u8] = row.try_get(column).map_err(pg)?;
    Ok(printable(bytes, TEXT_BYTES_MAX))
}

fn count(row: &Row, column: &str) -> Result<u64, AdminError> {
    let n: i64 = row.try_get(column).map_err(pg)?;
    Ok(u64::try_from(n).unwrap_or(0))
}

fn letter_of(row: &Row) -> Result<DeadLetterLine, AdminError> {
    let decoder: Option<i64> = row.try_get("payload_decoder_id").map_err(pg)?;
    Ok(DeadLetterLine {
        id: DeadLetterId(row.try_get("id").map_err(pg)?),
        device: DeviceId(row.try_get("device_id").map_err(pg)?),
        device_name: row.try_get("device_name").map_err(pg)?,
        decoder: decoder.map(DecoderId),
        kind: row.try_get("kind").map_err(pg)?,
        reason: row.try_get("reason").map_err(pg)?,
        num_attempts: row.try_get("num_attempts").map_err(pg)?,
        status_code: row.try_get("status_code").map_err(pg)?,
        message: text(row, "message")?,
        received_at: row.try_get("received_at").map_err(pg)?,
        died_at: row.try_get("died_at").map_err(pg)?,
        offset: row.try_get("log_offset").map_err(pg)?,
        num_body_bytes: row.try_get("num_body_bytes").map_err(pg)?,
    })
}

/// The ids of `letters` for SQL (`None`: all) and how many at most.
fn letter_ids(letters: &Letters) -> (Option<Vec<i64>>, i64) {
    let ids = match letters {
        Letters::All => None,
        Letters::These(ids) => Some(ids.iter().take(NUM_LETTERS_MAX).map(|id| id.0).collect()),
    };
    (ids, NUM_LETTERS_MAX as i64)
}

#[async_trait]
impl InspectStore for PgAdminStore {
    async fn target_state(&self, target: TargetId) -> Result<TargetState, AdminError> {
        let row = self
            .client()
            .await?
            .query_one(
                "SELECT t.partition, c.log_offset, octet_length(c.holes) / 8 AS num_holes, \
                 coalesce(c.accepted, 0) AS accepted, coalesce(c.offered_again, 0) AS offered_again, \
                 coalesce(c.delivered, 0) AS delivered, coalesce(c.dead, 0) AS dead, coalesce(c.expired, 0) AS expired, \
                 coalesce(c.discarded, 0) AS discarded, c.status, c.updated_at, \
                 (SELECT count(*) FROM dead_letter l WHERE l.target_id = t.id) AS num_dead_letters, \
                 (SELECT count(*) FROM target_request r WHERE r.target_id = t.id) AS num_requests \
                 FROM data_target t LEFT JOIN target_cursor c ON c.target_id = t.id WHERE t.id = $1",
                &[&target.0],
            )
            .await
            .map_err(pg)?;
        let status: Option<&[u8]> = row.try_get("status").map_err(pg)?;
        Ok(TargetState {
            // A status that this version cannot read is one that another version wrote: its owner writes again in a second.
            status: status.and_then(|bytes| serde_json::from_slice(bytes).ok()),
            counters: TargetCounters {
                accepted: count(&row, "accepted")?,
                offered_again: count(&row, "offered_again")?,
                delivered: count(&row, "delivered")?,
                dead: count(&row, "dead")?,
                expired: count(&row, "expired")?,
                discarded: count(&row, "discarded")?,
            },
            partition: row.try_get("partition").map_err(pg)?,
            offset: row.try_get("log_offset").map_err(pg)?,
            num_holes: row.try_get::<_, Option<i32>>("num_holes").map_err(pg)?.unwrap_or(0).into(),
            num_dead_letters: row.try_get("num_dead_letters").map_err(pg)?,
            num_requests_waiting: row.try_get("num_requests").map_err(pg)?,
            updated_at: row.try_get("updated_at").map_err(pg)?,
        })
    }

    async fn target_log(&self, target: TargetId, num_max: i64) -> Result<Vec<TargetLogLine>, AdminError> {
        let rows = self
            .client()
            .await?
            .query(
                "SELECT id, type, status_code, message, device_id, created_at FROM target_log \
                 WHERE target_id = $1 ORDER BY id DESC LIMIT $2",
                &[&target.0, &num_max],
            )
            .await
            .map_err(pg)?;
        rows.iter()
            .map(|row| {
                let kind: &str = row.try_get("type").map_err(pg)?;
                let device: Option<i64> = row.try_get("device_id").map_err(pg)?;
                Ok(TargetLogLine {
                    id: row.try_get("id").map_err(pg)?,
                    is_error: kind == "ERROR",
                    status_code: row.try_get("status_code").map_err(pg)?,
                    message: text(row, "message")?,
                    device: device.map(DeviceId),
                    created_at: row.try_get("created_at").map_err(pg)?,
                })
            })
            .collect()
    }

    async fn dead_letters(&self, target: TargetId, page: &Page) -> Result<Listed<DeadLetterLine>, AdminError> {
        let client = self.client().await?;
        let direction = if page.is_descending { "DESC" } else { "ASC" };
        let sql = format!(
            "SELECT {LETTER_COLUMNS} FROM dead_letter l LEFT JOIN iot_device d ON d.id = l.device_id \
             WHERE l.target_id = $1 ORDER BY l.id {direction} LIMIT $2 OFFSET $3"
        );
        let rows = client.query(&sql, &[&target.0, &page.limit, &page.offset]).await.map_err(pg)?;
        let num_all = client
            .query_one("SELECT count(*) FROM dead_letter WHERE target_id = $1", &[&target.0])
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        Ok(Listed { rows: rows.iter().map(letter_of).collect::<Result<_, _>>()?, num_all })
    }

    async fn dead_letter(&self, target: TargetId, id: DeadLetterId) -> Result<DeadLetterDetail, AdminError> {
        let sql = format!(
            "SELECT {LETTER_COLUMNS}, l.content_type, l.decode_error, l.answer, l.body FROM dead_letter l \
             LEFT JOIN iot_device d ON d.id = l.device_id WHERE l.target_id = $1 AND l.id = $2"
        );
        let row = self.client().await?.query_opt(&sql, &[&target.0, &id.0]).await.map_err(pg)?;
        let row = row.ok_or(AdminError::NotFound)?;
        let decode_error: Option<&[u8]> = row.try_get("decode_error").map_err(pg)?;
        Ok(DeadLetterDetail {
            line: letter_of(&row)?,
            content_type: row.try_get("content_type").map_err(pg)?,
            decode_error: decode_error.map(|bytes| printable(bytes, TEXT_BYTES_MAX)),
            answer: Bytes::from(row.try_get::<_, Vec<u8>>("answer").map_err(pg)?),
            body: Bytes::from(row.try_get::<_, Vec<u8>>("body").map_err(pg)?),
        })
    }

    async fn request_replay(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        target: TargetId,
        letters: &Letters,
    ) -> Result<u64, AdminError> {
        let (ids, num_max) = letter_ids(letters);
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        hold_target(&write, target).await?;
        // Letters that a waiting request already names are not asked for twice.
        let rows = write
            .db()
            .query(
                "SELECT l.id FROM dead_letter l WHERE l.target_id = $1 AND ($2::bigint[] IS NULL OR l.id = ANY($2)) \
                 AND NOT EXISTS (SELECT 1 FROM target_request r WHERE r.target_id = $1 AND r.kind = 'replay' \
                                 AND l.id = ANY(r.arguments)) \
                 ORDER BY l.id LIMIT $3",
                &[&target.0, &ids, &num_max],
            )
            .await
            .map_err(pg)?;
        let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        if found.is_empty() {
            return Ok(0);
        }
        insert_request(&mut write, target, "replay", &found).await?;
        write.commit().await?;
        Ok(found.len() as u64)
    }

    async fn request_rewind(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        target: TargetId,
        to: RewindTo,
    ) -> Result<i64, AdminError> {
        let (kind, argument) = match to {
            RewindTo::Time(at_ms) => ("rewind_to_time", at_ms),
            RewindTo::Offset(offset) => ("rewind_to_offset", offset),
        };
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        hold_target(&write, target).await?;
        let id = insert_request(&mut write, target, kind, &[argument]).await?;
        write.commit().await?;
        Ok(id)
    }

    async fn purge_dead_letters(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        target: TargetId,
        letters: &Letters,
    ) -> Result<u64, AdminError> {
        let (ids, num_max) = letter_ids(letters);
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        hold_target(&write, target).await?;
        let num_purged = write
            .db()
            .execute(
                "DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE target_id = $1 \
                 AND ($2::bigint[] IS NULL OR id = ANY($2)) ORDER BY id LIMIT $3)",
                &[&target.0, &ids, &num_max],
            )
            .await
            .map_err(pg)?;
        if num_purged == 0 {
            return Ok(0);
        }
        let purged = json!({"deadLettersPurged": num_purged, "ids": ids});
        write.record(ChangeAction::Update, ChangedEntity::Target, target.0, Some(purged)).await?;
        write.commit().await?;
        Ok(num_purged)
    }

    async fn decoder_errors(
        &self,
        filter: DecoderErrorFilter,
        visible: &Visible,
        page: &Page,
    ) -> Result<Listed<DecoderErrorLine>, AdminError> {
        let client = self.client().await?;
        let (organizations, applications) = visible_ids(visible);
        let (condition, id) = match filter {
            DecoderErrorFilter::OfDecoder(id) => ("e.payload_decoder_id = $3", id.0),
            DecoderErrorFilter::OfDevice(id) => ("e.device_id = $3", id.0),
        };
        let from = format!(
            "FROM decoder_error e JOIN payload_decoder p ON p.id = e.payload_decoder_id JOIN iot_device d ON d.id = e.device_id \
             JOIN application a ON a.id = d.application_id \
             WHERE ($1::bigint[] IS NULL OR a.organization_id = ANY($1) OR d.application_id = ANY($2)) AND {condition}"
        );
        let sql = format!(
            "SELECT e.id, e.payload_decoder_id, p.name AS decoder_name, e.device_id, d.name AS device_name, e.kind, e.message, \
             e.sample, e.num_failures, e.failed_at {from} ORDER BY e.id DESC LIMIT $4 OFFSET $5"
        );
        let rows =
            client.query(&sql, &[&organizations, &applications, &id, &page.limit, &page.offset]).await.map_err(pg)?;
        let num_all = client
            .query_one(&format!("SELECT count(*) {from}"), &[&organizations, &applications, &id])
            .await
            .map_err(pg)?
            .try_get(0)
            .map_err(pg)?;
        let errors = rows
            .iter()
            .map(|row| {
                Ok(DecoderErrorLine {
                    id: row.try_get("id").map_err(pg)?,
                    decoder: DecoderId(row.try_get("payload_decoder_id").map_err(pg)?),
                    decoder_name: row.try_get("decoder_name").map_err(pg)?,
                    device: DeviceId(row.try_get("device_id").map_err(pg)?),
                    device_name: row.try_get("device_name").map_err(pg)?,
                    kind: row.try_get("kind").map_err(pg)?,
                    message: text(row, "message")?,
                    sample: Bytes::from(row.try_get::<_, Vec<u8>>("sample").map_err(pg)?),
                    num_failures: row.try_get("num_failures").map_err(pg)?,
                    failed_at: row.try_get("failed_at").map_err(pg)?,
                })
            })
            .collect::<Result<_, AdminError>>()?;
        Ok(Listed { rows: errors, num_all })
    }

    async fn unknown_senders(&self, page: &Page) -> Result<Listed<UnknownSenderLine>, AdminError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT source, sender, num_heard, first_heard_at, last_heard_at FROM unknown_sender \
                 ORDER BY last_heard_at DESC, sender LIMIT $1 OFFSET $2",
                &[&page.limit, &page.offset],
            )
            .await
            .map_err(pg)?;
        let num_all =
            client.query_one("SELECT count(*) FROM unknown_sender", &[]).await.map_err(pg)?.try_get(0).map_err(pg)?;
        let senders = rows
            .iter()
            .map(|row| {
                Ok(UnknownSenderLine {
                    source: row.try_get("source").map_err(pg)?,
                    sender: row.try_get("sender").map_err(pg)?,
                    num_heard: row.try_get("num_heard").map_err(pg)?,
                    first_heard_at: row.try_get("first_heard_at").map_err(pg)?,
                    last_heard_at: row.try_get("last_heard_at").map_err(pg)?,
                })
            })
            .collect::<Result<_, AdminError>>()?;
        Ok(Listed { rows: senders, num_all })
    }

    async fn record_reveal(
        &self,
        permit: &Permit,
        by: &ChangedBy,
        entity: ChangedEntity,
        ids: &[i64],
    ) -> Result<(), AdminError> {
        let mut client = self.client().await?;
        let mut write = Write::begin(&mut client, permit, by).await?;
        match ids {
            [] => return Ok(()),
            [id] => write.note(ChangeAction::Reveal, entity, Some(*id), None).await?,
            many => {
                let some = many.get(..NUM_IDS_NOTED_MAX).unwrap_or(many);
                let shown = json!({"numRows": many.len(), "ids": some});
                write.note(ChangeAction::Reveal, entity, None, Some(shown)).await?;
            }
        }
        write.commit().await
    }

    async fn applications_by_id(&self, ids: &[ApplicationId]) -> Result<Vec<ApplicationRow>, AdminError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        super::related::applications_by_id(&self.client().await?, &ids).await
    }

    async fn organizations_by_id(&self, ids: &[OrganizationId]) -> Result<Vec<OrganizationRow>, AdminError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        super::related::organizations_by_id(&self.client().await?, &ids).await
    }
}

/// Holds the target while something is asked of it, once the permit was checked against its row.
async fn hold_target(write: &Write<'_>, target: TargetId) -> Result<(), AdminError> {
    let row = write
        .db()
        .query_opt(
            "SELECT t.application_id, a.organization_id FROM data_target t JOIN application a ON a.id = t.application_id \
             WHERE t.id = $1 FOR UPDATE OF t",
            &[&target.0],
        )
        .await
        .map_err(pg)?
        .ok_or(AdminError::NotFound)?;
    let application = ApplicationId(row.try_get(0).map_err(pg)?);
    write.check(&application_resource(application, OrganizationId(row.try_get(1).map_err(pg)?)))
}

/// A request for the target's owner, with its line in the change log and the change event that wakes the owner.
async fn insert_request(
    write: &mut Write<'_>,
    target: TargetId,
    kind: &str,
    arguments: &[i64],
) -> Result<i64, AdminError> {
    let num_waiting: i64 = write
        .db()
        .query_one("SELECT count(*) FROM target_request WHERE target_id = $1", &[&target.0])
        .await
        .map_err(pg)?
        .try_get(0)
        .map_err(pg)?;
    if num_waiting >= NUM_REQUESTS_WAITING_MAX {
        return Err(AdminError::InUse("requests that the target's owner has not taken up yet"));
    }
    let id: i64 = write
        .db()
        .query_one(
            "INSERT INTO target_request (target_id, kind, arguments, requested_by) VALUES ($1, $2, $3, $4) RETURNING id",
            &[&target.0, &kind, &arguments, &write.user_id()],
        )
        .await
        .map_err(pg)?
        .try_get(0)
        .map_err(pg)?;
    write.record(ChangeAction::Create, ChangedEntity::TargetRequest, id, None).await?;
    Ok(id)
}
