//! Change events: a connection of its own that listens, and reads of the table that never skip one.
//!
//! An id is given before its transaction commits, so a higher one can be seen before a lower one. A read therefore waits, up to
//! [`SETTLE_TIMEOUT_MS`], until no writer of the table is under way; if one takes longer, the read goes on without it and the
//! reloader's full scan every minute is what finds that change.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluse_schema::change::{ChangeEvent, ChangedEntity};
use sluse_schema::port::{ChangeFeed, StoreError};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::AsyncMessage;
use tokio_postgres::error::SqlState;

use super::connect::Store;
use super::database_url::DatabaseUrl;
use super::error::{WorkError, describe};
use super::pool::{Connector, IoThread, lease, within};
use super::tls::TlsError;

/// How long a read waits for writers under way.
const SETTLE_TIMEOUT_MS: u32 = 500;
/// A waiter wakes up after this long even when nothing was heard, so that a lost notification costs seconds.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A notification this young may have come between a caller's read and its wait.
const RECENT: Duration = Duration::from_millis(300);
/// Pause before listening again after the connection broke.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// The setting that says up to which id change events were deleted for their age.
pub(super) const FLOOR_SETTING: &str = "change_event_floor";

/// The connection that listens.
#[derive(Debug)]
pub struct Listener {
    heard_at: watch::Receiver<Option<Instant>>,
    task: AbortHandle,
}

impl Listener {
    /// Starts to listen on the I/O thread; reconnects for ever.
    ///
    /// # Errors
    /// When certificate authorities cannot be read.
    pub fn start(url: &DatabaseUrl, io: &Arc<IoThread>) -> Result<Self, TlsError> {
        let connector = Connector::new(io.clone(), url)?;
        let mut config = url.config.clone();
        config.connect_timeout(super::pool::CONNECT_TIMEOUT).application_name("sluse listener");
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(10));
        let (tell, heard_at) = watch::channel(None);
        let task = io.handle().spawn(async move {
            loop {
                match listen(&connector, &config, &tell).await {
                    Ok(()) => tracing::debug!("the connection that listens for changes has ended"),
                    Err(error) => tracing::debug!(error = %describe(&error), "cannot listen for changes"),
                }
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        });
        Ok(Self { heard_at, task: task.abort_handle() })
    }

    /// Ends the task.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn listen(
    connector: &Connector,
    config: &tokio_postgres::Config,
    tell: &watch::Sender<Option<Instant>>,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut driver) = connector.connect_raw(config).await?;
    let listening = async {
        client.batch_execute("LISTEN sluse_change").await?;
        // What happened while nobody listened is read after this.
        tell.send_replace(Some(Instant::now()));
        std::future::pending::<Result<(), tokio_postgres::Error>>().await
    };
    let driving = async {
        while let Some(message) = std::future::poll_fn(|cx| driver.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message? {
                tell.send_replace(Some(Instant::now()));
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = listening => ended,
        ended = driving => ended,
    }
}

#[async_trait]
impl ChangeFeed for Store {
    async fn changes_since(&self, after: i64, num_max: usize) -> Result<Option<Vec<ChangeEvent>>, StoreError> {
        within(CALL_TIMEOUT, async {
            let mut client = lease(&self.pool).await?;
            settle(&mut client).await?;
            let bounds = client
                .query_one(
                    "SELECT coalesce((SELECT value::bigint FROM setting WHERE name = $1), 0),
                            coalesce((SELECT max(id) FROM change_event), 0)",
                    &[&FLOOR_SETTING],
                )
                .await?;
            let (floor, newest): (i64, i64) = (bounds.get(0), bounds.get(1));
            // Too old, or from another database.
            if after < floor || after > newest.max(floor) {
                client.done();
                return Ok(None);
            }
            let limit = i64::try_from(num_max).unwrap_or(i64::MAX);
            let rows = client
                .query(
                    "SELECT id, entity, entity_id FROM change_event WHERE id > $1 ORDER BY id LIMIT $2",
                    &[&after, &limit],
                )
                .await?;
            client.done();
            let events = rows.iter().filter_map(|row| {
                let (id, entity, entity_id): (i64, &str, i64) = (row.get(0), row.get(1), row.get(2));
                // A newer node's entity means nothing to this one.
                ChangedEntity::of_str(entity).map(|entity| ChangeEvent { id, entity, entity_id })
            });
            Ok::<_, WorkError>(Some(events.collect()))
        })
        .await
    }

    async fn newest_change(&self) -> Result<i64, StoreError> {
        within(CALL_TIMEOUT, async {
            let mut client = lease(&self.pool).await?;
            settle(&mut client).await?;
            let row = client
                .query_one(
                    "SELECT greatest(coalesce((SELECT value::bigint FROM setting WHERE name = $1), 0),
                                     coalesce((SELECT max(id) FROM change_event), 0))",
                    &[&FLOOR_SETTING],
                )
                .await?;
            client.done();
            Ok::<_, WorkError>(row.get(0))
        })
        .await
    }

    async fn wait_for_change(&self) {
        let mut heard_at = self.listener.heard_at.clone();
        let is_recent = heard_at.borrow_and_update().is_some_and(|at| at.elapsed() < RECENT);
        if is_recent {
            // It may have come between the caller's read and this call: let him look again, but not in a tight loop.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return;
        }
        // The sender lives as long as the task; a wait that ends early is allowed.
        let _ = tokio::time::timeout(WAIT_MAX, heard_at.changed()).await;
    }
}

/// Waits until nobody is writing change events: afterwards every id below the newest is visible or never will be.
async fn settle(client: &mut deadpool_postgres::ClientWrapper) -> Result<(), WorkError> {
    let transaction = client.transaction().await?;
    let sql = format!("SET LOCAL lock_timeout = {SETTLE_TIMEOUT_MS}; LOCK TABLE change_event IN SHARE MODE");
    match transaction.batch_execute(&sql).await {
        Ok(()) => transaction.commit().await?,
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => transaction.rollback().await?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
