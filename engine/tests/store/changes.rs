//! What administration changed.

use std::time::Duration;

use sluse_schema::change::ChangedEntity;
use sluse_schema::port::ChangeFeed;
use tokio::time::Instant;

use crate::fixture::Database;

const INSERT: &str = "INSERT INTO change_event (entity, entity_id) VALUES ('device', 4), ('target', 5)";

#[tokio::test]
async fn changes_are_told_in_order_and_a_page_at_a_time() {
    let database = Database::new().await;
    let feed: &dyn ChangeFeed = &*database.store;
    assert_eq!(feed.newest_change().await.unwrap(), 0);
    database.run(INSERT).await;
    let newest = feed.newest_change().await.unwrap();
    let all = feed.changes_since(0, 10).await.unwrap().unwrap();
    let told: Vec<_> = all.iter().map(|change| (change.entity, change.entity_id)).collect();
    assert_eq!(told, [(ChangedEntity::Device, 4), (ChangedEntity::Target, 5)]);
    assert_eq!(all.last().unwrap().id, newest);
    assert_eq!(feed.changes_since(0, 1).await.unwrap().unwrap(), all[..1]);
    assert_eq!(feed.changes_since(newest, 10).await.unwrap().unwrap(), []);
}

#[tokio::test]
async fn a_reader_that_is_too_far_behind_or_ahead_is_told_to_reload() {
    let database = Database::new().await;
    database
        .run(
            "INSERT INTO change_event (entity, entity_id, happened_at) VALUES ('device', 1, now() - interval '8 days')",
        )
        .await;
    database.run(INSERT).await;
    database.store.housekeeping().await.unwrap();
    assert_eq!(database.store.changes_since(0, 10).await.unwrap(), None);
    assert_eq!(database.store.changes_since(1, 10).await.unwrap().unwrap().len(), 2);
    assert_eq!(database.store.changes_since(999, 10).await.unwrap(), None);
}

#[tokio::test]
async fn a_change_is_heard_at_once_and_one_before_the_wait_is_not_missed() {
    let database = Database::new().await;
    // Until the listener listens, waits end early; afterwards they are quiet.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let waited = tokio::time::timeout(Duration::from_millis(200), database.store.wait_for_change()).await;
    assert!(waited.is_err(), "nothing changed");
    let store = database.store.clone();
    let waiting = tokio::spawn(async move { store.wait_for_change().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started_at = Instant::now();
    database.run(INSERT).await;
    waiting.await.unwrap();
    assert!(started_at.elapsed() < Duration::from_secs(3));
    database.store.wait_for_change().await;
    assert!(started_at.elapsed() < Duration::from_secs(4), "the same change ends a wait that begins right after it");
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_skipped() {
    let database = Database::new().await;
    let mut slow = database.store.pool().get().await.unwrap();
    let writing = slow.transaction().await.unwrap();
    writing.batch_execute("INSERT INTO change_event (entity, entity_id) VALUES ('device', 1)").await.unwrap();
    let store = database.store.clone();
    let reading = tokio::spawn(async move { store.changes_since(0, 10).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    writing.commit().await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap().unwrap().len(), 1, "the read waited for the writer");
}
