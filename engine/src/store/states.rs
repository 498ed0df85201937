//! State rows that follow the log: one coalesced row per changed device, written with the partition's state position.
//!
//! A row that stands as far as ours, or further, is left alone: an older flush that comes late changes nothing. The payload is
//! written when there is a new one and kept otherwise. Rows of deleted devices are skipped by the join.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use sluse_schema::device::{DeviceCounters, DeviceState, DownlinkOutcome, Latest, LinkState, SeenEvent};
use sluse_schema::id::DeviceId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{StateBatch, StoreError};
use sluse_schema::record::{LogIdentity, Position};
use tokio_postgres::Row;

use super::call::{Care, Form, Rows, call, write_rows};
use super::connect::Store;
use super::convert::{bigint, count, position, time};
use super::error::WorkError;
use super::pool::lease;
use super::window_bytes;

/// A flush of some thousand rows, a lock wait, and a repeat by halves fit in here.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(15);
const SEEN_EVENT_BYTES: usize = 24;

/// What [`state_of_row`] reads, from `device_state s`.
pub const COLUMNS: &str = "s.device_id, s.log_store, s.log_incarnation, s.log_offset, s.latest_received_at,
    s.latest_event_at, s.latest_offset, s.rssi_dbm, s.snr_db, s.f_cnt, s.transmissions, s.seen_events, s.link,
    s.num_uplinks, s.num_repeats, s.num_decode_failures, s.num_f_cnt_missing";

/// The state whose columns start at `at`; `None` when there is no row. The payload stays where it is.
pub fn state_of_row(row: &Row, at: usize) -> Option<DeviceState> {
    let device = DeviceId(row.get::<_, Option<i64>>(at)?);
    let number = |column: usize| count(row.get(at + column));
    let (transmissions, seen, link): (&[u8], &[u8], &[u8]) = (row.get(at + 10), row.get(at + 11), row.get(at + 12));
    let rssi_dbm: Option<i32> = row.get(at + 7);
    let snr_db: Option<f32> = row.get(at + 8);
    let latest = row.get::<_, Option<i64>>(at + 6).map(|offset| {
        let [received_at_ms, event_at_ms] =
            [4, 5].map(|column| row.get::<_, Option<DateTime<Utc>>>(at + column).map(|at| at.timestamp_millis()));
        Latest {
            event_at_ms: event_at_ms.or(received_at_ms).unwrap_or(0),
            received_at_ms: received_at_ms.unwrap_or(0),
            offset: count(offset),
            rssi_dbm,
            snr_db,
            payload: None,
        }
    });
    Some(DeviceState {
        device,
        applied: position(row, at + 1).map(|Position { log, offset }| (Arc::new(log), offset.0)),
        latest,
        window: window_bytes::decode(transmissions).unwrap_or_else(|| {
            tracing::warn!(%device, "the stored window of transmissions is not readable, starting it anew");
            VecDeque::new()
        }),
        seen: decode_seen(seen),
        link: Some(link_of(link, device)).filter(|link| *link != LinkState::default()).map(Box::new),
        downlinks: Vec::new(),
        f_cnt: row.get::<_, Option<i64>>(at + 9).and_then(|f_cnt| u32::try_from(f_cnt).ok()),
        counters: DeviceCounters {
            num_uplinks: number(13),
            num_repeats: number(14),
            num_decode_failures: number(15),
            num_f_cnt_missing: number(16),
        },
    })
}

/// What we wrote ourselves; anything else counts as nothing rather than stopping the device.
fn link_of(json: &[u8], device: DeviceId) -> LinkState {
    serde_json::from_slice(json).unwrap_or_else(|error| {
        tracing::warn!(%device, %error, "the stored link state is not readable, starting it anew");
        LinkState::default()
    })
}

fn decode_seen(bytes: &[u8]) -> VecDeque<SeenEvent> {
    let number = |chunk: &[u8], at: usize| {
        let mut eight = [0u8; 8];
        eight.copy_from_slice(&chunk[at..at + 8]);
        u64::from_be_bytes(eight)
    };
    bytes
        .chunks_exact(SEEN_EVENT_BYTES)
        .map(|chunk| SeenEvent {
            repeat_key: number(chunk, 0),
            offset: number(chunk, 8),
            received_at_ms: number(chunk, 16).cast_signed(),
        })
        .collect()
}

fn encode_seen(seen: &VecDeque<SeenEvent>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(seen.len() * SEEN_EVENT_BYTES);
    for event in seen {
        bytes.extend_from_slice(&event.repeat_key.to_be_bytes());
        bytes.extend_from_slice(&event.offset.to_be_bytes());
        bytes.extend_from_slice(&event.received_at_ms.to_be_bytes());
    }
    bytes
}

