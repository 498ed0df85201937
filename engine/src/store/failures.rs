//! Decodes that failed, for the owners of decoder and device. Bounded per decoder by housekeeping.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use sluse_schema::port::{DecodeFailure, StoreError};

use super::call::{Care, Form, Rows, call, write_rows};
use super::connect::Store;
use super::convert::time;
use super::error::WorkError;
use super::pool::lease;

const TIMEOUT: Duration = Duration::from_secs(6);

/// Lists failures; those of a decoder or device that is gone are skipped.
pub(super) async fn record(store: &Store, failures: &[DecodeFailure]) -> Result<(), StoreError> {
    write_all(store, "record_decode_failures", &FailureRows(failures)).await
}

/// Writes rows in a transaction of their own: fast, and by halves when their data is refused.
pub(super) async fn write_all(store: &Store, name: &'static str, rows: &dyn Rows) -> Result<(), StoreError> {
    if rows.num_rows() == 0 {
        return Ok(());
    }
    call(name, TIMEOUT, async {
        let mut client = lease(&store.pool).await?;
        for care in [Care::Fast, Care::ByHalves] {
            let mut transaction = client.transaction().await?;
            match write_rows(&mut transaction, rows, care).await {
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

struct FailureRows<'a>(&'a [DecodeFailure]);

#[async_trait]
impl Rows for FailureRows<'_> {
    fn table(&self) -> &'static str {
        "decoder_error"
    }

    fn num_rows(&self) -> usize {
        self.0.len()
    }

    fn num_bytes(&self, row: usize) -> usize {
        self.0.get(row).map_or(0, |failure| 256 + failure.message.len() + failure.sample.len())
    }

    fn name(&self, row: usize) -> String {
        self.0.get(row).map_or_else(String::new, |f| format!("decoder {}, device {}", f.decoder, f.device))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError> {
        let failures = self.0.get(rows).unwrap_or_default();
        let is_whole = form != Form::Reduced;
        let statement = transaction
            .prepare_cached(
                "INSERT INTO decoder_error (payload_decoder_id, device_id, kind, message, sample, num_failures, failed_at)
                 SELECT n.decoder, n.device, n.kind, n.message, n.sample, n.num_failures, coalesce(n.failed_at, now())
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[],
                             $7::timestamptz[]) WITH ORDINALITY
                      AS n(decoder, device, kind, message, sample, num_failures, failed_at, ordinal)
                 JOIN payload_decoder p ON p.id = n.decoder
                 JOIN iot_device d ON d.id = n.device
                 ORDER BY n.ordinal",
            )
            .await?;
        let decoders: Vec<i64> = failures.iter().map(|f| f.decoder.0).collect();
        let devices: Vec<i64> = failures.iter().map(|f| f.device.0).collect();
        let kinds: Vec<&str> = failures.iter().map(|f| f.kind.as_str()).collect();
        let messages: Vec<&[u8]> = failures.iter().map(|f| f.message.as_bytes()).collect();
        let samples: Vec<&[u8]> = failures.iter().map(|f| if is_whole { &f.sample[..] } else { &[] }).collect();
        let nums: Vec<i64> = failures.iter().map(|f| i64::from(f.num_failures)).collect();
        let failed_at: Vec<_> = failures.iter().map(|f| time(f.failed_at_ms).filter(|_| is_whole)).collect();
        transaction.execute(&statement, &[&decoders, &devices, &kinds, &messages, &samples, &nums, &failed_at]).await?;
        Ok(())
    }
}
