//! What is written in one go: the records of everything that waited, in one or more batches for each partition; the index and the
//! positions that go with them; and who is answered afterwards.

use std::collections::HashMap;

use bytes::Bytes;
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{NewRecord, Offset, Record, Topic};
use tokio::sync::oneshot;

use super::batch::{BatchKey, OpenBatch, Packer};
use super::keys::Running;
use super::queue::Command;
use super::writer::topic_index;

/// An answer that is given once its group is written.
#[derive(Debug)]
pub enum Due {
    Append(oneshot::Sender<Result<Vec<Offset>, LogError>>, Vec<Offset>),
    Step(oneshot::Sender<Result<(), LogError>>),
    /// Refused, whatever becomes of the group.
    Fenced(oneshot::Sender<Result<(), LogError>>, LogError),
    Committed(oneshot::Sender<Result<Option<Offset>, LogError>>, PartitionId),
}

/// What one partition gets.
#[derive(Default)]
struct Filling {
    /// Bytes of records that are still to come.
    awaited: usize,
    /// The batch that is not full.
    batch: Option<OpenBatch>,
}

/// See the head of this file.
#[derive(Default)]
pub struct Group {
    filling: HashMap<(Topic, PartitionId), Filling>,
    /// Batches that are to be written.
    pub items: Vec<(Topic, PartitionId, BatchKey, Bytes)>,
    /// Their records, for readers.
    pub shown: [HashMap<PartitionId, Vec<Record>>; 2],
    /// Offsets of deliveries by target, rising.
    pub postings: HashMap<(PartitionId, TargetId), Vec<u64>>,
    /// Where the uplinks' positions stand afterwards.
    pub moved: HashMap<PartitionId, Offset>,
    pub due: Vec<Due>,
}

impl Group {
    /// Counts what these commands bring, so that a batch's memory is taken once and in the right size.
    pub fn of(commands: &[Command]) -> Self {
        let mut group = Self::default();
        for command in commands {
            match command {
                Command::Append { parts, .. } => {
                    for (partition, records) in parts {
                        let num_bytes: usize = records.iter().map(OpenBatch::num_bytes_of).sum();
                        group.filling.entry((Topic::Uplinks, *partition)).or_default().awaited += num_bytes;
                    }
                }
                Command::Step { step, .. } => {
                    for (partition, record) in &step.outputs {
                        let filling = group.filling.entry((Topic::Deliveries, *partition)).or_default();
                        filling.awaited += OpenBatch::num_bytes_of(record);
                    }
                }
                Command::Committed { .. } | Command::Trim { .. } | Command::Close { .. } => {}
            }
        }
        group
    }

    /// Takes a record into its partition's batch. Offsets of a partition rise by one from call to call.
    pub fn push(
        &mut self,
        topic: Topic,
        partition: PartitionId,
        offset: Offset,
        running: Running,
        new: NewRecord,
        packer: &mut Packer,
    ) {
        if topic == Topic::Deliveries {
            self.postings.entry((partition, TargetId(new.key))).or_default().push(offset.0);
        }
        let filling = self.filling.entry((topic, partition)).or_default();
        let full = filling.batch.take_if(|batch| batch.is_full_for(&new));
        let batch = filling.batch.get_or_insert_with(|| OpenBatch::new(offset, filling.awaited));
        filling.awaited = filling.awaited.saturating_sub(OpenBatch::num_bytes_of(&new));
        batch.push(new, running);
        if let Some(full) = full {
            self.seal(topic, partition, full, packer);
        }
    }

    /// Ends every batch: nothing more comes.
    pub fn seal_all(&mut self, packer: &mut Packer) {
        for ((topic, partition), filling) in std::mem::take(&mut self.filling) {
            if let Some(batch) = filling.batch {
                self.seal(topic, partition, batch, packer);
            }
        }
    }

    /// Ends a batch; a partition's are ended in the order of their offsets.
    fn seal(&mut self, topic: Topic, partition: PartitionId, batch: OpenBatch, packer: &mut Packer) {
        let sealed = batch.seal(packer);
        self.items.push((topic, partition, sealed.key, sealed.value));
        self.shown[topic_index(topic)].entry(partition).or_default().extend(sealed.records);
    }
}
