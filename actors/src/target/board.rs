//! What the actors of one deliveries partition share. They live on one arbiter, so it needs no lock.
//!
//! Nothing here is awaited while it is borrowed; every borrow ends within the statement that takes it.

use std::cell::{Cell, RefCell};

use actix::Addr;
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{LogIdentity, Offset};
use sluse_schema::target::{TargetCursor, TargetStatus};

use super::actor::TargetActor;
use super::config::{TargetPorts, TargetStageConfig};
use super::consumer::DeliveriesConsumer;
use super::message::{FlushSoon, Known};
use super::partition::TargetPartition;
use super::sweep::Sweep;
use super::writer::CursorWriter;
use crate::mailbox::offer_to;
use crate::supervise::Supervised;
use crate::table::HashMap;

/// The shared part of one partition.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) partition: PartitionId,
    pub(super) config: TargetStageConfig,
    pub(super) ports: TargetPorts,
    pub(super) log: LogIdentity,
    pub(super) root: Addr<TargetPartition>,
    pub(super) consumer: RefCell<Option<Addr<DeliveriesConsumer>>>,
    pub(super) sweep: RefCell<Option<Addr<Sweep>>>,
    pub(super) writer: RefCell<Option<Addr<CursorWriter>>>,
    pub(super) targets: RefCell<HashMap<TargetId, Entry>>,
    dirty: RefCell<Vec<TargetId>>,
    num_outcomes: Cell<usize>,
    /// The store is away and what is kept for it has reached its bound.
    pub(super) is_store_blocked: Cell<bool>,
    /// Records in memory and their bytes, of all targets.
    pub(super) num_loaded: Cell<usize>,
    pub(super) num_bytes: Cell<usize>,
    /// The partition's position as it was last collected.
    pub(super) collected_next: Cell<Offset>,
    /// Incarnations of target actors, so that their ids never repeat.
    num_incarnations: Cell<u64>,
}

/// What is known of one target.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) actor: Option<Supervised<TargetActor>>,
    pub(super) known: Known,
    /// The cursor as it was last collected: an actor that is made anew starts from it. Without a position, it stands where the
    /// partition was then collected.
    pub(super) cursor: TargetCursor,
    /// How it looked when it was collected last.
    pub(super) status: Option<TargetStatus>,
    pub(super) is_dirty: bool,
}

impl Board {
    /// A board without actors.
    pub(super) fn new(
        partition: PartitionId,
        config: TargetStageConfig,
        ports: TargetPorts,
        root: Addr<TargetPartition>,
        next: Offset,
    ) -> Self {
        let log = ports.log.identity();
        Self {
            partition,
            config,
            ports,
            log,
            root,
            consumer: RefCell::new(None),
            sweep: RefCell::new(None),
            writer: RefCell::new(None),
            targets: RefCell::new(HashMap::default()),
            dirty: RefCell::new(Vec::new()),
            num_outcomes: Cell::new(0),
            is_store_blocked: Cell::new(false),
            num_loaded: Cell::new(0),
            num_bytes: Cell::new(0),
            collected_next: Cell::new(next),
            num_incarnations: Cell::new(0),
        }
    }

    /// The actor of a target, while it runs.
    pub(super) fn actor_of(&self, target: TargetId) -> Option<Addr<TargetActor>> {
        self.targets.borrow().get(&target)?.actor.as_ref()?.addr()
    }

    /// Whether somebody looks after the records of this target; nobody does for a tombstone with nothing left to do.
    pub(super) fn has_actor(&self, target: TargetId) -> bool {
        self.targets.borrow().get(&target).is_some_and(|entry| entry.actor.is_some())
    }

    /// Something of this target has to be written.
    pub(super) fn mark_dirty(&self, target: TargetId) {
        if let Some(entry) = self.targets.borrow_mut().get_mut(&target)
            && !std::mem::replace(&mut entry.is_dirty, true)
        {
            self.dirty.borrow_mut().push(target);
        }
    }

    /// The targets of which something has to be written; they are clean from here on.
    pub(super) fn take_dirty(&self) -> Vec<TargetId> {
        let dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        let mut targets = self.targets.borrow_mut();
        for target in &dirty {
            if let Some(entry) = targets.get_mut(target) {
                entry.is_dirty = false;
            }
        }
        self.num_outcomes.set(0);
        dirty
    }

    /// Counts outcomes; when there are enough of them the writer is told once.
    pub(super) fn count_outcomes(&self, num: usize) {
        let before = self.num_outcomes.get();
        self.num_outcomes.set(before + num);
        if before < self.config.flush_outcomes
            && before + num >= self.config.flush_outcomes
            && let Some(writer) = self.writer.borrow().as_ref()
        {
            // A full mailbox holds such a message already.
            let _ = offer_to(writer, FlushSoon);
        }
    }

    /// A target's share of memory changed.
    pub(super) fn adjust_load(&self, before: (usize, usize), after: (usize, usize)) {
        self.num_loaded.set((self.num_loaded.get() + after.0).saturating_sub(before.0));
        self.num_bytes.set((self.num_bytes.get() + after.1).saturating_sub(before.1));
    }

    /// Starts the ids of a target actor's incarnation: a thousand million of them for each.
    pub(super) fn new_incarnation(&self) -> u64 {
        self.num_incarnations.set(self.num_incarnations.get() + 1);
        self.num_incarnations.get() << 30
    }

    /// Where a collected cursor stands.
    pub(super) fn position_of(&self, cursor: &TargetCursor) -> Offset {
        cursor.position.as_ref().map_or(self.collected_next.get(), |position| position.offset)
    }
}
