//! Random histories on the embedded log and on [`MemoryLog`] as its model: after each, both hold and answer the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig, Faults};
use sluse_schema::id::TargetId;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Log, LogError, ReadLimit};
use sluse_schema::record::{LogIdentity, NewRecord, Offset, Position, Record, Step, Topic};
use sluse_schema::testing::MemoryLog;

use crate::common::*;

const NUM_PARTITIONS: u32 = 2;

#[derive(Clone, Debug)]
enum Op {
    Append {
        partition: u32,
        num_records: usize,
        num_bytes: usize,
        is_failing: Option<bool>,
    },
    /// Over a share of what waits, with outputs to these (partition, target).
    Step {
        partition: u32,
        percent: u64,
        outputs: Vec<(u32, i64)>,
        is_failing: Option<bool>,
    },
    StaleStep {
        partition: u32,
    },
    Trim {
        is_uplinks: bool,
        partition: u32,
        percent: u64,
    },
    Floor {
        partition: u32,
        percent: u64,
    },
    Reopen {
        is_clean: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let partition = || 0..NUM_PARTITIONS;
    let failing = || prop_oneof![12 => Just(None), 1 => Just(Some(false)), 1 => Just(Some(true))];
    let outputs = proptest::collection::vec((partition(), -1i64..4), 0..40);
    prop_oneof![
        6 => (partition(), 0usize..30, 0usize..3_000, failing())
            .prop_map(|(partition, num_records, num_bytes, is_failing)| Op::Append { partition, num_records, num_bytes, is_failing }),
        6 => (partition(), 1u64..=100, outputs, failing())
            .prop_map(|(partition, percent, outputs, is_failing)| Op::Step { partition, percent, outputs, is_failing }),
        1 => partition().prop_map(|partition| Op::StaleStep { partition }),
        2 => (any::<bool>(), partition(), 0u64..=100)
            .prop_map(|(is_uplinks, partition, percent)| Op::Trim { is_uplinks, partition, percent }),
        1 => (partition(), 0u64..=100).prop_map(|(partition, percent)| Op::Floor { partition, percent }),
        1 => any::<bool>().prop_map(|is_clean| Op::Reopen { is_clean }),
    ]
}

struct Pair {
    real: Option<Arc<EmbeddedLog>>,
    model: Arc<MemoryLog>,
    config: EmbeddedLogConfig,
    faults: Arc<Faults>,
    floors: [Offset; NUM_PARTITIONS as usize],
    num_made: u64,
    seen: Vec<(LogIdentity, Topic, PartitionId, Offset)>,
}

impl Pair {
    fn new(dir: &tempfile::TempDir, tail_cache_bytes_max: usize) -> Self {
        let config = EmbeddedLogConfig { tail_cache_bytes_max, ..config(dir, NUM_PARTITIONS) };
        let faults = Arc::new(Faults::default());
        let real = EmbeddedLog::open_with_faults(config.clone(), Arc::clone(&faults)).unwrap();
        let model = MemoryLog::new(NUM_PARTITIONS);
        let mut pair =
            Self { real: Some(real), model, config, faults, floors: [Offset(0); 2], num_made: 0, seen: Vec::new() };
        pair.set_floors();
        pair
    }

    fn real(&self) -> &EmbeddedLog {
        self.real.as_deref().unwrap()
    }

    fn set_floors(&mut self) {
        for (partition, floor) in (0..).map(PartitionId).zip(self.floors) {
            self.real().set_retention_floor(Topic::Uplinks, partition, floor);
            self.model.set_retention_floor(Topic::Uplinks, partition, floor);
        }
    }

    fn make(&mut self, key: i64, num_bytes: usize) -> NewRecord {
        self.num_made += 1;
        // Rises, and goes back a little now and then, as deliveries' timestamps do.
        let timestamp_ms = self.num_made as i64 * 10 - (self.num_made as i64 * 7 % 5) * 9;
        record(key, timestamp_ms, format!("{}-{}", self.num_made, "x".repeat(num_bytes)))
    }

