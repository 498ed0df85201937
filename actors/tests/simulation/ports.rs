//! The ports of one node: the shared in-memory ones behind its [`Wire`], with the oracle looking on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::Rng;
use sluse_schema::delivery::{Attempt, AttemptClass, DeadLetter, DeliveryMeta};
use sluse_schema::device::{DecoderScript, DeviceConfig, DeviceRef};
use sluse_schema::id::{DeadLetterId, DecoderId, DeviceId, DeviceKey, TargetId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{
    Activation, Assignment, CursorBatch, DecodeError, DecodeErrorKind, DecodeFailure, DecodeJob, Decoded, Decoder,
    DeviceDirectory, DeviceStore, Log, LogError, ReadBatch, ReadLimit, SenderError, SenderFactory, StateBatch,
    StoreError, TargetBacklog, TargetRequest, TargetSender, TargetStore,
};
use sluse_schema::record::{LogIdentity, NewRecord, Offset, Position, Resolution, Step, Topic};
use sluse_schema::target::{TargetConfig, TargetCursor};

use super::mutation::Mutation;
use super::oracle::{Decoding, decoded, number_in};
use super::plan::{Mood, Op};
use super::wire::{Fate, Wire};

#[derive(Debug)]
pub struct SimLog(pub Wire);

impl SimLog {
    fn inner(&self) -> &Arc<sluse_schema::testing::MemoryLog> {
        &self.0.sim.log
    }

    async fn read_fate(&self) -> Result<(), LogError> {
        match self.0.before(Op::Read).await {
            Fate::Go => Ok(()),
            _ => Err(away()),
        }
    }

    fn mutated(&self, mut step: Step) -> Step {
        match self.0.sim.mutation {
            Mutation::TornStep if self.0.sim.chance(0.05) => drop(step.outputs.pop()),
            Mutation::StepReversed => step.outputs.reverse(),
            _ => {}
        }
        step
    }

    /// Applies a step and shows the oracle what stands in the log because of it.
    async fn apply(&self, step: Step) -> Result<(), LogError> {
        let sim = &self.0.sim;
        let partition = step.partition;
        if sim.mutation != Mutation::NoFence && sim.owner(partition.0) != Some(self.0.process.id) {
            return Err(LogError::Fenced { partition, reason: "another process owns it".into() });
        }
        let all = || (0..sim.plan.num_partitions).map(PartitionId);
        let mut ends = Vec::new();
        for p in all() {
            ends.push(self.inner().bounds(Topic::Deliveries, p).await?.1);
        }
        let (next, from) = (step.next, step.from);
        let mut step = self.mutated(step);
        if sim.mutation == Mutation::NoFence {
            // The position is what was committed last, whoever asks.
            step.from = self.inner().committed(partition).await?.unwrap_or(step.from);
            step.next = step.next.max(step.from);
        }
        self.inner().commit_step(step).await?;
        let mut written = Vec::new();
        for (p, end) in all().zip(ends) {
            let records = self.inner().records(Topic::Deliveries, p);
            written.extend(records.into_iter().filter(|r| r.offset >= end).map(|r| (p, r)));
        }
        sim.note(format_args!("step {partition} {from}..{next}: {} deliveries", written.len()));
        sim.oracle().on_step(partition, next, &written);
        Ok(())
    }
}

fn away() -> LogError {
    LogError::Unavailable("the simulation asked for it".into())
}

fn unclear() -> LogError {
    LogError::Unclear("the simulation asked for it".into())
}

#[async_trait]
impl Log for SimLog {
    fn identity(&self) -> LogIdentity {
        self.inner().identity()
    }

    fn num_partitions(&self) -> u32 {
        self.inner().num_partitions()
    }

    async fn append(&self, partition: PartitionId, records: Vec<NewRecord>) -> Result<Offset, LogError> {
        let fate = self.0.before(Op::Append).await;
        match fate {
            Fate::Fail if self.0.sim.chance(0.3) => return Err(LogError::Full { free_bytes: 0, reserve_bytes: 1 }),
            Fate::Fail => return Err(away()),
            Fate::Unclear => return Err(unclear()),
            Fate::Go | Fate::Lose => {}
        }
        let first = self.inner().append(partition, records.clone()).await?;
        self.0.sim.oracle().on_append(partition, first, &records);
        self.0.after(Op::Append).await;
        if fate == Fate::Lose { Err(unclear()) } else { Ok(first) }
    }

    async fn commit_step(&self, step: Step) -> Result<(), LogError> {
        let fate = self.0.before(Op::Commit).await;
        let applied = match fate {
            Fate::Fail => Err(away()),
            Fate::Unclear => Err(unclear()),
            Fate::Go => self.apply(step).await,
            Fate::Lose => self.apply(step).await.and(Err(unclear())),
        };
        self.0.after(Op::Commit).await;
        applied
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        if self.0.before(Op::Committed).await != Fate::Go {
            return Err(away());
        }
        let committed = self.inner().committed(partition).await?;
        self.0.after(Op::Committed).await;
        Ok(committed)
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        self.read_fate().await?;
        let batch = self.inner().read(topic, partition, from, limit).await;
        self.0.after(Op::Read).await;
        batch
    }

    async fn wait_for(&self, topic: Topic, partition: PartitionId, offset: Offset) {
        self.inner().wait_for(topic, partition, offset).await;
        self.0.process.runs().await;
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<(Offset, Offset), LogError> {
        self.read_fate().await?;
        self.inner().bounds(topic, partition).await
    }

    async fn offset_at(&self, topic: Topic, partition: PartitionId, at_ms: i64) -> Result<Offset, LogError> {
        self.read_fate().await?;
        self.inner().offset_at(topic, partition, at_ms).await
    }

    async fn read_target(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch, LogError> {
        self.read_fate().await?;
        let batch = self.inner().read_target(partition, target, from, limit).await;
        self.0.after(Op::Read).await;
        batch
    }

    async fn backlog(
        &self,
        partition: PartitionId,
        target: TargetId,
        from: Offset,
        until: Offset,
    ) -> Result<TargetBacklog, LogError> {
        self.read_fate().await?;
        self.inner().backlog(partition, target, from, until).await
    }

    async fn resolve(&self, topic: Topic, partition: PartitionId, stored: &Position) -> Result<Resolution, LogError> {
        self.read_fate().await?;
        self.inner().resolve(topic, partition, stored).await
    }

    fn set_retention_floor(&self, topic: Topic, partition: PartitionId, floor: Offset) {
        self.inner().set_retention_floor(topic, partition, floor);
    }

    async fn next_assignment(&self) -> Assignment {
        self.inner().next_assignment().await
    }

    async fn is_assigned(&self, partition: PartitionId) -> Result<bool, LogError> {
        self.read_fate().await?;
        Ok(self.0.sim.owner(partition.0) == Some(self.0.process.id))
    }

    async fn health(&self) -> Result<(), LogError> {
        self.inner().health().await
    }

    async fn close(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// Both stores of a node.
#[derive(Debug)]
pub struct SimStore(pub Wire);

fn store_away() -> StoreError {
    StoreError::Unavailable("the simulation asked for it".into())
}

impl SimStore {
    async fn call<T>(&self, op: Op, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let fate = self.0.before(op).await;
        if matches!(fate, Fate::Fail | Fate::Unclear) {
            return Err(store_away());
        }
        let answer = work.await;
        self.0.after(op).await;
        if fate == Fate::Lose && answer.is_ok() { Err(store_away()) } else { answer }
    }

    fn note_taken(&self, what: usize, partition: PartitionId) {
        let (sim, node) = (&self.0.sim, self.0.process.id);
        let is_owner = sim.owner(partition.0) == Some(node);
        sim.note(format_args!("node {node} takes {partition} of {}", ["uplinks", "deliveries"][what]));
        sim.oracle().on_take(what, partition.0, node, is_owner);
    }
}

#[async_trait]
impl DeviceDirectory for SimStore {
    async fn find_devices(&self, keys: &[DeviceKey]) -> Result<Vec<Option<DeviceRef>>, StoreError> {
        self.call(Op::LookUp, self.0.sim.devices.find_devices(keys)).await
    }
}

#[async_trait]
impl DeviceStore for SimStore {
    async fn activate(&self, devices: &[DeviceId]) -> Result<Vec<Activation>, StoreError> {
        let answer = self.call(Op::Activate, self.0.sim.devices.activate(devices)).await;
        if answer.is_err() {
            self.0.sim.oracle().provisional.extend(devices);
        }
        answer
    }

    async fn load_configs(&self, devices: &[DeviceId]) -> Result<Vec<Arc<DeviceConfig>>, StoreError> {
        self.call(Op::Activate, self.0.sim.devices.load_configs(devices)).await
    }

    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError> {
        let taken = async {
            let taken = DeviceStore::take_partition(self.0.sim.devices.as_ref(), partition).await;
            self.note_taken(0, partition);
            taken
        };
        self.call(Op::Take, taken).await
    }

    async fn store_states(&self, batch: &StateBatch) -> Result<(), StoreError> {
        let sim = &self.0.sim;
        let stored = async {
            let mut batch = batch.clone();
            match sim.mutation {
                Mutation::NoFence => batch.epoch = sim.devices.epoch(batch.partition),
                Mutation::RowsForgotten => batch.states.clear(),
                _ => {}
            }
            sim.devices.store_states(&batch).await?;
            let owner = sim.owner(batch.partition.0);
            sim.note(format_args!("states of {} at {}", batch.partition, batch.position.offset));
            let mut oracle = sim.oracle();
            oracle.on_states(&batch, self.0.process.id, owner);
            let applied = |device| sim.devices.state(device).and_then(|s| s.applied).map_or(0, |a| a.1);
            oracle.check_rows(batch.partition.0, batch.position.offset, applied);
            Ok(())
        };
        self.call(Op::StoreStates, stored).await
    }

    async fn record_decode_failures(&self, failures: &[DecodeFailure]) -> Result<(), StoreError> {
        self.call(Op::StoreStates, self.0.sim.devices.record_decode_failures(failures)).await
    }
}

#[async_trait]
impl TargetStore for SimStore {
    async fn take_partition(&self, partition: PartitionId) -> Result<(i64, Option<Position>), StoreError> {
        let taken = async {
            let taken = TargetStore::take_partition(self.0.sim.targets.as_ref(), partition).await;
            self.note_taken(1, partition);
            taken
        };
        self.call(Op::Take, taken).await
    }

    async fn load_cursors(&self, partition: PartitionId) -> Result<Vec<TargetCursor>, StoreError> {
        self.call(Op::LoadTargets, self.0.sim.targets.load_cursors(partition)).await
    }

    async fn load_targets(
        &self,
        partition: PartitionId,
        targets: Option<&[TargetId]>,
    ) -> Result<Vec<Arc<TargetConfig>>, StoreError> {
        self.call(Op::LoadTargets, self.0.sim.targets.load_targets(partition, targets)).await
    }

    async fn store_cursors(&self, batch: &CursorBatch) -> Result<(), StoreError> {
        let sim = &self.0.sim;
        let stored = async {
            let mut batch = batch.clone();
            match sim.mutation {
                Mutation::NoFence => batch.epoch = sim.targets.epoch(batch.partition),
                Mutation::LettersForgotten => batch.dead_letters.clear(),
                Mutation::HolesForgotten => batch.cursors.iter_mut().for_each(|c| c.holes.clear()),
                _ => {}
            }
            sim.targets.store_cursors(&batch).await?;
            let owner = sim.owner(batch.partition.0);
            sim.note(format_args!(
                "cursors of {} at {}: {} rows, {} letters, {} gone",
                batch.partition,
                batch.position.offset,
                batch.cursors.len(),
                batch.dead_letters.len(),
                batch.dead_letters_gone.len()
            ));
            let mut oracle = sim.oracle();
            oracle.on_cursors(&batch, self.0.process.id, owner);
            for target in all_targets(sim.plan.num_targets) {
                if sluse_schema::partition::partition_of_target(target, sim.plan.num_partitions) == batch.partition {
                    let row = sim.targets.cursor(target);
                    let position =
                        row.as_ref().and_then(|r| r.position.as_ref()).map_or(batch.position.offset, |p| p.offset);
                    oracle.check_cursor(target, row.as_ref(), position);
                }
            }
            Ok(())
        };
        self.call(Op::StoreCursors, stored).await
    }

    async fn load_requests(&self, partition: PartitionId) -> Result<Vec<TargetRequest>, StoreError> {
        self.call(Op::LoadTargets, self.0.sim.targets.load_requests(partition)).await
    }

    async fn load_dead_letters(
        &self,
        target: TargetId,
        ids: &[DeadLetterId],
    ) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError> {
        self.call(Op::LoadTargets, self.0.sim.targets.load_dead_letters(target, ids)).await
    }

    async fn load_decoder(
        &self,
        decoder: DecoderId,
        device: DeviceId,
    ) -> Result<Option<(Arc<DecoderScript>, Arc<str>)>, StoreError> {
        self.call(Op::LoadTargets, self.0.sim.targets.load_decoder(decoder, device)).await
    }
}

pub fn all_targets(num: i64) -> impl Iterator<Item = TargetId> {
    (1..=num).map(TargetId)
}

#[derive(Debug)]
pub struct SimDecoder {
    pub wire: Wire,
    /// Whose panics end a device's actor; the target stage's decodes are tasks of their own.
    pub may_panic: bool,
}

#[async_trait]
impl Decoder for SimDecoder {
    async fn decode(&self, job: DecodeJob) -> Result<Decoded, DecodeError> {
        let (sim, decoder) = (&self.wire.sim, job.script.id.0);
        tokio::task::yield_now().await;
        self.wire.before(Op::Decode).await;
        let number = number_in(&job.payload);
        let is_poison = sim.plan.poison_every > 0 && number % sim.plan.poison_every == 3;
        let is_struck = !sim.is_calm() && sim.chance(sim.plan.p_decode_panics);
        if self.may_panic && (is_poison || is_struck) {
            sim.num_panics.fetch_add(1, Ordering::Relaxed);
            sim.oracle().broken_decodes.insert((number, decoder));
            let device: i64 = job.metadata.to_string().parse().unwrap_or_default();
            *sim.oracle().panics.entry(DeviceId(device)).or_default() += 1;
            sim.note(format_args!("decoding {number} panics"));
            panic!("a panic that the simulation asked for");
        }
        if !sim.is_calm() && sim.chance(sim.plan.p_decode_fails) {
            sim.oracle().broken_decodes.insert((number, decoder));
            return Err(DecodeError { kind: DecodeErrorKind::Crash, message: "the worker was killed".into() });
        }
        match decoded(decoder, &job.payload) {
            Decoding::Value(text) => Ok(Decoded::Value { json: Bytes::from(text), num_warnings: 0 }),
            Decoding::Nothing => Ok(Decoded::Nothing),
            Decoding::Throws => Err(DecodeError { kind: DecodeErrorKind::Thrown, message: "five of thirteen".into() }),
        }
    }

    fn forget(&self, _: DecoderId) {}
}

#[derive(Debug)]
pub struct SimSenders(pub Wire);

impl SenderFactory for SimSenders {
    fn make(&self, config: &TargetConfig) -> Result<Arc<dyn TargetSender>, SenderError> {
        let num_max = config.policy.num_in_flight_max;
        Ok(Arc::new(SimSender { wire: self.0.clone(), num_max }))
    }
}

#[derive(Debug)]
struct SimSender {
    wire: Wire,
    num_max: u32,
}

/// Counts a try as open until it is over or was dropped.
struct OpenTry<'a>(&'a Wire, TargetId, DeviceId);

impl Drop for OpenTry<'_> {
    fn drop(&mut self) {
        self.0.sim.oracle().on_try_ended(self.0.process.id, self.1, self.2);
    }
}

/// What a receiver does with one try.
struct Handling {
    lands: bool,
    travel_ms: u64,
    answer_ms: u64,
    attempt: Attempt,
}

impl SimSender {
    fn handle(&self, meta: &DeliveryMeta, key: &str) -> Handling {
        let sim = &self.wire.sim;
        let mood = sim.mood(meta.target);
        let status = |status: u16| {
            let class = AttemptClass::of_http_status(status);
            Attempt { status_code: Some(status), ..Attempt::failed(class, format!("status {status}")) }
        };
        let lost = || Attempt::failed(AttemptClass::Transient, "no answer in time");
        let (travel_ms, answer_ms) = sim.draw(|rng| (rng.random_range(0..4), rng.random_range(0..4)));
        let well = Handling { lands: true, travel_ms, answer_ms, attempt: Attempt::delivered(Some(200)) };
        let failing = |attempt| Handling { lands: false, travel_ms, answer_ms, attempt };
        // Bodies that this receiver will never take.
        let is_poison = u64::from_str_radix(&key[..8], 16).unwrap_or(0) % 29 == 3 && !sim.plan.is_one_ill;
        match mood {
            _ if is_poison && mood != Mood::Hanging => failing(status(400)),
            Mood::Well => well,
            Mood::Slow => Handling { answer_ms: sim.draw(|rng| rng.random_range(500..6_000)), ..well },
            Mood::Broken => failing(status(500)),
            Mood::Unauthorized => failing(status(401)),
            Mood::Busy => {
                let retry_after_ms = Some(sim.draw(|rng| rng.random_range(100..5_000)));
                failing(Attempt { retry_after_ms, ..status(429) })
            }
            Mood::Hanging => Handling { lands: sim.chance(0.5), travel_ms, answer_ms: 30_000, attempt: lost() },
            Mood::Flaky => match sim.draw(|rng| rng.random_range(0..10)) {
                0..2 => failing(status(503)),
                2 => failing(status(403)),
                3..5 => Handling { answer_ms: 100, attempt: lost(), ..well },
                _ => well,
            },
        }
    }
}

#[async_trait]
impl TargetSender for SimSender {
    async fn send(&self, meta: &DeliveryMeta, _: Bytes) -> Attempt {
        let sim = &self.wire.sim;
        self.wire.process.runs().await;
        let key = meta.idempotency_key();
        sim.oracle().on_try(self.wire.process.id, meta.target, meta.device, self.num_max);
        let _open = OpenTry(&self.wire, meta.target, meta.device);
        self.wire.before(Op::Send).await;
        if !sim.is_calm() && sim.chance(sim.plan.p_send_panics) {
            sim.note(format_args!("a sender panics"));
            panic!("a panic that the simulation asked for");
        }
        let Handling { lands, travel_ms, answer_ms, attempt } = self.handle(meta, &key);
        if attempt.class == AttemptClass::Refused {
            sim.oracle().on_refused(meta.target, &key);
        }
        // What is on the wire arrives, whether the node still lives or not.
        let on_the_wire = self.wire.clone();
        let (meta, key) = (meta.clone(), key.clone());
        let travel = actix_rt::spawn(async move {
            tokio::time::sleep(Duration::from_millis(travel_ms)).await;
            let sim = &on_the_wire.sim;
            let is_measured = sim.plan.is_one_ill && meta.target != TargetId(1);
            if lands {
                sim.note(format_args!("target {} gets {}", meta.target, &key[..6]));
                sim.oracle().on_landed(&meta, &key, is_measured);
            }
        });
        let _ = travel.await;
        tokio::time::sleep(Duration::from_millis(answer_ms)).await;
        self.wire.after(Op::Send).await;
        attempt
    }
}
