//! Another secret key for everything that is encrypted: all of it or none.

use std::time::Duration;

use sluse_engine::store::rotate::{RotateError, Rotation, rotate_secret_key};
use sluse_engine::store::{Cipher, OpenError, Store, StoreConfig};
use sluse_schema::secret::Secret;

use crate::fixture::{Database, NUM_PARTITIONS, cipher};

fn other() -> Cipher {
    Cipher::new(&Secret::new("another key of thirty-two characters or more")).unwrap()
}

/// Sessions of a pool that was closed end a moment later.
async fn rotate_when_alone(database: &Database, old: &Cipher, new: &Cipher) -> Result<Rotation, RotateError> {
    for _ in 0..100 {
        match rotate_secret_key(&database.url, old, new).await {
            Err(RotateError::InUse(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            done => return done,
        }
    }
    panic!("the store's sessions do not end");
}

/// A database with 2 500 devices' keys and one target's secrets.
async fn with_secrets() -> Database {
    let database = Database::with_targets(1).await;
    let sealed: Vec<Vec<u8>> = (0..2500).map(|i| cipher().encrypt(format!("key {i}").as_bytes())).collect();
    let client = database.store.pool().get().await.unwrap();
    let insert = "INSERT INTO iot_device (application_id, type, name, api_key_enc) \
                  SELECT 1, 'GENERIC_HTTP', 'Device', s FROM unnest($1::bytea[]) AS s";
    client.execute(insert, &[&sealed]).await.unwrap();
    client.execute("UPDATE data_target SET secrets_enc = $1", &[&cipher().encrypt(b"{\"a\":\"b\"}")]).await.unwrap();
    database
}

#[tokio::test]
async fn every_secret_is_under_the_new_key_and_the_old_one_is_refused() {
    let database = with_secrets().await;
    let in_use = rotate_secret_key(&database.url, &cipher(), &other()).await;
    assert!(matches!(in_use, Err(RotateError::InUse(_))), "{in_use:?}");
    database.store.close();
    let wrong = rotate_when_alone(&database, &other(), &Cipher::new(&Secret::new("x".repeat(40))).unwrap()).await;
    assert!(matches!(wrong, Err(RotateError::OtherKey { .. })), "{wrong:?}");
    assert_eq!(rotate_when_alone(&database, &cipher(), &other()).await.unwrap(), Rotation::Done { num_secrets: 2501 });
    assert_eq!(rotate_when_alone(&database, &cipher(), &other()).await.unwrap(), Rotation::AlreadyDone);

    let open = |cipher: Cipher| Store::connect(StoreConfig::new(database.url.clone()), cipher.into(), NUM_PARTITIONS);
    assert!(matches!(open((*cipher()).clone()).await, Err(OpenError::OtherKey { .. })));
    let store = open(other()).await.unwrap();
    let client = store.pool().get().await.unwrap();
    let rows = client
        .query("SELECT api_key_enc FROM iot_device WHERE api_key_enc IS NOT NULL ORDER BY id", &[])
        .await
        .unwrap();
    let new = other();
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(new.decrypt(row.get(0)).unwrap(), format!("key {i}").into_bytes());
    }
    let lines = "SELECT count(*) FROM change_log WHERE entity = 'secret_key' AND after->>'fingerprint' <> before->>'fingerprint'";
    assert_eq!(client.query_one(lines, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn one_damaged_secret_leaves_everything_as_it_was() {
    let database = with_secrets().await;
    database.run("UPDATE iot_device SET api_key_enc = set_byte(api_key_enc, 30, 255 - get_byte(api_key_enc, 30)) WHERE id = 2000").await;
    database.store.close();
    let failed = rotate_when_alone(&database, &cipher(), &other()).await.unwrap_err();
    assert!(failed.to_string().starts_with("iot_device.api_key_enc of row 2000: "), "{failed}");
    let store = Store::connect(StoreConfig::new(database.url.clone()), cipher(), NUM_PARTITIONS).await.unwrap();
    let client = store.pool().get().await.unwrap();
    let row = client.query_one("SELECT api_key_enc FROM iot_device WHERE id = 2", &[]).await.unwrap();
    assert_eq!(cipher().decrypt(row.get(0)).unwrap(), b"key 0");
}
