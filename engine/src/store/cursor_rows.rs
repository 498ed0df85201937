//! The rows of a flush of a deliveries partition, each kind with its statement.

use std::ops::Range;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use sluse_schema::delivery::DeadLetter;
use sluse_schema::port::TargetLogEntry;
use sluse_schema::record::{Offset, Position};
use sluse_schema::target::{TargetCounters, TargetCursor, TargetStatus};

use super::call::{Form, Rows};
use super::convert::{bigint, count, time};
use super::error::WorkError;

/// What stands in a dead letter whose data PostgreSQL refused.
const REFUSED: &[u8] = b"the database refused what belongs to this dead letter";

fn encode_holes(holes: &[Offset]) -> Vec<u8> {
    holes.iter().flat_map(|hole| bigint(hole.0).to_be_bytes()).collect()
}

/// Offsets from their stored form; what is torn at the end is not one.
pub(super) fn decode_holes(bytes: &[u8]) -> Vec<Offset> {
    let number = |chunk: &[u8]| chunk.try_into().map_or(0, i64::from_be_bytes);
    bytes.chunks_exact(8).map(|chunk| Offset(count(number(chunk)))).collect()
}

pub(super) struct CursorRows<'a> {
    pub partition: i32,
    pub cursors: &'a [TargetCursor],
}

#[async_trait]
impl Rows for CursorRows<'_> {
    fn table(&self) -> &'static str {
        "target_cursor"
    }

    fn num_rows(&self) -> usize {
        self.cursors.len()
    }

    fn num_bytes(&self, row: usize) -> usize {
        self.cursors.get(row).map_or(0, |cursor| 256 + 8 * cursor.holes.len())
    }

    fn name(&self, row: usize) -> String {
        self.cursors.get(row).map_or_else(String::new, |cursor| format!("target {}", cursor.target))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, _: Form) -> Result<(), WorkError> {
        let cursors = self.cursors.get(rows).unwrap_or_default();
        let statement = transaction
            .prepare_cached(
                "INSERT INTO target_cursor (target_id, partition, log_store, log_incarnation, log_offset, holes, accepted,
                        offered_again, delivered, dead, expired, discarded, rewind_epoch, is_tombstone)
                 SELECT n.target_id, $1, n.log_store, n.log_incarnation, n.log_offset, n.holes, n.accepted,
                        n.offered_again, n.delivered, n.dead, n.expired, n.discarded, n.rewind_epoch, n.is_tombstone
                 FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bigint[], $8::bigint[],
                             $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::boolean[])
                      AS n(target_id, log_store, log_incarnation, log_offset, holes, accepted, offered_again, delivered,
                           dead, expired, discarded, rewind_epoch, is_tombstone)
                 ON CONFLICT (target_id) DO UPDATE SET
                    partition = excluded.partition, log_store = excluded.log_store,
                    log_incarnation = excluded.log_incarnation, log_offset = excluded.log_offset,
                    holes = excluded.holes, accepted = excluded.accepted, offered_again = excluded.offered_again,
                    delivered = excluded.delivered, dead = excluded.dead, expired = excluded.expired,
                    discarded = excluded.discarded, rewind_epoch = excluded.rewind_epoch,
                    is_tombstone = excluded.is_tombstone, updated_at = now()",
            )
            .await?;
        let position = |of: fn(&Position) -> i64| -> Vec<Option<i64>> {
            cursors.iter().map(|cursor| cursor.position.as_ref().map(of)).collect()
        };
        let num = |of: fn(&TargetCounters) -> u64| -> Vec<i64> {
            cursors.iter().map(|cursor| bigint(of(&cursor.counters))).collect()
        };
        let targets: Vec<i64> = cursors.iter().map(|cursor| cursor.target.0).collect();
        let stores: Vec<Option<&str>> =
            cursors.iter().map(|cursor| cursor.position.as_ref().map(|at| at.log.store.as_str())).collect();
        let incarnations = position(|at| bigint(at.log.incarnation));
        let offsets = position(|at| bigint(at.offset.0));
        let holes: Vec<Vec<u8>> = cursors.iter().map(|cursor| encode_holes(&cursor.holes)).collect();
        let [accepted, offered_again, delivered] =
            [num(|c| c.accepted), num(|c| c.offered_again), num(|c| c.delivered)];
        let [dead, expired, discarded] = [num(|c| c.dead), num(|c| c.expired), num(|c| c.discarded)];
        let rewind_epochs: Vec<i64> = cursors.iter().map(|cursor| bigint(cursor.rewind_epoch)).collect();
        let tombstones: Vec<bool> = cursors.iter().map(|cursor| cursor.is_tombstone).collect();
        transaction
            .execute(
                &statement,
                &[
                    &self.partition,
                    &targets,
                    &stores,
                    &incarnations,
                    &offsets,
                    &holes,
                    &accepted,
                    &offered_again,
                    &delivered,
                    &dead,
                    &expired,
                    &discarded,
                    &rewind_epochs,
                    &tombstones,
                ],
            )
            .await?;
        Ok(())
    }
}

