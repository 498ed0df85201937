//! Opening the store: for the first time, after a clean or an unclean end, and again after a failed write.
//!
//! After a failed write fjall refuses everything (a sync that failed may have dropped the data it was to write), so the database is
//! closed and opened anew. What its journal still holds is then written as tables at once, because those pages may be marked clean
//! without being on the disk. The incarnation stays, unless something that readers had seen is gone.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::PersistMode;
use serde::{Deserialize, Serialize};
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{Offset, Topic};

use super::config::{EmbeddedLogConfig, NUM_PARTITIONS_MAX, OpenLogError};
use super::incarnation::{Ends, Incarnations};
use super::keys::{self, Running};
use super::shared::{Faults, Shared};
use super::store::{Store, StoreError};
use super::writer::{Head, topic_index};

/// Stands beside the database, so that a wrong partition count is seen before anything is opened.
const ABOUT_FILE: &str = "about.json";
const INCARNATION_KEY: &[u8] = b"incarnation";
const CLEAN_KEY: &[u8] = b"clean";
const ENDED_PREFIX: &str = "ended/";
/// How long readers that are still in the old store are waited for.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);
/// How long writing the recovered records as tables may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// What never changes about a store.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    uuid: uuid::Uuid,
    num_partitions: u32,
    /// Of the records and of the index.
    format: u32,
}

/// Format 2 has records in batches. A store of format 1, where every record stands by itself, is gone on with: what it holds
/// is read as it is, until retention drops it.
const FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;

/// What the writer goes on from.
#[derive(Debug)]
pub struct Loaded {
    pub heads: [Vec<Head>; 2],
    pub committed: Vec<Option<Offset>>,
}

/// Opens the store in `config.dir`, made when it is not there, and raises the incarnation unless the last end was clean.
pub fn open(config: EmbeddedLogConfig, faults: Arc<Faults>) -> Result<(Shared, Loaded), OpenLogError> {
    let asked = config.num_partitions;
    if asked == 0 || asked > NUM_PARTITIONS_MAX {
        return Err(OpenLogError::InvalidPartitionCount { asked, max: NUM_PARTITIONS_MAX });
    }
    let dir = config.dir.clone();
    let failed = |source| OpenLogError::Store { dir: dir.clone(), source };
    let store_dir = dir.join("store");
    if !store_dir.try_exists().map_err(|source| OpenLogError::Io { path: store_dir.clone(), source })? {
        let about = About { uuid: uuid::Uuid::new_v4(), num_partitions: asked, format: FORMAT };
        let first = [(INCARNATION_KEY, 1u64.to_be_bytes().to_vec()), (CLEAN_KEY, Vec::new())];
        Store::create(&store_dir, asked, &first, (ABOUT_FILE, &json(&about).map_err(failed)?)).map_err(failed)?;
    }
    let mut about = read_about(&store_dir).map_err(failed)?;
    check_about(&about, &dir, asked)?;
    if about.format < FORMAT {
        about.format = FORMAT;
        write_about(&store_dir, &about).map_err(failed)?;
        tracing::info!(
            format = FORMAT,
            "the log is written in a newer format from now on, older programs cannot read it"
        );
    }
    let store = Store::open(&store_dir, asked).map_err(failed)?;
    let incarnations = load_incarnations(&store, &about).map_err(failed)?;
    let shared = Shared::new(config, incarnations, faults);
    let loaded = load(&shared, &store).map_err(failed)?;
    begin(&shared, &store, &loaded).map_err(failed)?;
    shared.store.store(Some(Arc::new(store)));
    Ok((shared, loaded))
}

fn read_about(store_dir: &Path) -> Result<About, StoreError> {
    let text = std::fs::read(store_dir.join(ABOUT_FILE))?;
    serde_json::from_slice(&text).map_err(|_| StoreError::Damaged(ABOUT_FILE.into()))
}

/// Puts a whole new one in the place of what is there, before anything is written that needs it.
fn write_about(store_dir: &Path, about: &About) -> Result<(), StoreError> {
    let unfinished = store_dir.join(format!("{ABOUT_FILE}.new"));
    let mut file = std::fs::File::create(&unfinished)?;
    file.write_all(&json(about)?)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, store_dir.join(ABOUT_FILE))?;
    Ok(std::fs::File::open(store_dir)?.sync_all()?)
}

fn check_about(about: &About, dir: &Path, asked: u32) -> Result<(), OpenLogError> {
    if !(OLDEST_FORMAT..=FORMAT).contains(&about.format) {
        let source = StoreError::Format { stored: about.format, ours: FORMAT };
        return Err(OpenLogError::Store { dir: dir.to_owned(), source });
    }
    if about.num_partitions != asked {
        return Err(OpenLogError::PartitionCount { dir: dir.to_owned(), stored: about.num_partitions, asked });
    }
    Ok(())
}

/// Removes the clean mark; without one, the incarnation before this start ended where its records end.
fn begin(shared: &Shared, store: &Store, loaded: &Loaded) -> Result<(), StoreError> {
    let was_clean = store.meta.contains_key(CLEAN_KEY)?;
    let mut batch = store.batch(Some(PersistMode::SyncAll));
    batch.remove(&store.meta, CLEAN_KEY);
    if !was_clean {
        raise(shared, store, loaded, &mut batch)?;
    }
    Ok(batch.commit()?)
}

