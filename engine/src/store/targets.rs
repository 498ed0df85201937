//! Data targets as the data path needs them: configuration, what is asked of them, and what they left behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use sluse_schema::delivery::{DeadLetter, DeadReason, DeliveryKind, DeliveryMeta};
use sluse_schema::device::DecoderScript;
use sluse_schema::id::{ApplicationId, DeadLetterId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{CursorBatch, StoreError, TargetRequest, TargetRequestKind, TargetStore};
use sluse_schema::record::{Offset, Position};
use sluse_schema::secret::Secret;
use sluse_schema::target::{
    HttpTarget, MqttTarget, TargetConfig, TargetCounters, TargetCursor, TargetKind, TargetPolicy, UnreadableTarget,
};
use tokio_postgres::Row;
use xxhash_rust::xxh3::Xxh3Default;

use super::call::call;
use super::cipher::{Cipher, CipherError};
use super::connect::Store;
use super::convert::{count, position};
use super::error::WorkError;
use super::metadata::{self, DeviceRecord};
use super::pool::{lease, within};
use super::{cursor_rows, cursors};

const READ_TIMEOUT: Duration = Duration::from_secs(6);
const TIMEOUT_MS_DEFAULT: u64 = 30_000;
const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;

#[async_trait]
impl TargetStore for Store {
    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError> {
        self.take("deliveries_partition", partition).await
    }

    async fn load_cursors(&self, partition: PartitionId) -> Result<Vec<TargetCursor>, StoreError> {
        call("load_cursors", READ_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let statement = client
                .prepare_cached(
                    "SELECT target_id, log_store, log_incarnation, log_offset, holes, accepted, offered_again, delivered,
                            dead, expired, discarded, rewind_epoch, is_tombstone
                     FROM target_cursor WHERE partition = $1 ORDER BY target_id",
                )
                .await?;
            let rows = client.query(&statement, &[&(partition.0 as i32)]).await?;
            client.done();
            Ok::<_, WorkError>(rows.iter().map(cursor_of).collect())
        })
        .await
    }

    async fn load_targets(
        &self,
        partition: PartitionId,
        targets: Option<&[TargetId]>,
    ) -> Result<Vec<Arc<TargetConfig>>, StoreError> {
        let ids: Option<Vec<i64>> = targets.map(|targets| targets.iter().map(|target| target.0).collect());
        call("load_targets", READ_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let statement = client
                .prepare_cached(
                    "SELECT t.id, t.application_id, a.organization_id, t.name, t.type, t.url, t.timeout_ms, t.secrets_enc,
                            t.mqtt_port, t.mqtt_topic, t.mqtt_qos, t.mqtt_username, t.ca_certificates,
                            t.rate_per_second, t.num_in_flight_max, t.age_seconds_max
                     FROM data_target t JOIN application a ON a.id = t.application_id
                     WHERE t.partition = $1 AND ($2::bigint[] IS NULL OR t.id = ANY($2))
                     ORDER BY t.id",
                )
                .await?;
            let rows = client.query(&statement, &[&(partition.0 as i32), &ids]).await?;
            client.done();
            Ok::<_, WorkError>(rows.iter().map(|row| Arc::new(target_of(row, &self.cipher))).collect())
        })
        .await
    }

    async fn store_cursors(&self, batch: &CursorBatch) -> Result<(), StoreError> {
        cursors::store(self, batch).await
    }

    async fn load_requests(&self, partition: PartitionId) -> Result<Vec<TargetRequest>, StoreError> {
        call("load_requests", READ_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let statement = client
                .prepare_cached(
                    "SELECT r.id, r.target_id, r.kind, r.arguments FROM target_request r
                     JOIN data_target t ON t.id = r.target_id AND t.partition = $1
                     ORDER BY r.id",
                )
                .await?;
            let rows = client.query(&statement, &[&(partition.0 as i32)]).await?;
            client.done();
            Ok::<_, WorkError>(rows.iter().filter_map(request_of).collect())
        })
        .await
    }

    async fn load_dead_letters(
        &self,
        target: TargetId,
        ids: &[DeadLetterId],
    ) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        call("load_dead_letters", READ_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let statement = client
                .prepare_cached(
                    "SELECT id, target_id, device_id, application_id, organization_id, payload_decoder_id, kind, event_key,
                            received_at, content_type, log_offset, reason, num_attempts, status_code, message, decode_error,
                            answer, body, died_at
                     FROM dead_letter WHERE target_id = $1 AND id = ANY($2::bigint[]) ORDER BY id",
                )
                .await?;
            let rows = client.query(&statement, &[&target.0, &ids]).await?;
            client.done();
            Ok::<_, WorkError>(rows.iter().filter_map(dead_letter_of).collect())
        })
        .await
    }

    async fn load_decoder(
        &self,
        decoder: DecoderId,
        device: DeviceId,
    ) -> Result<Option<(Arc<DecoderScript>, Arc<str>)>, StoreError> {
        call("load_decoder", READ_TIMEOUT, async {
            let client = lease(&self.pool).await?;
            let script = self.scripts.load(&client, &[decoder.0]).await?.into_iter().next();
            let sql = format!("SELECT {} FROM {} WHERE d.id = $1", metadata::COLUMNS, metadata::TABLES);
            let statement = client.prepare_cached(&sql).await?;
            let row = client.query_opt(&statement, &[&device.0]).await?;
            client.done();
            let record = row.map(|row| DeviceRecord::of_row(&row).to_json().into());
            Ok::<_, WorkError>(script.zip(record))
        })
        .await
    }
}