    fn set_failing(&self, is_failing: Option<bool>) {
        match is_failing {
            Some(true) => self.faults.num_commits_failing_written.store(1, Ordering::Relaxed),
            Some(false) => self.faults.num_commits_failing_unwritten.store(1, Ordering::Relaxed),
            None => {}
        }
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Append { partition, num_records, num_bytes, is_failing } => {
                let records: Vec<NewRecord> = (0..num_records).map(|_| self.make(1, num_bytes)).collect();
                self.set_failing(is_failing.filter(|_| num_records > 0));
                let partition = PartitionId(partition);
                let real = self.real().append(partition, records.clone()).await;
                if is_failing.is_none() || num_records == 0 {
                    assert_eq!(real.unwrap(), self.model.append(partition, records).await.unwrap());
                } else {
                    assert!(matches!(real, Err(LogError::Unclear(_))));
                    if is_failing == Some(true) {
                        self.model.append(partition, records).await.unwrap();
                    }
                }
            }
            Op::Step { partition, percent, outputs, is_failing } => {
                let partition = PartitionId(partition);
                let from = self.model.committed(partition).await.unwrap().unwrap_or(Offset(0));
                let (_, end) = self.model.bounds(Topic::Uplinks, partition).await.unwrap();
                let next = Offset(from.0 + ((end.0 - from.0) * percent).div_ceil(100));
                if next == from {
                    return;
                }
                let outputs = outputs.into_iter().map(|(p, target)| (PartitionId(p), self.make(target, 20))).collect();
                let step = Step { partition, from, next, outputs };
                self.set_failing(is_failing);
                match (self.real().commit_step(step.clone()).await, is_failing) {
                    (Ok(()), None) => self.model.commit_step(step).await.unwrap(),
                    (Err(LogError::Unclear(_)), Some(true)) => self.model.commit_step(step).await.unwrap(),
                    (Err(LogError::Unclear(_)), Some(false)) => {}
                    (other, _) => panic!("{other:?}"),
                }
            }
            Op::StaleStep { partition } => {
                let mut stale = step(1 << 40, 1 << 41, "stale");
                stale.partition = PartitionId(partition);
                assert!(matches!(self.real().commit_step(stale).await, Err(LogError::Fenced { .. })));
            }
            Op::Trim { is_uplinks, partition, percent } => {
                let (topic, partition) =
                    (if is_uplinks { Topic::Uplinks } else { Topic::Deliveries }, PartitionId(partition));
                let (start, end) = self.model.bounds(topic, partition).await.unwrap();
                let before = Offset(start.0 + (end.0 - start.0) * percent / 100);
                let real = self.real().trim_to(topic, partition, before).await.unwrap();
                assert_eq!(real, self.model.trim_to(topic, partition, before));
            }
            Op::Floor { partition, percent } => {
                let committed = self.model.committed(PartitionId(partition)).await.unwrap().unwrap_or(Offset(0));
                self.floors[partition as usize] = Offset(committed.0 * percent / 100);
                self.set_floors();
            }
            Op::Reopen { is_clean } => {
                for (topic, partition) in partitions() {
                    let (_, end) = self.model.bounds(topic, partition).await.unwrap();
                    self.seen.push((self.real().identity(), topic, partition, end));
                }
                if is_clean {
                    self.real().close().await.unwrap();
                } else {
                    self.model.raise_incarnation();
                }
                self.real = None;
                let reopened = EmbeddedLog::open_with_faults(self.config.clone(), Arc::clone(&self.faults));
                self.real = Some(reopened.unwrap());
                self.set_floors();
            }
        }
    }

    async fn compare(&self) {
        assert_eq!(self.real().identity().incarnation, self.model.identity().incarnation);
        for (topic, partition) in partitions() {
            let bounds = self.model.bounds(topic, partition).await.unwrap();
            assert_eq!(self.real().bounds(topic, partition).await.unwrap(), bounds);
            assert_eq!(self.real().committed(partition).await.unwrap(), self.model.committed(partition).await.unwrap());
            let expected = self.model.records(topic, partition);
            assert_same(&read_all(self.real(), topic, partition).await, &expected);
            for at_ms in (0..=self.num_made as i64 * 10 + 20).step_by(1 + self.num_made as usize / 4) {
                let found = self.real().offset_at(topic, partition, at_ms).await.unwrap();
                assert_eq!(found, self.model.offset_at(topic, partition, at_ms).await.unwrap(), "{topic:?} at {at_ms}");
            }
        }
        for partition in (0..NUM_PARTITIONS).map(PartitionId) {
            self.compare_targets(partition).await;
        }
        for (identity, topic, partition, offset) in &self.seen {
            let stored = Position { log: identity.clone(), offset: *offset };
            let resolved = self.real().resolve(*topic, *partition, &stored).await.unwrap();
            let log = LogIdentity { store: self.model.identity().store, incarnation: identity.incarnation };
            let expected = self.model.resolve(*topic, *partition, &Position { log, offset: *offset }).await.unwrap();
            assert_eq!(resolved, expected);
        }
    }

    async fn compare_targets(&self, partition: PartitionId) {
        let (start, end) = self.model.bounds(Topic::Deliveries, partition).await.unwrap();
        let middle = Offset(start.0 + (end.0 - start.0) / 2);
        for target in (-1..5).map(TargetId) {
            for (from, until) in [(start, end), (middle, end), (start, middle)] {
                let real = self.real().backlog(partition, target, from, until).await.unwrap();
                assert_eq!(real, self.model.backlog(partition, target, from, until).await.unwrap());
                for limit in [WIDE, ReadLimit { num_records_max: 3, num_bytes_max: 200 }] {
                    let real = self.real().read_target(partition, target, from, limit).await.unwrap();
                    let expected = self.model.read_target(partition, target, from, limit).await.unwrap();
                    assert_same(&real.records, &expected.records);
                    assert_eq!((real.next, real.end), (expected.next, expected.end));
                }
            }
        }
    }
}

fn partitions() -> impl Iterator<Item = (Topic, PartitionId)> {
    [Topic::Uplinks, Topic::Deliveries].into_iter().flat_map(|t| (0..NUM_PARTITIONS).map(move |p| (t, PartitionId(p))))
}

fn assert_same(real: &[Record], model: &[Record]) {
    let what = |r: &Record| (r.offset, r.key, r.timestamp_ms, r.headers.clone(), r.value.clone());
    assert_eq!(real.iter().map(what).collect::<Vec<_>>(), model.iter().map(what).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i1_every_history_leaves_what_the_model_holds(
        ops in proptest::collection::vec(op(), 1..40),
        tail_cache_bytes_max in prop_oneof![Just(0), Just(5_000), Just(4 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut pair = Pair::new(&dir, tail_cache_bytes_max);
            for op in ops {
                pair.run(op).await;
            }
            pair.compare().await;
            pair.run(Op::Reopen { is_clean: false }).await;
            pair.compare().await;
        });
    }
}