pub(super) struct StatusRows<'a> {
    pub partition: i32,
    pub statuses: &'a [TargetStatus],
}

#[async_trait]
impl Rows for StatusRows<'_> {
    fn table(&self) -> &'static str {
        "target_cursor"
    }

    fn num_rows(&self) -> usize {
        self.statuses.len()
    }

    fn num_bytes(&self, _: usize) -> usize {
        1024
    }

    fn name(&self, row: usize) -> String {
        self.statuses.get(row).map_or_else(String::new, |status| format!("status of target {}", status.target_id))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, _: Form) -> Result<(), WorkError> {
        let statuses = self.statuses.get(rows).unwrap_or_default();
        let statement = transaction
            .prepare_cached(
                "INSERT INTO target_cursor (target_id, partition, status)
                 SELECT n.target_id, $1, n.status FROM unnest($2::bigint[], $3::bytea[]) AS n(target_id, status)
                 ON CONFLICT (target_id) DO UPDATE SET status = excluded.status, updated_at = now()",
            )
            .await?;
        let targets: Vec<i64> = statuses.iter().map(|status| status.target_id.0).collect();
        // Not a number is all that JSON cannot say, and it says null then.
        let texts: Vec<Option<Vec<u8>>> = statuses.iter().map(|status| serde_json::to_vec(status).ok()).collect();
        transaction.execute(&statement, &[&self.partition, &targets, &texts]).await?;
        Ok(())
    }
}

pub(super) struct DeadLetterRows<'a>(pub &'a [DeadLetter]);

#[async_trait]
impl Rows for DeadLetterRows<'_> {
    fn table(&self) -> &'static str {
        "dead_letter"
    }

    fn num_rows(&self) -> usize {
        self.0.len()
    }

    fn num_bytes(&self, row: usize) -> usize {
        self.0.get(row).map_or(0, |letter| 512 + letter.body.len() + letter.answer.len() + letter.message.len())
    }

    fn name(&self, row: usize) -> String {
        self.0.get(row).map_or_else(String::new, |letter| {
            format!(
                "dead letter of target {}, device {}, offset {}",
                letter.meta.target, letter.meta.device, letter.offset
            )
        })
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError> {
        let letters = self.0.get(rows).unwrap_or_default();
        let is_whole = form != Form::Reduced;
        let statement = transaction
            .prepare_cached(
                "INSERT INTO dead_letter (target_id, device_id, application_id, organization_id, payload_decoder_id, kind,
                        event_key, received_at, content_type, log_offset, reason, num_attempts, status_code, message,
                        decode_error, answer, body, died_at)
                 SELECT n.target_id, n.device_id, n.application_id, n.organization_id, n.decoder_id, n.kind, n.event_key,
                        coalesce(n.received_at, now()), n.content_type, n.log_offset, n.reason, n.num_attempts,
                        n.status_code, n.message, n.decode_error, n.answer, n.body, coalesce(n.died_at, now())
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bytea[],
                             $8::timestamptz[], $9::text[], $10::bigint[], $11::text[], $12::int[], $13::int[],
                             $14::bytea[], $15::bytea[], $16::bytea[], $17::bytea[], $18::timestamptz[]) WITH ORDINALITY
                      AS n(target_id, device_id, application_id, organization_id, decoder_id, kind, event_key,
                           received_at, content_type, log_offset, reason, num_attempts, status_code, message,
                           decode_error, answer, body, died_at, ordinal)
                 JOIN data_target t ON t.id = n.target_id
                 WHERE NOT EXISTS (SELECT 1 FROM dead_letter l
                                   WHERE l.target_id = n.target_id AND l.log_offset = n.log_offset
                                     AND l.event_key = n.event_key AND l.died_at = n.died_at)
                 ORDER BY n.ordinal",
            )
            .await?;
        let ids = |of: fn(&DeadLetter) -> i64| -> Vec<i64> { letters.iter().map(of).collect() };
        let bytes = |of: fn(&DeadLetter) -> &[u8], instead: &'static [u8]| -> Vec<&[u8]> {
            letters.iter().map(|letter| if is_whole { of(letter) } else { instead }).collect()
        };
        let targets = ids(|l| l.meta.target.0);
        let devices = ids(|l| l.meta.device.0);
        let applications = ids(|l| l.meta.application.0);
        let organizations = ids(|l| l.meta.organization.0);
        let decoders: Vec<Option<i64>> = letters.iter().map(|l| l.meta.decoder.map(|decoder| decoder.0)).collect();
        let kinds: Vec<&str> = letters.iter().map(|l| l.meta.kind.as_str()).collect();
        let event_keys: Vec<[u8; 16]> = letters.iter().map(|l| l.meta.event_key.to_be_bytes()).collect();
        let event_keys: Vec<&[u8]> = event_keys.iter().map(<[u8; 16]>::as_slice).collect();
        let times = |of: fn(&DeadLetter) -> i64| -> Vec<_> {
            letters.iter().map(|letter| time(of(letter)).filter(|_| is_whole)).collect()
        };
        let (received_at, died_at) = (times(|l| l.meta.received_at_ms), times(|l| l.died_at_ms));
        // A `text` column, which refuses NUL; everything else from outside is bytea.
        let content_types: Vec<String> =
            letters.iter().map(|l| l.meta.content_type.replace('\0', "\u{fffd}")).collect();
        let offsets = ids(|l| bigint(l.offset));
        let reasons: Vec<&str> = letters.iter().map(|l| l.reason.as_str()).collect();
        let nums: Vec<i32> = letters.iter().map(|l| i32::try_from(l.num_attempts).unwrap_or(i32::MAX)).collect();
        let codes: Vec<Option<i32>> = letters.iter().map(|l| l.status_code.map(i32::from)).collect();
        let messages = bytes(|l| l.message.as_bytes(), REFUSED);
        let errors: Vec<Option<&[u8]>> =
            letters.iter().map(|l| l.meta.error.as_deref().filter(|_| is_whole).map(str::as_bytes)).collect();
        let (answers, bodies) = (bytes(|l| &l.answer, b""), bytes(|l| &l.body, b""));
        transaction
            .execute(
                &statement,
                &[
                    &targets,
                    &devices,
                    &applications,
                    &organizations,
                    &decoders,
                    &kinds,
                    &event_keys,
                    &received_at,
                    &content_types,
                    &offsets,
                    &reasons,
                    &nums,
                    &codes,
                    &messages,
                    &errors,
                    &answers,
                    &bodies,
                    &died_at,
                ],
            )
            .await?;
        Ok(())
    }
}