impl Store {
    /// Fills in the partition of targets that have none yet (written by an older program, or restored).
    pub(super) async fn assign_target_partitions(&self) -> Result<(), StoreError> {
        within(Duration::from_secs(30), async {
            let client = lease(&self.pool).await?;
            let rows = client.query("SELECT id FROM data_target WHERE partition IS NULL", &[]).await?;
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let partitions: Vec<i32> =
                ids.iter().map(|id| partition_of_target(TargetId(*id), self.num_partitions).0 as i32).collect();
            if !ids.is_empty() {
                client
                    .execute(
                        "UPDATE data_target t SET partition = n.partition
                         FROM unnest($1::bigint[], $2::int[]) AS n(id, partition) WHERE t.id = n.id",
                        &[&ids, &partitions],
                    )
                    .await?;
            }
            client.done();
            Ok::<_, WorkError>(())
        })
        .await
    }
}

fn cursor_of(row: &Row) -> TargetCursor {
    let number = |at: usize| count(row.get(at));
    TargetCursor {
        target: TargetId(row.get(0)),
        position: position(row, 1),
        holes: cursor_rows::decode_holes(row.get(4)),
        counters: TargetCounters {
            accepted: number(5),
            offered_again: number(6),
            delivered: number(7),
            dead: number(8),
            expired: number(9),
            discarded: number(10),
        },
        rewind_epoch: number(11),
        is_tombstone: row.get(12),
    }
}

/// What `secrets_enc` holds.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TargetSecrets {
    authorization_header: Option<String>,
    mqtt_password: Option<String>,
}

fn target_of(row: &Row, cipher: &Cipher) -> TargetConfig {
    let type_text: &str = row.get(4);
    let kind = match read_secrets(row.get(7), cipher) {
        Ok(secrets) => kind_of(row, type_text, secrets),
        Err(error) => unreadable(type_text, format!("its stored secrets cannot be read: {error}")),
    };
    let positive = |at: usize| row.get::<_, Option<i32>>(at).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let defaults = TargetPolicy::default();
    TargetConfig {
        target: TargetId(row.get(0)),
        application: ApplicationId(row.get(1)),
        organization: OrganizationId(row.get(2)),
        name: row.get(3),
        kind,
        policy: TargetPolicy {
            rate_per_second: positive(13),
            num_in_flight_max: positive(14).unwrap_or(defaults.num_in_flight_max),
            age_ms_max: row.get::<_, Option<i64>>(15).filter(|s| *s > 0).map(|s| s.saturating_mul(1000)),
        },
        version: version_of(row),
    }
}

fn read_secrets(encrypted: Option<&[u8]>, cipher: &Cipher) -> Result<TargetSecrets, CipherError> {
    let Some(encrypted) = encrypted else { return Ok(TargetSecrets::default()) };
    serde_json::from_slice(&cipher.decrypt(encrypted)?).map_err(|_| CipherError::Damaged)
}

fn kind_of(row: &Row, type_text: &str, secrets: TargetSecrets) -> TargetKind {
    let url: String = row.get::<_, Option<String>>(5).unwrap_or_default();
    let timeout_ms = u64::try_from(row.get::<_, i64>(6)).ok().filter(|ms| *ms > 0).unwrap_or(TIMEOUT_MS_DEFAULT);
    let ca_certificates = row.get::<_, Option<String>>(12).filter(|pem| !pem.trim().is_empty());
    let secret = |text: Option<String>| Secret::new(text.unwrap_or_default());
    match type_text {
        "HTTP_PUSH" | "FIWARE" => {
            let authorization = secret(secrets.authorization_header);
            let http = HttpTarget { url, timeout_ms, authorization, ca_certificates };
            if type_text == "FIWARE" { TargetKind::Fiware(http) } else { TargetKind::HttpPush(http) }
        }
        "MQTT" => {
            let default_port = if url.starts_with("mqtts") { MQTTS_PORT } else { MQTT_PORT };
            let port = row.get::<_, Option<i32>>(8).and_then(|port| u16::try_from(port).ok());
            let qos = row.get::<_, Option<i16>>(10).and_then(|qos| u8::try_from(qos).ok()).filter(|qos| *qos <= 2);
            TargetKind::Mqtt(MqttTarget {
                port: port.filter(|port| *port > 0).unwrap_or(default_port),
                topic: row.get::<_, Option<String>>(9).unwrap_or_default(),
                qos: qos.unwrap_or(0),
                username: row.get::<_, Option<String>>(11).unwrap_or_default(),
                password: secret(secrets.mqtt_password),
                url,
                timeout_ms,
                ca_certificates,
            })
        }
        "OPENDATADK" => TargetKind::OpenDataDk,
        other => unreadable(other, format!("its type {other} is not known to this version")),
    }
}