/// Writes a flush: fast, and by halves when its data is refused.
pub(super) async fn store(store: &Store, batch: &StateBatch) -> Result<(), StoreError> {
    call("store_states", FLUSH_TIMEOUT, async {
        let mut client = lease(&store.pool).await?;
        let rows = StateRows(&batch.states);
        for care in [Care::Fast, Care::ByHalves] {
            let mut transaction = client.transaction().await?;
            // What a crash of PostgreSQL takes back is replayed from the log: nobody has to wait for its disk.
            transaction.batch_execute("SET LOCAL synchronous_commit TO off").await?;
            let fence = Fence { table: "uplinks_partition", partition: batch.partition, epoch: batch.epoch };
            if let Err(error) = fence.advance(&transaction, &batch.position).await {
                transaction.rollback().await?;
                client.done();
                return Err(error);
            }
            match write_rows(&mut transaction, &rows, care).await {
                Ok(()) => {
                    transaction.commit().await?;
                    break;
                }
                Err(error) if error.is_refused() && care == Care::Fast => transaction.rollback().await?,
                Err(error) => return Err(error),
            }
        }
        client.done();
        Ok(())
    })
    .await
}

/// The row that says whose a partition is (I8): every flush moves its position under our epoch, or is refused.
pub(super) struct Fence {
    pub table: &'static str,
    pub partition: PartitionId,
    pub epoch: i64,
}

impl Fence {
    /// Moves the position; the row stays locked until the transaction ends, so that nobody takes the partition in between.
    pub async fn advance(&self, transaction: &Transaction<'_>, position: &Position) -> Result<(), WorkError> {
        let Self { table, partition, epoch } = self;
        let sql = format!(
            "UPDATE {table} SET log_store = $3, log_incarnation = $4, log_offset = $5, updated_at = now()
             WHERE partition = $1 AND epoch = $2"
        );
        let statement = transaction.prepare_cached(&sql).await?;
        let LogIdentity { store, incarnation } = &position.log;
        let number = partition.0 as i32;
        let num_moved = transaction
            .execute(&statement, &[&number, epoch, store, &bigint(*incarnation), &bigint(position.offset.0)])
            .await?;
        if num_moved == 1 {
            return Ok(());
        }
        let sql = format!("SELECT epoch FROM {table} WHERE partition = $1");
        let current = transaction.query_opt(&sql, &[&number]).await?.map_or(0, |row| row.get(0));
        Err(StoreError::Fenced { partition: partition.0, current, ours: *epoch }.into())
    }
}

struct StateRows<'a>(&'a [DeviceState]);

/// A row is behind when it belongs to another log, or to an earlier place of this one.
const WHERE_BEHIND: &str = "WHERE s.log_store IS NULL OR s.log_store <> excluded.log_store
        OR (s.log_incarnation, s.log_offset) < (excluded.log_incarnation, excluded.log_offset)";

/// Leaves out rows of devices that are gone.
const JOIN_DEVICES: &str = "JOIN iot_device d ON d.id = n.device_id";

#[async_trait]
impl Rows for StateRows<'_> {
    fn table(&self) -> &'static str {
        "device_state"
    }

    fn num_rows(&self) -> usize {
        self.0.len()
    }

    fn num_bytes(&self, row: usize) -> usize {
        let payload = self.0.get(row).and_then(|state| state.latest.as_ref()?.payload.as_ref());
        2048 + payload.map_or(0, bytes::Bytes::len)
    }

    fn name(&self, row: usize) -> String {
        self.0.get(row).map_or_else(String::new, |state| format!("device {}", state.device))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError> {
        let states = self.0.get(rows).unwrap_or_default();
        let counters = Counters::of(states);
        match form {
            // No look-up per row, and no plan that reads all devices: a new row's foreign key tells of one that is gone.
            Form::Trusting => counters.write_whole(transaction, &Details::of(states), "").await?,
            Form::Whole => counters.write_whole(transaction, &Details::of(states), JOIN_DEVICES).await?,
            Form::Reduced => counters.write(transaction).await?,
        }
        if form == Form::Reduced { Ok(()) } else { write_downlinks(transaction, states).await }
    }
}

