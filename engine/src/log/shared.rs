//! What the port and the writer thread share: the open store, what readers see, floors, and the log's condition.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwapOption;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{Offset, Topic};

use super::config::EmbeddedLogConfig;
use super::incarnation::Incarnations;
use super::queue::Queue;
use super::store::Store;
use super::tail_cache::Tail;

/// Stands for "no floor was set yet".
const NO_FLOOR: u64 = u64::MAX;

/// Everything both sides hold.
#[derive(Debug)]
pub struct Shared {
    pub config: EmbeddedLogConfig,
    pub queue: Queue,
    /// `None` while the store is opened again after a failed write.
    pub store: ArcSwapOption<Store>,
    pub incarnations: RwLock<Incarnations>,
    pub faults: Arc<Faults>,
    tails: [Vec<Tail>; 2],
    floors: [Vec<AtomicU64>; 2],
    is_full: AtomicBool,
    free_bytes: AtomicU64,
    trouble: Mutex<Option<String>>,
}

const fn index(topic: Topic) -> usize {
    match topic {
        Topic::Uplinks => 0,
        Topic::Deliveries => 1,
    }
}

impl Shared {
    /// For a store that is not open yet.
    pub fn new(config: EmbeddedLogConfig, incarnations: Incarnations, faults: Arc<Faults>) -> Self {
        let tails = || (0..config.num_partitions).map(|_| Tail::new(config.tail_cache_bytes_max)).collect();
        let floors = || (0..config.num_partitions).map(|_| AtomicU64::new(NO_FLOOR)).collect();
        Self {
            queue: Queue::new(config.queue_bytes_max),
            store: ArcSwapOption::empty(),
            incarnations: RwLock::new(incarnations),
            faults,
            tails: [tails(), tails()],
            floors: [floors(), floors()],
            is_full: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
            trouble: Mutex::new(None),
            config,
        }
    }

    /// One partition as readers see it.
    pub fn tail(&self, topic: Topic, partition: PartitionId) -> Result<&Tail, LogError> {
        self.tails[index(topic)].get(partition.0 as usize).ok_or_else(|| {
            let num_partitions = self.config.num_partitions;
            LogError::Unavailable(format!("there is no partition {partition}, the log has {num_partitions}"))
        })
    }

    /// The open store.
    pub fn store(&self) -> Result<Arc<Store>, LogError> {
        self.store.load_full().ok_or_else(|| LogError::Unavailable(self.trouble().unwrap_or_default()))
    }

    /// Nothing at or beyond this offset may be trimmed. Uplinks are kept whole until a floor is set; deliveries need none.
    pub fn floor(&self, topic: Topic, partition: PartitionId) -> Offset {
        let floor = self.floors[index(topic)].get(partition.0 as usize).map_or(NO_FLOOR, |f| f.load(Ordering::Acquire));
        match (topic, floor) {
            (Topic::Uplinks, NO_FLOOR) => Offset::ZERO,
            _ => Offset(floor),
        }
    }

    /// Sets [`Shared::floor`].
    pub fn set_floor(&self, topic: Topic, partition: PartitionId, floor: Offset) {
        if let Some(stored) = self.floors[index(topic)].get(partition.0 as usize) {
            stored.store(floor.0, Ordering::Release);
        }
    }

    /// Notes how much disk is free, and whether that is too little.
    pub fn set_free_bytes(&self, free_bytes: u64, is_full: bool) {
        self.free_bytes.store(free_bytes, Ordering::Release);
        self.is_full.store(is_full, Ordering::Release);
    }

    /// Whether the reserve of free disk is reached.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Refuses when the reserve of free disk is reached.
    pub fn check_room(&self) -> Result<(), LogError> {
        if !self.is_full() {
            return Ok(());
        }
        let free_bytes = self.free_bytes.load(Ordering::Acquire);
        Err(LogError::Full { free_bytes, reserve_bytes: self.config.free_space_reserve_bytes })
    }

    /// Why the log takes nothing at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets [`Shared::trouble`].
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Every partition of both topics.
    pub fn partitions(&self) -> impl Iterator<Item = (Topic, PartitionId)> + use<> {
        let num_partitions = self.config.num_partitions;
        [Topic::Uplinks, Topic::Deliveries]
            .into_iter()
            .flat_map(move |topic| (0..num_partitions).map(move |p| (topic, PartitionId(p))))
    }
}

/// Faults that tests switch on. All off by default; costs a few atomic loads per group commit.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Faults {
    /// So many commits fail before anything is written.
    pub num_commits_failing_unwritten: AtomicU32,
    /// So many commits fail after everything was written.
    pub num_commits_failing_written: AtomicU32,
    /// So many attempts to open the store again fail.
    pub num_reopens_failing: AtomicU32,
    /// What to take for the free disk; 0 asks the file system.
    pub free_bytes: AtomicU64,
}

impl Faults {
    /// Whether one of `counter` is due now.
    pub fn is_due(counter: &AtomicU32) -> bool {
        counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}