fn unreadable(type_text: &str, reason: String) -> TargetKind {
    let known = ["HTTP_PUSH", "FIWARE", "MQTT", "OPENDATADK"];
    let kind = known.into_iter().find(|kind| *kind == type_text).unwrap_or("UNKNOWN");
    TargetKind::Unreadable(UnreadableTarget { kind, reason })
}

/// Changes whenever a column does that [`target_of`] reads.
fn version_of(row: &Row) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = Xxh3Default::new();
    for at in [0, 1, 2, 6, 15] {
        row.get::<_, Option<i64>>(at).hash(&mut hasher);
    }
    for at in [3, 4, 5, 9, 11, 12] {
        row.get::<_, Option<&str>>(at).hash(&mut hasher);
    }
    row.get::<_, Option<&[u8]>>(7).hash(&mut hasher);
    for at in [8, 13, 14] {
        row.get::<_, Option<i32>>(at).hash(&mut hasher);
    }
    row.get::<_, Option<i16>>(10).hash(&mut hasher);
    hasher.finish()
}

fn request_of(row: &Row) -> Option<TargetRequest> {
    let (kind, arguments): (&str, Vec<i64>) = (row.get(2), row.get(3));
    let kind = match (kind, arguments.as_slice()) {
        ("rewind_to_time", [at_ms]) => TargetRequestKind::RewindToTime(*at_ms),
        ("rewind_to_offset", [offset]) => TargetRequestKind::RewindToOffset(count(*offset)),
        ("replay", ids) => TargetRequestKind::Replay(ids.iter().copied().map(DeadLetterId).collect()),
        (kind, _) => {
            tracing::warn!(request = row.get::<_, i64>(0), kind, "left out a request that is not understood");
            return None;
        }
    };
    Some(TargetRequest { id: row.get(0), target: TargetId(row.get(1)), kind })
}

fn dead_letter_of(row: &Row) -> Option<(DeadLetterId, DeadLetter)> {
    let id = DeadLetterId(row.get(0));
    let (kind, event_key, reason): (&str, &[u8], &str) = (row.get(6), row.get(7), row.get(11));
    let kind = [DeliveryKind::Body, DeliveryKind::Undecoded].into_iter().find(|k| k.as_str() == kind);
    let reasons = [DeadReason::Refused, DeadReason::Exhausted, DeadReason::TooOld, DeadReason::Undecoded];
    let reason = reasons.into_iter().find(|r| r.as_str() == reason);
    let (Some(kind), Some(reason), Ok(event_key)) = (kind, reason, event_key.try_into()) else {
        tracing::error!(dead_letter = %id, "left out a dead letter that is not understood");
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ms = |at: usize| row.get::<_, chrono::DateTime<chrono::Utc>>(at).timestamp_millis();
    let meta = DeliveryMeta {
        target: TargetId(row.get(1)),
        device: DeviceId(row.get(2)),
        application: ApplicationId(row.get(3)),
        organization: OrganizationId(row.get(4)),
        decoder: row.get::<_, Option<i64>>(5).map(DecoderId),
        kind,
        event_key: u128::from_be_bytes(event_key),
        received_at_ms: ms(8),
        content_type: row.get(9),
        error: row.get::<_, Option<&[u8]>>(15).map(text),
    };
    let letter = DeadLetter {
        meta,
        offset: Offset(count(row.get(10))).0,
        reason,
        num_attempts: u32::try_from(row.get::<_, i32>(12)).unwrap_or(0),
        status_code: row.get::<_, Option<i32>>(13).and_then(|code| u16::try_from(code).ok()),
        message: text(row.get(14)),
        answer: Bytes::copy_from_slice(row.get(16)),
        body: Bytes::copy_from_slice(row.get(17)),
        died_at_ms: ms(18),
    };
    Some((id, letter))
}