/// Writes what became of downlinks into their rows, if they have any: a device's own only.
async fn write_downlinks(transaction: &Transaction<'_>, states: &[DeviceState]) -> Result<(), WorkError> {
    let outcomes: Vec<(i64, &DownlinkOutcome)> =
        states.iter().flat_map(|state| state.downlinks.iter().map(|outcome| (state.device.0, outcome))).collect();
    if outcomes.is_empty() {
        return Ok(());
    }
    let statement = transaction
        .prepare_cached(
            "UPDATE downlink d SET f_cnt_down = coalesce(n.f_cnt_down, d.f_cnt_down),
                sent_at = coalesce(n.sent_at, d.sent_at), acknowledged_at = coalesce(n.acknowledged_at, d.acknowledged_at),
                is_acknowledged = coalesce(n.is_acknowledged, d.is_acknowledged)
             FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::boolean[])
                  AS n(device_id, queue_item_id, f_cnt_down, sent_at, acknowledged_at, is_acknowledged)
             WHERE d.queue_item_id = n.queue_item_id AND d.device_id = n.device_id",
        )
        .await?;
    let devices: Vec<i64> = outcomes.iter().map(|(device, _)| *device).collect();
    let items: Vec<&str> = outcomes.iter().map(|(_, outcome)| outcome.queue_item_id.as_str()).collect();
    let f_cnts: Vec<Option<i64>> = outcomes.iter().map(|(_, outcome)| outcome.f_cnt_down.map(i64::from)).collect();
    let sent_at: Vec<_> = outcomes.iter().map(|(_, outcome)| outcome.sent_at_ms.and_then(time)).collect();
    let acknowledged_at: Vec<_> =
        outcomes.iter().map(|(_, outcome)| outcome.acknowledged_at_ms.and_then(time)).collect();
    let acknowledged: Vec<Option<bool>> = outcomes.iter().map(|(_, outcome)| outcome.is_acknowledged).collect();
    transaction.execute(&statement, &[&devices, &items, &f_cnts, &sent_at, &acknowledged_at, &acknowledged]).await?;
    Ok(())
}

/// The columns that PostgreSQL never refuses.
struct Counters<'a> {
    devices: Vec<i64>,
    stores: Vec<Option<&'a str>>,
    incarnations: Vec<Option<i64>>,
    offsets: Vec<Option<i64>>,
    f_cnts: Vec<Option<i64>>,
    nums: [Vec<i64>; 4],
}

impl<'a> Counters<'a> {
    fn of(states: &'a [DeviceState]) -> Self {
        let applied = |state: &'a DeviceState| state.applied.as_ref();
        let num = |of: fn(&DeviceCounters) -> u64| states.iter().map(|state| bigint(of(&state.counters))).collect();
        Self {
            devices: states.iter().map(|state| state.device.0).collect(),
            stores: states.iter().map(|state| applied(state).map(|(log, _)| log.store.as_str())).collect(),
            incarnations: states.iter().map(|state| applied(state).map(|(log, _)| bigint(log.incarnation))).collect(),
            offsets: states.iter().map(|state| applied(state).map(|(_, offset)| bigint(*offset))).collect(),
            f_cnts: states.iter().map(|state| state.f_cnt.map(i64::from)).collect(),
            nums: [
                num(|c| c.num_uplinks),
                num(|c| c.num_repeats),
                num(|c| c.num_decode_failures),
                num(|c| c.num_f_cnt_missing),
            ],
        }
    }

