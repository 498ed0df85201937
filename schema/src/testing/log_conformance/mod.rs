//! What every [`Log`] must do, as one suite: `log_conformance!(maker)` makes a test of each function here.
//!
//! Limits: nothing here takes offsets for dense (Kafka's transactions leave gaps), and nothing depends on time. What an
//! implementation cannot be made to do on request (trim, start uncleanly) its fixture declines, and that part is left out.

mod keeping;
mod reading;
mod writing;

pub use keeping::*;
pub use reading::*;
pub use writing::*;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::TargetId;
use crate::partition::PartitionId;
use crate::port::log::{Assignment, Log, LogError, ReadBatch, ReadLimit};
use crate::record::{HeaderName, Headers, LogIdentity, NewRecord, Offset, Position, Record, Resolution, Step, Topic};

/// A log under test, and what can be done to it from outside.
#[async_trait]
pub trait LogFixture: Send + Sync {
    /// The log as it is open now.
    fn log(&self) -> Arc<dyn Log>;

    /// Closes it cleanly and opens it again.
    async fn reopen(&mut self);

    /// Ends it without a clean close and opens it again; `false` when this kind of log has no incarnations.
    async fn reopen_uncleanly(&mut self) -> bool;

    /// Asks retention to drop the records below `before`, as far as the floor allows; `false` when that cannot be asked for.
    async fn trim(&mut self, topic: Topic, partition: PartitionId, before: Offset) -> bool;
}

/// Makes fresh, empty logs.
#[async_trait]
pub trait LogMaker: Send + Sync {
    /// What it makes.
    type Fixture: LogFixture;

    /// A new log with so many partitions in each topic, that keeps records from 1970.
    async fn make(&self, num_partitions: u32) -> Self::Fixture;
}

/// One `#[tokio::test]` per function of the suite, on logs that `$maker` makes.
#[macro_export]
macro_rules! log_conformance {
    ($maker:expr) => {
        $crate::log_conformance!(@each $maker;
            appends_of_a_partition_stand_in_the_order_of_their_calls,
            overlapping_appends_keep_the_order_in_which_they_were_first_polled,
            what_an_append_returned_is_readable_at_once_with_every_byte,
            appends_to_several_partitions_are_answered_in_their_order,
            partitions_do_not_mix,
            i1_a_step_brings_all_of_its_outputs_and_its_position,
            i1_a_refused_step_brings_nothing,
            i8_a_step_that_does_not_start_at_the_committed_position_is_fenced,
            i8_a_step_beyond_the_end_of_the_log_is_fenced,
            steps_without_outputs_move_the_position,
            nothing_is_committed_at_first,
            reads_keep_their_limits_and_go_on_where_they_stopped,
            a_record_larger_than_the_limit_is_read_alone,
            reading_at_the_end_brings_nothing_at_once,
            reading_below_the_start_says_where_the_log_starts,
            an_offset_is_found_by_time,
            an_offset_is_found_by_time_where_deliveries_go_back_a_little,
            a_target_reads_its_own_records_only_and_moves_past_the_others,
            a_backlog_is_exact,
            waiting_ends_when_the_record_is_there,
            waiting_for_what_is_there_ends_at_once,
            nothing_is_trimmed_beyond_the_floor,
            a_trimmed_target_reads_and_counts_what_is_left,
            a_position_of_this_log_resolves_to_itself,
            a_position_of_another_log_is_never_used,
            a_position_of_an_older_incarnation_is_cut_where_that_one_ended,
            a_trimmed_position_is_expired,
            a_clean_reopen_keeps_everything_and_the_identity,
            an_unclean_reopen_keeps_everything_that_was_acknowledged,
            a_closed_log_takes_nothing,
            the_first_assignment_brings_every_partition_and_the_next_one_waits,
        );
    };
    (@each $maker:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                use $crate::testing::log_conformance::{self, LogMaker};
                log_conformance::$name(LogMaker::make(&$maker, 4).await).await;
            }
        )+
    };
}

pub(super) const P0: PartitionId = PartitionId(0);
pub(super) const P1: PartitionId = PartitionId(1);
pub(super) const P3: PartitionId = PartitionId(3);
pub(super) const WIDE: ReadLimit = ReadLimit { num_records_max: 10_000, num_bytes_max: 64 << 20 };
/// Longer than anything here takes; only a failing test waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A record whose text says what it is.
pub fn record(key: i64, timestamp_ms: i64, text: impl Into<String>) -> NewRecord {
    let text = text.into();
    let headers = Headers::from_pairs([(HeaderName::Device, key.to_string().as_str()), (HeaderName::EventId, &text)]);
    NewRecord { key, timestamp_ms, headers, value: Bytes::from(text) }
}

/// Everything that is kept in a partition, read in small pieces.
pub async fn read_all(log: &dyn Log, topic: Topic, partition: PartitionId) -> Vec<Record> {
    let (start, end) = log.bounds(topic, partition).await.unwrap();
    read_range(log, topic, partition, start, end).await
}

pub(super) async fn read_range(
    log: &dyn Log,
    topic: Topic,
    partition: PartitionId,
    from: Offset,
    until: Offset,
) -> Vec<Record> {
    let (mut records, mut from) = (Vec::new(), from);
    while from < until {
        let limit = ReadLimit { num_records_max: 7, num_bytes_max: 1 << 20 };
        let batch = log.read(topic, partition, from, limit).await.unwrap();
        assert!(batch.next > from, "a read below the end moves on");
        check_batch(&batch, from);
        records.extend(batch.records);
        from = batch.next;
    }
    records
}

pub(super) fn check_batch(batch: &ReadBatch, from: Offset) {
    let offsets: Vec<u64> = batch.records.iter().map(|r| r.offset.0).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "offsets rise: {offsets:?}");
    assert!(offsets.iter().all(|o| *o >= from.0 && *o < batch.next.0 && *o < batch.end.0), "{offsets:?} {batch:?}");
}

pub(super) fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value.to_vec()).unwrap()).collect()
}

pub(super) async fn append_texts(log: &dyn Log, partition: PartitionId, texts: &[&str]) -> Offset {
    log.append(partition, texts.iter().map(|t| record(1, 1_000, *t)).collect()).await.unwrap()
}

pub(super) async fn end_of(log: &dyn Log, topic: Topic, partition: PartitionId) -> Offset {
    log.bounds(topic, partition).await.unwrap().1
}

/// Commits a step over everything in the partition's uplinks, with these outputs.
pub(super) async fn step_over_all(log: &dyn Log, partition: PartitionId, outputs: Vec<(PartitionId, NewRecord)>) {
    let from = log.committed(partition).await.unwrap().unwrap_or(Offset::ZERO);
    let next = end_of(log, Topic::Uplinks, partition).await;
    log.commit_step(Step { partition, from, next, outputs }).await.unwrap();
}

/// Deliveries for several targets in the deliveries partition 0, one step each `targets` slice. Gives what stands there.
pub(super) async fn deliver(log: &dyn Log, steps: &[&[(i64, i64)]]) -> Vec<Record> {
    for (i, targets) in steps.iter().enumerate() {
        append_texts(log, P0, &["cause"]).await;
        let outputs = targets.iter().enumerate();
        let outputs = outputs.map(|(j, (target, at))| (P0, record(*target, *at, format!("{i}.{j}")))).collect();
        step_over_all(log, P0, outputs).await;
    }
    read_all(log, Topic::Deliveries, P0).await
}