/// The reference's rule: every error, and a success only when the target's latest line is an error.
pub(super) struct LogRows<'a>(pub &'a [TargetLogEntry]);

#[async_trait]
impl Rows for LogRows<'_> {
    fn table(&self) -> &'static str {
        "target_log"
    }

    fn num_rows(&self) -> usize {
        self.0.len()
    }

    fn num_bytes(&self, row: usize) -> usize {
        self.0.get(row).map_or(0, |entry| 128 + entry.message.len())
    }

    fn name(&self, row: usize) -> String {
        self.0.get(row).map_or_else(String::new, |entry| format!("log line of target {}", entry.target))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError> {
        let entries = self.0.get(rows).unwrap_or_default();
        let is_whole = form != Form::Reduced;
        // The line before one in the same run is an error exactly when the latest line written before it is: a success after
        // a success is never written.
        let statement = transaction
            .prepare_cached(
                "INSERT INTO target_log (target_id, device_id, payload_decoder_id, type, status_code, message, created_at)
                 SELECT e.target_id, d.id, p.id, CASE WHEN e.is_error THEN 'ERROR' ELSE 'OK' END, e.status_code,
                        e.message, coalesce(e.created_at, now())
                 FROM (SELECT n.*, lag(n.is_error) OVER (PARTITION BY n.target_id ORDER BY n.ordinal) AS is_after_error
                       FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::boolean[], $5::int[], $6::bytea[],
                                   $7::timestamptz[]) WITH ORDINALITY
                            AS n(target_id, device_id, decoder_id, is_error, status_code, message, created_at, ordinal)) e
                 JOIN data_target t ON t.id = e.target_id
                 LEFT JOIN iot_device d ON d.id = e.device_id
                 LEFT JOIN payload_decoder p ON p.id = e.decoder_id
                 WHERE e.is_error OR coalesce(e.is_after_error,
                       (SELECT l.type = 'ERROR' FROM target_log l WHERE l.target_id = e.target_id
                        ORDER BY l.id DESC LIMIT 1))
                 ORDER BY e.ordinal",
            )
            .await?;
        let targets: Vec<i64> = entries.iter().map(|e| e.target.0).collect();
        let devices: Vec<Option<i64>> = entries.iter().map(|e| e.device.map(|device| device.0)).collect();
        let decoders: Vec<Option<i64>> = entries.iter().map(|e| e.decoder.map(|decoder| decoder.0)).collect();
        let errors: Vec<bool> = entries.iter().map(|e| e.is_error).collect();
        let codes: Vec<Option<i32>> = entries.iter().map(|e| e.status_code.map(i32::from)).collect();
        let messages: Vec<&[u8]> =
            entries.iter().map(|e| if is_whole { e.message.as_bytes() } else { REFUSED }).collect();
        let logged_at: Vec<_> = entries.iter().map(|e| time(e.logged_at_ms).filter(|_| is_whole)).collect();
        transaction
            .execute(&statement, &[&targets, &devices, &decoders, &errors, &codes, &messages, &logged_at])
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_come_back_as_they_were() {
        let holes = vec![Offset(0), Offset(7), Offset(1 << 40)];
        assert_eq!(decode_holes(&encode_holes(&holes)), holes);
        assert_eq!(decode_holes(&[1, 2, 3]), []);
    }
}