    async fn write(&self, transaction: &Transaction<'_>) -> Result<(), WorkError> {
        let sql = format!(
            "INSERT INTO device_state AS s (device_id, log_store, log_incarnation, log_offset, f_cnt,
                    num_uplinks, num_repeats, num_decode_failures, num_f_cnt_missing)
             SELECT n.* FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
                    $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]) AS n(device_id)
             {JOIN_DEVICES}
             ON CONFLICT (device_id) DO UPDATE SET
                log_store = excluded.log_store, log_incarnation = excluded.log_incarnation,
                log_offset = excluded.log_offset, f_cnt = excluded.f_cnt,
                num_uplinks = excluded.num_uplinks, num_repeats = excluded.num_repeats,
                num_decode_failures = excluded.num_decode_failures,
                num_f_cnt_missing = excluded.num_f_cnt_missing, updated_at = now()
             {WHERE_BEHIND}"
        );
        let statement = transaction.prepare_cached(&sql).await?;
        let [uplinks, repeats, failures, missing] = &self.nums;
        transaction
            .execute(
                &statement,
                &[
                    &self.devices,
                    &self.stores,
                    &self.incarnations,
                    &self.offsets,
                    &self.f_cnts,
                    uplinks,
                    repeats,
                    failures,
                    missing,
                ],
            )
            .await?;
        Ok(())
    }

    async fn write_whole(
        &self,
        transaction: &Transaction<'_>,
        details: &Details<'a>,
        join: &str,
    ) -> Result<(), WorkError> {
        let sql = format!(
            "INSERT INTO device_state AS s (device_id, log_store, log_incarnation, log_offset, f_cnt,
                    num_uplinks, num_repeats, num_decode_failures, num_f_cnt_missing,
                    latest_payload, latest_received_at, latest_event_at, latest_offset, rssi_dbm, snr_db,
                    transmissions, seen_events, link)
             SELECT n.* FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
                    $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                    $10::bytea[], $11::timestamptz[], $12::timestamptz[], $13::bigint[], $14::int[], $15::real[],
                    $16::bytea[], $17::bytea[], $18::bytea[]) AS n(device_id)
             {join}
             ON CONFLICT (device_id) DO UPDATE SET
                log_store = excluded.log_store, log_incarnation = excluded.log_incarnation,
                log_offset = excluded.log_offset, f_cnt = excluded.f_cnt,
                num_uplinks = excluded.num_uplinks, num_repeats = excluded.num_repeats,
                num_decode_failures = excluded.num_decode_failures, num_f_cnt_missing = excluded.num_f_cnt_missing,
                latest_payload = coalesce(excluded.latest_payload, s.latest_payload),
                latest_received_at = excluded.latest_received_at, latest_event_at = excluded.latest_event_at,
                latest_offset = excluded.latest_offset, rssi_dbm = excluded.rssi_dbm, snr_db = excluded.snr_db,
                transmissions = excluded.transmissions, seen_events = excluded.seen_events, link = excluded.link,
                updated_at = now()
             {WHERE_BEHIND}"
        );
        let statement = transaction.prepare_cached(&sql).await?;
        let [uplinks, repeats, failures, missing] = &self.nums;
        transaction
            .execute(
                &statement,
                &[
                    &self.devices,
                    &self.stores,
                    &self.incarnations,
                    &self.offsets,
                    &self.f_cnts,
                    uplinks,
                    repeats,
                    failures,
                    missing,
                    &details.payloads,
                    &details.received_at,
                    &details.event_at,
                    &details.latest_offsets,
                    &details.rssi_dbm,
                    &details.snr_db,
                    &details.transmissions,
                    &details.seen,
                    &details.links,
                ],
            )
            .await?;
        Ok(())
    }
}

/// The rest of the columns.
struct Details<'a> {
    payloads: Vec<Option<&'a [u8]>>,
    received_at: Vec<Option<DateTime<Utc>>>,
    event_at: Vec<Option<DateTime<Utc>>>,
    latest_offsets: Vec<Option<i64>>,
    rssi_dbm: Vec<Option<i32>>,
    snr_db: Vec<Option<f32>>,
    transmissions: Vec<Vec<u8>>,
    seen: Vec<Vec<u8>>,
    links: Vec<Vec<u8>>,
}

impl<'a> Details<'a> {
    fn of(states: &'a [DeviceState]) -> Self {
        fn column<'a, T>(states: &'a [DeviceState], of: impl Fn(&'a Latest) -> Option<T>) -> Vec<Option<T>> {
            states.iter().map(|state| state.latest.as_ref().and_then(&of)).collect()
        }
        let link = |link: Option<&LinkState>| {
            link.and_then(|link| serde_json::to_vec(link).ok()).unwrap_or_else(|| b"{}".to_vec())
        };
        Self {
            payloads: column(states, |latest| latest.payload.as_deref()),
            received_at: column(states, |latest| time(latest.received_at_ms)),
            event_at: column(states, |latest| time(latest.event_at_ms)),
            latest_offsets: column(states, |latest| Some(bigint(latest.offset))),
            rssi_dbm: column(states, |latest| latest.rssi_dbm),
            snr_db: column(states, |latest| latest.snr_db),
            transmissions: states.iter().map(|state| window_bytes::encode(&state.window)).collect(),
            seen: states.iter().map(|state| encode_seen(&state.seen)).collect(),
            links: states.iter().map(|state| link(state.link.as_deref())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_events_come_back_and_a_torn_one_is_dropped() {
        let seen: VecDeque<SeenEvent> = [(1, 2, 3), (u64::MAX, 0, -5)]
            .map(|(repeat_key, offset, received_at_ms)| SeenEvent { repeat_key, offset, received_at_ms })
            .into();
        let mut bytes = encode_seen(&seen);
        assert_eq!(decode_seen(&bytes), seen);
        bytes.pop();
        assert_eq!(decode_seen(&bytes).len(), 1);
    }
}