fn raise(
    shared: &Shared,
    store: &Store,
    loaded: &Loaded,
    batch: &mut fjall::OwnedWriteBatch,
) -> Result<(), StoreError> {
    let ends = |topic| loaded.heads[topic_index(topic)].iter().map(|head| head.next).collect();
    let ends = Ends { uplinks: ends(Topic::Uplinks), deliveries: ends(Topic::Deliveries) };
    let mut incarnations = shared.incarnations.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ended = incarnations.identity.incarnation;
    batch.insert(&store.meta, format!("{ENDED_PREFIX}{ended:020}"), json(&ends)?);
    batch.insert(&store.meta, INCARNATION_KEY, (ended + 1).to_be_bytes());
    incarnations.raise(ends);
    tracing::info!(incarnation = ended + 1, "the log was not closed cleanly, its incarnation is raised");
    Ok(())
}

fn load_incarnations(store: &Store, about: &About) -> Result<Incarnations, StoreError> {
    let mut incarnations = Incarnations::new(format!("embedded:{}", about.uuid));
    incarnations.identity.incarnation =
        stored_u64(store, INCARNATION_KEY)?.ok_or_else(|| StoreError::Damaged("the log's incarnation".into()))?;
    for entry in store.meta.prefix(ENDED_PREFIX) {
        let (key, value) = entry.into_inner()?;
        let incarnation = std::str::from_utf8(&key).ok().and_then(|k| k.strip_prefix(ENDED_PREFIX)?.parse().ok());
        let ends = serde_json::from_slice(&value).ok();
        let (Some(incarnation), Some(ends)) = (incarnation, ends) else {
            return Err(StoreError::Damaged("the end of an earlier incarnation".into()));
        };
        incarnations.ended.insert(incarnation, ends);
    }
    Ok(incarnations)
}

/// Reads where every partition stands, and shows it to readers.
fn load(shared: &Shared, store: &Store) -> Result<Loaded, StoreError> {
    let mut heads: [Vec<Head>; 2] = [Vec::new(), Vec::new()];
    for (topic, partition) in shared.partitions() {
        let stored_start = Offset(stored_u64(store, &keys::start_key(topic, partition))?.unwrap_or(0));
        let last = store.last(topic, partition)?.filter(|(record, _)| record.offset >= stored_start);
        let head = match &last {
            None => Head { next: stored_start, running: Running { max_timestamp_ms: i64::MIN, bytes_before: 0 } },
            Some((record, running)) => Head {
                next: record.offset.next(),
                running: Running { bytes_before: running.bytes_before + record.num_bytes() as u64, ..*running },
            },
        };
        let first = store.first_from(topic, partition, stored_start)?;
        let start = first.unwrap_or(head.next);
        if start > stored_start {
            tracing::error!(topic = topic.name(), %partition, %stored_start, %start, "the log's first records are missing");
        }
        heads[topic_index(topic)].push(head);
        if let Ok(tail) = shared.tail(topic, partition) {
            tail.reset(start, head.next);
        }
    }
    let committed = (0..shared.config.num_partitions)
        .map(|p| Ok(stored_u64(store, &keys::committed_key(PartitionId(p)))?.map(Offset)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(Loaded { heads, committed })
}

/// Writes the mark that lets the next start keep the incarnation.
pub fn mark_clean(store: &Store) -> Result<(), StoreError> {
    let mut batch = store.batch(Some(PersistMode::SyncAll));
    batch.insert(&store.meta, CLEAN_KEY, []);
    Ok(batch.commit()?)
}

/// Closes the store once the last reader has left it, so that its lock is free.
pub fn release(shared: &Shared) {
    let Some(mut store) = shared.store.swap(None) else { return };
    let started_at = Instant::now();
    loop {
        match Arc::try_unwrap(store) {
            Ok(store) => return drop(store),
            Err(still_read) if started_at.elapsed() < RELEASE_PATIENCE => store = still_read,
            Err(_) => return tracing::warn!("a reader still holds the log's failed store"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Opens the store again after [`release`].
pub fn reopen(shared: &Shared) -> Result<Loaded, StoreError> {
    if Faults::is_due(&shared.faults.num_reopens_failing) {
        return Err(StoreError::Fault("a test made opening fail"));
    }
    let store = Store::open(&shared.config.dir.join("store"), shared.config.num_partitions)?;
    flush(&store)?;
    let seen: Vec<Offset> =
        shared.partitions().map(|(t, p)| shared.tail(t, p).map_or(Offset::ZERO, |t| t.bounds().1)).collect();
    let loaded = load(shared, &store)?;
    let is_seen_gone = loaded.heads.iter().flatten().zip(&seen).any(|(head, seen)| head.next < *seen);
    if is_seen_gone {
        tracing::error!("records that readers had seen are gone from the log's disk");
        let mut batch = store.batch(Some(PersistMode::SyncAll));
        raise(shared, &store, &loaded, &mut batch)?;
        batch.commit()?;
    }
    shared.store.store(Some(Arc::new(store)));
    Ok(loaded)
}

fn flush(store: &Store) -> Result<(), StoreError> {
    store.start_flush()?;
    let started_at = Instant::now();
    while store.has_unflushed() {
        store.persist(PersistMode::Buffer)?; // refused once flushing has failed
        if started_at.elapsed() > FLUSH_PATIENCE {
            return Err(StoreError::Fault("the recovered records were not written within a minute"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn stored_u64(store: &Store, key: &[u8]) -> Result<Option<u64>, StoreError> {
    let Some(value) = store.meta.get(key)? else { return Ok(None) };
    let value = value.as_ref().try_into();
    value.map(|v| Some(u64::from_be_bytes(v))).map_err(|_| StoreError::Damaged(String::from_utf8_lossy(key).into()))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|_| StoreError::Fault("a figure of the log cannot be written as JSON"))
}
