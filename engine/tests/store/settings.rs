//! What a start checks, and the first administrator.

use std::sync::Arc;

use sluse_engine::store::{Cipher, OpenError, Store, StoreConfig};
use sluse_schema::secret::Secret;

use crate::fixture::{Database, NUM_PARTITIONS, cipher};

#[tokio::test]
async fn another_key_or_another_number_of_partitions_is_refused() {
    let database = Database::new().await;
    let config = StoreConfig::new(database.url.clone());
    let other = Arc::new(Cipher::new(&Secret::new("another key, also 32 characters or more")).unwrap());
    let refused = Store::connect(config.clone(), other, NUM_PARTITIONS).await.unwrap_err();
    assert!(matches!(refused, OpenError::OtherKey { .. }), "{refused}");
    let refused = Store::connect(config.clone(), cipher(), NUM_PARTITIONS + 1).await.unwrap_err();
    assert!(matches!(refused, OpenError::OtherPartitions { .. }), "{refused}");
    Store::connect(config, cipher(), NUM_PARTITIONS).await.unwrap();
}

#[tokio::test]
async fn nodes_that_start_at_once_migrate_once() {
    let database = Database::new().await;
    database.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    let connect = || Store::connect(StoreConfig::new(database.url.clone()), cipher(), NUM_PARTITIONS);
    let (a, b, c) = tokio::join!(connect(), connect(), connect());
    for store in [a, b, c] {
        store.unwrap().check().await.unwrap();
    }
}

#[tokio::test]
async fn the_first_administrator_is_made_once_and_gets_another_password_on_request() {
    let database = Database::new().await;
    let made = database.store.bootstrap("a@b.dk", None).await.unwrap().unwrap();
    let password = made.generated_password.unwrap();
    assert_eq!((made.email.as_str(), password.reveal().len()), ("a@b.dk", 24));
    assert!(database.store.bootstrap("c@d.dk", None).await.unwrap().is_none());
    let sql = "SELECT count(*) FROM app_user u JOIN permission_user m ON m.user_id = u.id
               JOIN permission p ON p.id = m.permission_id AND p.name = 'GlobalAdmin' AND p.organization_id IS NULL
               JOIN permission_level l ON l.permission_id = p.id AND l.type = 'GlobalAdmin'
               WHERE u.active AND u.password_hash LIKE '$argon2id$%'";
    assert_eq!(database.number(sql).await, 1);
    assert_eq!(database.number("SELECT count(*) FROM change_event").await, 2);

    let reset = database.store.reset_password(None).await.unwrap();
    assert_eq!(reset.email, "a@b.dk");
    assert_ne!(reset.generated_password.unwrap(), password);
    assert_eq!(database.number("SELECT token_version::bigint FROM app_user").await, 1);
    let unknown = database.store.reset_password(Some("x@y.dk")).await.unwrap_err().to_string();
    assert!(unknown.contains("x@y.dk"), "{unknown}");
}

#[tokio::test]
async fn a_given_password_is_used_and_not_shown() {
    let database = Database::new().await;
    let given = Secret::new("correct horse");
    let made = database.store.bootstrap("a@b.dk", Some(&given)).await.unwrap().unwrap();
    assert!(made.generated_password.is_none());
    let short = Database::new().await.store.bootstrap("a@b.dk", Some(&Secret::new("short"))).await;
    assert!(short.unwrap_err().to_string().contains("SLUSE_ADMIN_PASSWORD"));
}
