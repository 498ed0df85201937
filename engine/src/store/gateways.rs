//! Gateways' connection states, and senders that nobody registered.

use std::ops::Range;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use sluse_schema::port::{GatewayState, GatewayStore, StoreError, UnknownSender, UnknownSenderStore};
use sluse_schema::text::printable;

use super::call::{Form, Rows};
use super::connect::Store;
use super::convert::{bigint, time};
use super::error::WorkError;
use super::failures::write_all;

/// Longest text that names a sender.
const SENDER_BYTES_MAX: usize = 128;

#[async_trait]
impl GatewayStore for Store {
    async fn record_gateway_states(&self, states: &[GatewayState]) -> Result<(), StoreError> {
        write_all(self, "record_gateway_states", &GatewayRows(states)).await
    }
}

#[async_trait]
impl UnknownSenderStore for Store {
    async fn record_unknown_senders(&self, senders: &[UnknownSender]) -> Result<(), StoreError> {
        write_all(self, "record_unknown_senders", &SenderRows(senders)).await
    }
}

struct GatewayRows<'a>(&'a [GatewayState]);

#[async_trait]
impl Rows for GatewayRows<'_> {
    fn table(&self) -> &'static str {
        "gateway_status_history"
    }

    fn num_rows(&self) -> usize {
        self.0.len()
    }

    fn num_bytes(&self, _: usize) -> usize {
        64
    }

    fn name(&self, row: usize) -> String {
        self.0.get(row).map_or_else(String::new, |state| format!("gateway {}", state.gateway))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError> {
        let states = self.0.get(rows).unwrap_or_default();
        // The last one of an instant holds.
        let statement = transaction
            .prepare_cached(
                "INSERT INTO gateway_status_history (gateway_id, was_online, heard_at)
                 SELECT gateway_id, was_online, heard_at
                 FROM (SELECT DISTINCT ON (n.gateway_id, coalesce(n.heard_at, now()))
                              n.gateway_id, n.was_online, coalesce(n.heard_at, now()) AS heard_at, n.ordinal
                       FROM unnest($1::text[], $2::boolean[], $3::timestamptz[]) WITH ORDINALITY
                            AS n(gateway_id, was_online, heard_at, ordinal)
                       ORDER BY 1, 3, n.ordinal DESC) latest
                 ORDER BY ordinal
                 ON CONFLICT (gateway_id, heard_at) DO UPDATE SET was_online = excluded.was_online",
            )
            .await?;
        let gateways: Vec<String> = states.iter().map(|state| state.gateway.to_string()).collect();
        let online: Vec<bool> = states.iter().map(|state| state.is_online).collect();
        let heard_at: Vec<_> =
            states.iter().map(|state| time(state.heard_at_ms).filter(|_| form != Form::Reduced)).collect();
        transaction.execute(&statement, &[&gateways, &online, &heard_at]).await?;
        Ok(())
    }
}

struct SenderRows<'a>(&'a [UnknownSender]);

#[async_trait]
impl Rows for SenderRows<'_> {
    fn table(&self) -> &'static str {
        "unknown_sender"
    }

    fn num_rows(&self) -> usize {
        self.0.len()
    }

    fn num_bytes(&self, _: usize) -> usize {
        256
    }

    fn name(&self, row: usize) -> String {
        self.0.get(row).map_or_else(String::new, |sender| format!("unknown sender of {}", sender.source.as_str()))
    }

    async fn write(&self, transaction: &Transaction<'_>, rows: Range<usize>, form: Form) -> Result<(), WorkError> {
        let senders = self.0.get(rows).unwrap_or_default();
        let statement = transaction
            .prepare_cached(
                "INSERT INTO unknown_sender AS s (source, sender, num_heard, first_heard_at, last_heard_at)
                 SELECT n.source, n.sender, sum(n.num_heard)::bigint, min(coalesce(n.heard_at, now())),
                        max(coalesce(n.heard_at, now()))
                 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[])
                      AS n(source, sender, num_heard, heard_at)
                 GROUP BY n.source, n.sender
                 ON CONFLICT (source, sender) DO UPDATE SET
                    num_heard = s.num_heard + excluded.num_heard,
                    last_heard_at = greatest(s.last_heard_at, excluded.last_heard_at)",
            )
            .await?;
        let sources: Vec<&str> = senders.iter().map(|sender| sender.source.as_str()).collect();
        let names: Vec<String> =
            senders.iter().map(|sender| printable(sender.sender.as_bytes(), SENDER_BYTES_MAX)).collect();
        let nums: Vec<i64> = senders.iter().map(|sender| bigint(sender.num_heard)).collect();
        let heard_at: Vec<_> =
            senders.iter().map(|sender| time(sender.heard_at_ms).filter(|_| form != Form::Reduced)).collect();
        transaction.execute(&statement, &[&sources, &names, &nums, &heard_at]).await?;
        Ok(())
    }
}
