//! One flush of a deliveries partition, in one transaction: cursors, statuses, dead letters, requests, log lines, and the
//! partition's position under our epoch (I8).
//!
//! A flush whose commit was not answered is sent again as it was: every part of it says the same the second time. Dead letters
//! recognise themselves by target, offset, event and time of death.

use std::time::Duration;

use deadpool_postgres::Transaction;
use sluse_schema::id::TargetId;
use sluse_schema::port::{CursorBatch, StoreError, TargetLogEntry};

use super::call::{Care, call, write_rows};
use super::connect::Store;
use super::convert::{bigint, time};
use super::cursor_rows::{CursorRows, DeadLetterRows, LogRows, StatusRows};
use super::error::WorkError;
use super::pool::lease;
use super::states::Fence;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(15);

/// Writes a flush: fast, and by halves when its data is refused.
pub(super) async fn store(store: &Store, batch: &CursorBatch) -> Result<(), StoreError> {
    call("store_cursors", FLUSH_TIMEOUT, async {
        let mut client = lease(&store.pool).await?;
        for care in [Care::Fast, Care::ByHalves] {
            let mut transaction = client.transaction().await?;
            let fence = Fence { table: "deliveries_partition", partition: batch.partition, epoch: batch.epoch };
            if let Err(error) = fence.advance(&transaction, &batch.position).await {
                transaction.rollback().await?;
                client.done();
                return Err(error);
            }
            match write(&mut transaction, batch, care).await {
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

async fn write(transaction: &mut Transaction<'_>, batch: &CursorBatch, care: Care) -> Result<(), WorkError> {
    let partition = batch.partition.0 as i32;
    write_rows(transaction, &CursorRows { partition, cursors: &batch.cursors }, care).await?;
    write_rows(transaction, &StatusRows { partition, statuses: &batch.statuses }, care).await?;
    // First what leaves, then what comes: a letter that is offered again and dies again is a new one.
    delete_dead_letters(transaction, batch).await?;
    write_rows(transaction, &DeadLetterRows(&batch.dead_letters), care).await?;
    write_rows(transaction, &LogRows(&batch.log), care).await?;
    if !batch.requests_done.is_empty() {
        transaction.execute("DELETE FROM target_request WHERE id = ANY($1)", &[&batch.requests_done]).await?;
    }
    set_last_message_at(transaction, &batch.last_message_at).await
}

async fn delete_dead_letters(transaction: &Transaction<'_>, batch: &CursorBatch) -> Result<(), WorkError> {
    if !batch.dead_letters_gone.is_empty() {
        let ids: Vec<i64> = batch.dead_letters_gone.iter().map(|id| id.0).collect();
        transaction.execute("DELETE FROM dead_letter WHERE id = ANY($1)", &[&ids]).await?;
    }
    if !batch.dead_letters_superseded.is_empty() {
        let targets: Vec<i64> = batch.dead_letters_superseded.iter().map(|(target, _)| target.0).collect();
        let offsets: Vec<i64> = batch.dead_letters_superseded.iter().map(|(_, offset)| bigint(*offset)).collect();
        transaction
            .execute(
                "DELETE FROM dead_letter l USING unnest($1::bigint[], $2::bigint[]) AS s(target_id, log_offset)
                 WHERE l.target_id = s.target_id AND l.log_offset >= s.log_offset",
                &[&targets, &offsets],
            )
            .await?;
    }
    Ok(())
}

impl Store {
    /// Writes what came of an attempt outside the log: a line of the target's log, and when it was last sent to. Needs no epoch,
    /// since no position moves.
    pub async fn log_probe(&self, entry: &TargetLogEntry) -> Result<(), StoreError> {
        call("log_probe", FLUSH_TIMEOUT, async {
            let mut client = lease(&self.pool).await?;
            let mut transaction = client.transaction().await?;
            write_rows(&mut transaction, &LogRows(std::slice::from_ref(entry)), Care::ByHalves).await?;
            set_last_message_at(&transaction, &[(entry.target, entry.logged_at_ms)]).await?;
            transaction.commit().await?;
            client.done();
            Ok(())
        })
        .await
    }
}

async fn set_last_message_at(transaction: &Transaction<'_>, sent: &[(TargetId, i64)]) -> Result<(), WorkError> {
    if sent.is_empty() {
        return Ok(());
    }
    let targets: Vec<i64> = sent.iter().map(|(target, _)| target.0).collect();
    let at: Vec<_> = sent.iter().map(|(_, at_ms)| time(*at_ms)).collect();
    // `updated_at` stays: nobody changed the target.
    transaction
        .execute(
            "UPDATE data_target t SET last_message_at = n.at
             FROM (SELECT target_id, max(at) AS at FROM unnest($1::bigint[], $2::timestamptz[]) AS u(target_id, at)
                   GROUP BY target_id) n
             WHERE t.id = n.target_id AND (t.last_message_at IS NULL OR t.last_message_at < n.at)",
            &[&targets, &at],
        )
        .await?;
    Ok(())
}
