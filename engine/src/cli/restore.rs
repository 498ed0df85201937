//! `sluse restore`: a backup into an empty data directory, or into an empty database with `DATABASE_URL`.
//!
//! The log is in no backup. Where it is still there (the same Kafka), positions stay as they were saved: what was pending is
//! delivered, and what was delivered since is delivered again, which is said. Otherwise a new log is begun, which must be empty: its
//! records would be taken for something new. A restore that fails leaves nothing behind, so that it can be tried again.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sluse_schema::secret::Secret;

use super::backup::{CONFIGURATION, DUMP, MANIFEST, Manifest, client, run};
use super::database::{Database, pool, runtime};
use crate::config::Config;
use crate::data_dir::{DataDir, JWT_SECRET_FILE, SECRET_KEY_FILE, write_private};
use crate::kafka_log::link::Link;
use crate::kafka_log::topics::Topics;
use crate::store::Cipher;

/// Brings a backup back.
pub fn restore(config: &Config, directory: &Path) -> anyhow::Result<()> {
    let read = |name: &str| {
        fs::read(directory.join(name))
            .map_err(|error| anyhow::anyhow!("{} is not a whole backup: {name}: {error}", directory.display()))
    };
    let manifest: Manifest = serde_json::from_slice(&read(MANIFEST)?)?;
    let (secret_key, jwt_secret) = (read(SECRET_KEY_FILE)?, read(JWT_SECRET_FILE)?);
    anyhow::ensure!(
        manifest.num_partitions == config.log.num_partitions,
        "the backup was made with log.num_partitions = {}, configured are {}",
        manifest.num_partitions,
        config.log.num_partitions
    );
    if let Some(configured) = &config.secret_key {
        let saved = Secret::new(String::from_utf8_lossy(&secret_key).trim());
        anyhow::ensure!(
            Cipher::new(configured)?.fingerprint() == Cipher::new(&saved)?.fingerprint(),
            "SLUSE_SECRET_KEY is not the key of the backup: set it to the text in {}/{SECRET_KEY_FILE}, or leave it out",
            directory.display()
        );
    }
    let log = find_log(config, &manifest)?;
    if config.data_dir.exists() {
        let entries = fs::read_dir(&config.data_dir)?.count();
        anyhow::ensure!(
            entries == 0,
            "{} is not empty: restore into an empty data directory",
            config.data_dir.display()
        );
    }
    if let Err(error) = fill(config, directory, &log, [&secret_key, &jwt_secret]) {
        empty(&config.data_dir);
        return Err(error);
    }
    println!("Restored what was backed up at {} by sluse {}.", manifest.made_at, manifest.sluse_version);
    if directory.join(CONFIGURATION).exists() {
        println!(
            "The configuration file of then is {}: copy it where you want it.",
            directory.join(CONFIGURATION).display()
        );
    }
    println!("{}", log.what_follows());
    Ok(())
}

/// The log that is there to go on with.
#[derive(Debug)]
enum Found {
    /// The one that the backup's positions count in.
    Same,
    /// A new one.
    Empty,
}

impl Found {
    fn what_follows(&self) -> &'static str {
        match self {
            Self::Same => {
                "Kafka still holds the log of the backup: targets continue from where they stood when it was made. What was delivered \
                 since then is delivered again, with the same Idempotency-Key as the first time."
            }
            Self::Empty => {
                "The log starts empty: targets continue with what comes in from now on; what was accepted and not delivered before \
                 the backup was made is not in it."
            }
        }
    }
}

/// Looks at Kafka, if it is configured. The embedded log lies in the data directory, which is empty.
fn find_log(config: &Config, manifest: &Manifest) -> anyhow::Result<Found> {
    let Some(kafka) = crate::pipeline::kafka_config(config, "restore") else { return Ok(Found::Empty) };
    let topics = Topics::new(&kafka, Link::new("restore", &Arc::default()))?;
    let store = kafka.store(&topics.cluster_id()?);
    if manifest.log.as_ref() == Some(&store) {
        return Ok(Found::Same);
    }
    let written = topics.written()?;
    anyhow::ensure!(
        written.is_empty(),
        "the positions in this backup count in {}, but {} on this Kafka was written to by something else: everything in it would be \
         delivered. Configure the Kafka of then, or another kafka.prefix, or delete the topics",
        manifest.log.as_deref().unwrap_or("no log"),
        written.join(" and ")
    );
    Ok(Found::Empty)
}

fn fill(config: &Config, directory: &Path, log: &Found, [secret_key, jwt_secret]: [&[u8]; 2]) -> anyhow::Result<()> {
    // The lock goes again before the database is opened, which takes it itself.
    drop(DataDir::open(&config.data_dir)?);
    write_private(&config.data_dir.join(SECRET_KEY_FILE), secret_key)?;
    write_private(&config.data_dir.join(JWT_SECRET_FILE), jwt_secret)?;
    runtime()?.block_on(async {
        let database = Database::open(config).await?;
        let mut done = load(&database, &directory.join(DUMP)).await;
        if done.is_ok() && matches!(log, Found::Empty) {
            done = begin_new_log(&database.url).await;
        }
        database.close().await;
        done
    })
}

/// What stands in a directory that was empty before is what this restore put there.
fn empty(data_dir: &Path) {
    let Ok(entries) = fs::read_dir(data_dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = is_gone {
            eprintln!("{} cannot be removed: {error}", path.display());
        }
    }
}

async fn load(database: &Database, dump: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(is_empty(&database.url).await?, "the database has tables already: restore into an empty one");
    let program = database.binaries()?.program("pg_restore");
    let mut command = client(&program, &database.url)?;
    command.args(["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]).arg(dump);
    run(command).await
}

async fn is_empty(url: &Secret) -> anyhow::Result<bool> {
    let pool = pool(url)?;
    let client = crate::store::pool::lease(&pool).await?;
    let row = client
        .query_one("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace", &[])
        .await?;
    let num_tables: i64 = row.get(0);
    client.done();
    Ok(num_tables == 0)
}

/// What the dump says of positions counts in a log that is not here: every partition starts at the beginning of the new one. What
/// was pending then is counted expired, and dead letters have no place in the new log, so that no rewind in it takes them for its own.
/// Device rows name their log themselves, and their actors see that it is another one.
const BEGIN_NEW_LOG: &str = "
    BEGIN;
    DELETE FROM setting WHERE name = 'log_store';
    UPDATE uplinks_partition SET log_store = NULL, log_incarnation = NULL, log_offset = NULL;
    UPDATE deliveries_partition SET log_store = NULL, log_incarnation = NULL, log_offset = NULL;
    UPDATE target_cursor SET log_store = NULL, log_incarnation = NULL, log_offset = NULL, holes = '', status = NULL,
        expired = expired + greatest(0, accepted + offered_again - delivered - dead - expired - discarded);
    DELETE FROM target_request WHERE kind = 'rewind_to_offset';
    UPDATE dead_letter SET log_offset = -1;
    COMMIT";

async fn begin_new_log(url: &Secret) -> anyhow::Result<()> {
    let pool = pool(url)?;
    let client = crate::store::pool::lease(&pool).await?;
    client.batch_execute(BEGIN_NEW_LOG).await?;
    client.done();
    Ok(())
}
