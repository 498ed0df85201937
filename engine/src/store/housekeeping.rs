//! What is deleted for its age or its number, once a minute by one node, a bounded number of rows at a time; and each node's
//! figures of its pool.
//!
//! Dead letters 30 days, change events 7 days, decoder errors the newest 100 per decoder, a target's log the newest 250, unknown
//! senders the 10 000 heard last, gateways' states 30 days and 10 per gateway and hour, answered log-in attempts an hour.

use std::sync::Arc;
use std::time::Duration;

use sluse_schema::port::StoreError;

use super::call::call;
use super::changes::FLOOR_SETTING;
use super::connect::Store;
use super::error::WorkError;
use super::leader::Job;
use super::pool::lease;
use crate::metrics::{STORE_CONNECTIONS, STORE_ROWS_EXPIRED_TOTAL};

const HOUSEKEEPING: Job = Job { name: "housekeeping", every: Duration::from_secs(60) };
const FIGURES_EVERY: Duration = Duration::from_secs(15);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// What is deleted from where. Each deletes at most some thousand rows; what is left goes a minute later.
const RULES: [(&str, &str); 7] = [
    (
        "dead_letter",
        "DELETE FROM dead_letter WHERE id IN (
            SELECT id FROM dead_letter WHERE died_at < now() - interval '30 days' ORDER BY died_at LIMIT 5000)",
    ),
    (
        "decoder_error",
        "DELETE FROM decoder_error WHERE id IN (
            SELECT old.id FROM payload_decoder p CROSS JOIN LATERAL (
                SELECT e.id FROM decoder_error e WHERE e.payload_decoder_id = p.id
                ORDER BY e.id DESC OFFSET 100 LIMIT 5000) old)",
    ),
    (
        "target_log",
        "DELETE FROM target_log WHERE id IN (
            SELECT old.id FROM data_target t CROSS JOIN LATERAL (
                SELECT l.id FROM target_log l WHERE l.target_id = t.id ORDER BY l.id DESC OFFSET 250 LIMIT 5000) old)",
    ),
    (
        "unknown_sender",
        "DELETE FROM unknown_sender WHERE (source, sender) IN (
            SELECT source, sender FROM unknown_sender ORDER BY last_heard_at DESC OFFSET 10000 LIMIT 20000)",
    ),
    (
        "gateway_status_history",
        "DELETE FROM gateway_status_history WHERE heard_at < now() - interval '30 days' OR id IN (
            SELECT id FROM (
                SELECT id, row_number() OVER (PARTITION BY gateway_id, date_trunc('hour', heard_at)
                                              ORDER BY heard_at DESC) AS place
                FROM gateway_status_history WHERE heard_at > now() - interval '3 hours') recent
            WHERE place > 10)",
    ),
    (
        "answered_log_in",
        "DELETE FROM answered_log_in WHERE attempt IN (
            SELECT attempt FROM answered_log_in WHERE answered_at < now() - interval '1 hour' LIMIT 5000)",
    ),
    (
        "change_event",
        "WITH gone AS (DELETE FROM change_event WHERE id IN (
                           SELECT id FROM change_event WHERE happened_at < now() - interval '7 days' ORDER BY id LIMIT 5000)
                       RETURNING id),
              floor AS (INSERT INTO setting (name, value) SELECT 'change_event_floor', max(id)::text FROM gone
                        HAVING max(id) IS NOT NULL
                        ON CONFLICT (name) DO UPDATE SET value = greatest(setting.value::bigint, excluded.value::bigint)::text)
         SELECT id FROM gone",
    ),
];

impl Store {
    /// Applies every rule once and returns how many rows went. A rule that fails does not stop the others.
    ///
    /// # Errors
    /// The last rule's error, if one failed.
    pub async fn housekeeping(&self) -> Result<u64, StoreError> {
        debug_assert_eq!(FLOOR_SETTING, "change_event_floor");
        let mut num_deleted = 0;
        let mut failed = None;
        for (table, sql) in RULES {
            let done = call("housekeeping", STATEMENT_TIMEOUT, async {
                let client = lease(&self.pool).await?;
                let num = client.execute(sql, &[]).await?;
                client.done();
                Ok::<_, WorkError>(num)
            })
            .await;
            match done {
                Ok(num) => {
                    num_deleted += num;
                    metrics::counter!(STORE_ROWS_EXPIRED_TOTAL, "table" => table).increment(num);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(num_deleted), Err)
    }

    /// Keeps house for ever, in turns with the other nodes, and shows this node's pool.
    pub async fn keep_house(self: Arc<Self>) {
        let housekeeping = Arc::clone(&self).keep_doing(HOUSEKEEPING, || async {
            self.housekeeping().await.map(drop).map_err(|error| error.to_string())
        });
        tokio::join!(housekeeping, self.show_pool());
    }

    async fn show_pool(&self) {
        loop {
            tokio::time::sleep(FIGURES_EVERY).await;
            let pool = self.pool.status();
            for (state, num) in [("open", pool.size), ("idle", pool.available), ("waiting", pool.waiting)] {
                metrics::gauge!(STORE_CONNECTIONS, "state" => state).set(num as f64);
            }
        }
    }
}
