//! What every [`Log`] must do, as one suite: `log_conformance!(maker)` makes a test of each function here.
//!
//! Limits: nothing here takes offsets for dense (Kafka's transactions leave gaps), and nothing depends on time. What an
//! implementation cannot be made to do on request (trim, start uncleanly) its fixture declines, and that part is left out.

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

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);
const P3: PartitionId = PartitionId(3);
const WIDE: ReadLimit = ReadLimit { num_records_max: 10_000, num_bytes_max: 64 << 20 };
/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

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

async fn read_range(log: &dyn Log, topic: Topic, partition: PartitionId, from: Offset, until: Offset) -> Vec<Record> {
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

fn check_batch(batch: &ReadBatch, from: Offset) {
    let offsets: Vec<u64> = batch.records.iter().map(|r| r.offset.0).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "offsets rise: {offsets:?}");
    assert!(offsets.iter().all(|o| *o >= from.0 && *o < batch.next.0 && *o < batch.end.0), "{offsets:?} {batch:?}");
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value.to_vec()).unwrap()).collect()
}

async fn append_texts(log: &dyn Log, partition: PartitionId, texts: &[&str]) -> Offset {
    log.append(partition, texts.iter().map(|t| record(1, 1_000, *t)).collect()).await.unwrap()
}

async fn end_of(log: &dyn Log, topic: Topic, partition: PartitionId) -> Offset {
    log.bounds(topic, partition).await.unwrap().1
}

/// Commits a step over everything in the partition's uplinks, with these outputs.
async fn step_over_all(log: &dyn Log, partition: PartitionId, outputs: Vec<(PartitionId, NewRecord)>) {
    let from = log.committed(partition).await.unwrap().unwrap_or(Offset::ZERO);
    let next = end_of(log, Topic::Uplinks, partition).await;
    log.commit_step(Step { partition, from, next, outputs }).await.unwrap();
}

/// Deliveries for several targets in the deliveries partition 0, one step each `targets` slice. Gives what stands there.
async fn deliver(log: &dyn Log, steps: &[&[(i64, i64)]]) -> Vec<Record> {
    for (i, targets) in steps.iter().enumerate() {
        append_texts(log, P0, &["cause"]).await;
        let outputs = targets.iter().enumerate();
        let outputs = outputs.map(|(j, (target, at))| (P0, record(*target, *at, format!("{i}.{j}")))).collect();
        step_over_all(log, P0, outputs).await;
    }
    read_all(log, Topic::Deliveries, P0).await
}

pub async fn appends_of_a_partition_stand_in_the_order_of_their_calls(f: impl LogFixture) {
    let log = f.log();
    let first = append_texts(&*log, P0, &["a", "b"]).await;
    let second = append_texts(&*log, P0, &["c"]).await;
    assert!(first < second);
    let records = read_all(&*log, Topic::Uplinks, P0).await;
    assert_eq!(texts(&records), ["a", "b", "c"]);
    assert_eq!((records[0].offset, records[2].offset), (first, second));
}

pub async fn overlapping_appends_keep_the_order_in_which_they_were_first_polled(f: impl LogFixture) {
    let log = f.log();
    let mut under_way = Vec::new();
    for i in 0..200 {
        let log = Arc::clone(&log);
        let mut append = Box::pin(async move { log.append(P1, vec![record(1, 1_000, i.to_string())]).await });
        let done = std::future::poll_fn(|context| match append.as_mut().poll(context) {
            std::task::Poll::Ready(result) => std::task::Poll::Ready(Some(result)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        });
        match done.await {
            Some(result) => drop(result.unwrap()),
            None => under_way.push(append),
        }
    }
    // Waited for in the opposite order: only the first poll counts.
    for append in under_way.into_iter().rev() {
        append.await.unwrap();
    }
    let expected: Vec<String> = (0..200).map(|i| i.to_string()).collect();
    assert_eq!(texts(&read_all(&*log, Topic::Uplinks, P1).await), expected);
}

pub async fn what_an_append_returned_is_readable_at_once_with_every_byte(f: impl LogFixture) {
    let log = f.log();
    for i in 0..20u8 {
        let headers = Headers::from_pairs([(HeaderName::EventId, "id"), (HeaderName::ContentType, "text/æøå")]);
        let value = Bytes::from((0..=255u8).map(|b| b ^ i).collect::<Vec<_>>());
        let new = NewRecord { key: -5, timestamp_ms: 77, headers: headers.clone(), value: value.clone() };
        let offset = log.append(P0, vec![new]).await.unwrap();
        let batch = log.read(Topic::Uplinks, P0, offset, WIDE).await.unwrap();
        let [read] = batch.records.as_slice() else { panic!("one record stands there: {batch:?}") };
        assert_eq!((read.offset, read.key, read.timestamp_ms), (offset, -5, 77));
        assert_eq!((&read.headers, &read.value), (&headers, &value));
        assert!(batch.end > offset);
    }
    let empty = NewRecord { key: 0, timestamp_ms: 77, headers: Headers::default(), value: Bytes::new() };
    let offset = log.append(P0, vec![empty]).await.unwrap();
    let batch = log.read(Topic::Uplinks, P0, offset, WIDE).await.unwrap();
    assert!(batch.records[0].value.is_empty());
}

pub async fn partitions_do_not_mix(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["zero"]).await;
    append_texts(&*log, P3, &["three"]).await;
    step_over_all(&*log, P3, vec![(P1, record(9, 1, "for one"))]).await;
    assert_eq!(texts(&read_all(&*log, Topic::Uplinks, P0).await), ["zero"]);
    assert_eq!(texts(&read_all(&*log, Topic::Uplinks, P3).await), ["three"]);
    assert_eq!(texts(&read_all(&*log, Topic::Deliveries, P1).await), ["for one"]);
    assert!(read_all(&*log, Topic::Deliveries, P3).await.is_empty());
    assert_eq!(log.committed(P0).await.unwrap(), None);
}

pub async fn i1_a_step_brings_all_of_its_outputs_and_its_position(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0", "u1", "u2"]).await;
    let end = end_of(&*log, Topic::Uplinks, P0).await;
    let outputs = vec![
        (P1, record(1, 1, "first for one")),
        (P3, record(2, 1, "for three")),
        (P1, record(3, 1, "second for one")),
    ];
    log.commit_step(Step { partition: P0, from: Offset::ZERO, next: end, outputs }).await.unwrap();
    assert_eq!(log.committed(P0).await.unwrap(), Some(end));
    let for_one = read_all(&*log, Topic::Deliveries, P1).await;
    assert_eq!(texts(&for_one), ["first for one", "second for one"]);
    assert_eq!(for_one[1].key, 3);
    assert_eq!(texts(&read_all(&*log, Topic::Deliveries, P3).await), ["for three"]);
}

pub async fn i1_a_refused_step_brings_nothing(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0", "u1"]).await;
    step_over_all(&*log, P0, vec![(P1, record(1, 1, "good"))]).await;
    let committed = log.committed(P0).await.unwrap();
    let next = end_of(&*log, Topic::Uplinks, P0).await;
    let late = Step { partition: P0, from: Offset::ZERO, next, outputs: vec![(P1, record(1, 1, "late"))] };
    assert!(matches!(log.commit_step(late).await, Err(LogError::Fenced { partition: P0, .. })));
    assert_eq!(log.committed(P0).await.unwrap(), committed);
    assert_eq!(texts(&read_all(&*log, Topic::Deliveries, P1).await), ["good"]);
}

pub async fn i8_a_step_that_does_not_start_at_the_committed_position_is_fenced(f: impl LogFixture) {
    let log = f.log();
    let first = append_texts(&*log, P0, &["u0", "u1", "u2", "u3"]).await;
    let records = read_all(&*log, Topic::Uplinks, P0).await;
    let step = |from, next, text: &str| Step { partition: P0, from, next, outputs: vec![(P0, record(1, 1, text))] };
    log.commit_step(step(first, records[2].offset, "one")).await.unwrap();
    for from in [first, records[1].offset, records[3].offset] {
        let refused = log.commit_step(step(from, records[3].offset, "wrong")).await;
        assert!(matches!(refused, Err(LogError::Fenced { .. })), "{from}: {refused:?}");
    }
    log.commit_step(step(records[2].offset, records[3].offset, "two")).await.unwrap();
    assert_eq!(texts(&read_all(&*log, Topic::Deliveries, P0).await), ["one", "two"]);
}

pub async fn i8_a_step_beyond_the_end_of_the_log_is_fenced(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0"]).await;
    let next = Offset(end_of(&*log, Topic::Uplinks, P0).await.0 + 100);
    let refused = log.commit_step(Step { partition: P0, from: Offset::ZERO, next, outputs: vec![] }).await;
    assert!(matches!(refused, Err(LogError::Fenced { .. })), "{refused:?}");
    assert_eq!(log.committed(P0).await.unwrap(), None);
}

pub async fn steps_without_outputs_move_the_position(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0", "u1"]).await;
    step_over_all(&*log, P0, vec![]).await;
    let end = end_of(&*log, Topic::Uplinks, P0).await;
    assert_eq!(log.committed(P0).await.unwrap(), Some(end));
    assert!(read_all(&*log, Topic::Deliveries, P0).await.is_empty());
}

pub async fn nothing_is_committed_at_first(f: impl LogFixture) {
    let log = f.log();
    assert_eq!(log.num_partitions(), 4);
    for partition in 0..4 {
        let partition = PartitionId(partition);
        assert_eq!(log.committed(partition).await.unwrap(), None);
        for topic in [Topic::Uplinks, Topic::Deliveries] {
            let (start, end) = log.bounds(topic, partition).await.unwrap();
            assert_eq!(start, end);
        }
    }
    log.health().await.unwrap();
}

pub async fn reads_keep_their_limits_and_go_on_where_they_stopped(f: impl LogFixture) {
    let log = f.log();
    let news: Vec<NewRecord> = (0..50).map(|i| record(1, 1_000, format!("{i:0100}"))).collect();
    let num_bytes = news[0].num_bytes();
    for news in news.chunks(9) {
        log.append(P0, news.to_vec()).await.unwrap();
    }
    let expected: Vec<String> = (0..50).map(|i| format!("{i:0100}")).collect();
    for (num_records_max, num_bytes_max, most) in [(3, 1 << 20, 3), (1_000, num_bytes * 4 + 10, 4), (1, 1, 1)] {
        let (mut seen, mut from) = (Vec::new(), log.bounds(Topic::Uplinks, P0).await.unwrap().0);
        loop {
            let limit = ReadLimit { num_records_max, num_bytes_max };
            let batch = log.read(Topic::Uplinks, P0, from, limit).await.unwrap();
            check_batch(&batch, from);
            assert!(batch.records.len() <= most, "{} of at most {most}", batch.records.len());
            seen.extend(texts(&batch.records));
            from = batch.next;
            if from >= batch.end {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
}

pub async fn a_record_larger_than_the_limit_is_read_alone(f: impl LogFixture) {
    let log = f.log();
    let large = "x".repeat(300_000);
    append_texts(&*log, P0, &["small", &large, "after"]).await;
    let records = read_all(&*log, Topic::Uplinks, P0).await;
    assert_eq!(records.len(), 3);
    let limit = ReadLimit { num_records_max: 10, num_bytes_max: 1_000 };
    let batch = log.read(Topic::Uplinks, P0, records[1].offset, limit).await.unwrap();
    assert_eq!(texts(&batch.records), [large]);
}

pub async fn reading_at_the_end_brings_nothing_at_once(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0"]).await;
    let end = end_of(&*log, Topic::Uplinks, P0).await;
    let batch = log.read(Topic::Uplinks, P0, end, WIDE).await.unwrap();
    assert!(batch.records.is_empty());
    assert_eq!((batch.next, batch.end), (end, end));
    let batch = log.read_target(P0, TargetId(1), Offset::ZERO, WIDE).await.unwrap();
    assert!(batch.records.is_empty());
}

pub async fn reading_below_the_start_says_where_the_log_starts(mut f: impl LogFixture) {
    append_texts(&*f.log(), P0, &["u0", "u1", "u2", "u3"]).await;
    step_over_all(&*f.log(), P0, (0..4).map(|i| (P0, record(5, 1, i.to_string()))).collect()).await;
    for topic in [Topic::Uplinks, Topic::Deliveries] {
        let third = read_all(&*f.log(), topic, P0).await[2].offset;
        f.log().set_retention_floor(topic, P0, third);
        if !f.trim(topic, P0, third).await {
            return;
        }
        let (start, end) = f.log().bounds(topic, P0).await.unwrap();
        assert!(start > Offset::ZERO && start <= third && third < end);
        let refused = f.log().read(topic, P0, Offset::ZERO, WIDE).await;
        let Err(LogError::OutOfRange { asked: Offset::ZERO, start: said, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(said, start);
        assert_eq!(f.log().read(topic, P0, third, WIDE).await.unwrap().records.len(), 2);
    }
    let refused = f.log().read_target(P0, TargetId(5), Offset::ZERO, WIDE).await;
    assert!(matches!(refused, Err(LogError::OutOfRange { .. })), "{refused:?}");
}

pub async fn an_offset_is_found_by_time(f: impl LogFixture) {
    let log = f.log();
    let times = [100, 100, 200, 300, 300, 300, 450];
    for (i, at) in times.iter().enumerate() {
        log.append(P0, vec![record(1, *at, i.to_string())]).await.unwrap();
    }
    let records = read_all(&*log, Topic::Uplinks, P0).await;
    for (at, expected) in [(0, 0), (100, 0), (101, 2), (200, 2), (201, 3), (300, 3), (301, 6), (450, 6)] {
        assert_eq!(log.offset_at(Topic::Uplinks, P0, at).await.unwrap(), records[expected].offset, "at {at}");
    }
    let end = end_of(&*log, Topic::Uplinks, P0).await;
    assert_eq!(log.offset_at(Topic::Uplinks, P0, 451).await.unwrap(), end);
    assert_eq!(log.offset_at(Topic::Uplinks, P1, 0).await.unwrap(), end_of(&*log, Topic::Uplinks, P1).await);
}

pub async fn an_offset_is_found_by_time_where_deliveries_go_back_a_little(f: impl LogFixture) {
    let log = f.log();
    let times = [100, 140, 120, 160, 130, 200, 190, 210];
    let targets: Vec<(i64, i64)> = times.iter().map(|at| (1, *at)).collect();
    let records = deliver(&*log, &[&targets[..3], &targets[3..]]).await;
    for at in 90..=215 {
        let expected = records.iter().find(|r| r.timestamp_ms >= at);
        let expected = match expected {
            Some(record) => record.offset,
            None => end_of(&*log, Topic::Deliveries, P0).await,
        };
        assert_eq!(log.offset_at(Topic::Deliveries, P0, at).await.unwrap(), expected, "at {at}");
    }
}

/// Targets 1 to 4 with different densities, over many steps.
async fn deliver_mixed(log: &dyn Log) -> Vec<Record> {
    let steps: Vec<Vec<(i64, i64)>> = (0..30)
        .map(|step: i64| {
            let mut targets = vec![(1, step), (2, step), (1, step)];
            if step % 7 == 0 {
                targets.push((3, step));
            }
            if step == 20 {
                targets.insert(0, (-4, step));
            }
            targets
        })
        .collect();
    let steps: Vec<&[(i64, i64)]> = steps.iter().map(Vec::as_slice).collect();
    deliver(log, &steps).await
}

pub async fn a_target_reads_its_own_records_only_and_moves_past_the_others(mut f: impl LogFixture) {
    let all = deliver_mixed(&*f.log()).await;
    for is_reopened in [false, true] {
        if is_reopened {
            f.reopen().await;
        }
        let log = f.log();
        let (start, end) = log.bounds(Topic::Deliveries, P0).await.unwrap();
        for target in [1, 2, 3, -4, 99] {
            for (num_records_max, num_bytes_max) in [(1, 1 << 20), (5, 1 << 20), (1_000, 150), (1_000, 1 << 20)] {
                let (mut seen, mut from) = (Vec::new(), start);
                while from < end {
                    let limit = ReadLimit { num_records_max, num_bytes_max };
                    let batch = log.read_target(P0, TargetId(target), from, limit).await.unwrap();
                    check_batch(&batch, from);
                    assert!(batch.next > from, "a target with nothing to read still moves");
                    assert!(batch.records.len() <= num_records_max);
                    seen.extend(batch.records.iter().map(|r| (r.offset, r.key, r.value.clone())));
                    from = batch.next;
                }
                let expected: Vec<_> = all.iter().filter(|r| r.key == target).collect();
                let expected: Vec<_> = expected.iter().map(|r| (r.offset, r.key, r.value.clone())).collect();
                assert_eq!(seen, expected, "target {target}");
            }
        }
    }
}

async fn check_backlogs(log: &dyn Log, all: &[Record], froms: &[Offset]) {
    let end = end_of(log, Topic::Deliveries, P0).await;
    for target in [1, 2, 3, -4, 99] {
        for from in froms {
            for until in froms.iter().copied().chain([end]) {
                let mut naive = all.iter().filter(|r| r.key == target && r.offset >= *from && r.offset < until);
                let backlog = log.backlog(P0, TargetId(target), *from, until).await.unwrap();
                let first = naive.next().map(|r| (r.offset, r.timestamp_ms));
                assert_eq!(backlog.first, first, "target {target} [{from}, {until})");
                let num_records = u64::from(first.is_some()) + naive.count() as u64;
                assert_eq!(backlog.num_records, num_records, "target {target} [{from}, {until})");
            }
        }
    }
}

pub async fn a_backlog_is_exact(mut f: impl LogFixture) {
    let all = deliver_mixed(&*f.log()).await;
    let froms: Vec<Offset> = all.iter().step_by(9).map(|r| r.offset).collect();
    check_backlogs(&*f.log(), &all, &froms).await;
    f.reopen().await;
    check_backlogs(&*f.log(), &all, &froms).await;
    // The counts go on after a restart.
    append_texts(&*f.log(), P0, &["cause"]).await;
    step_over_all(&*f.log(), P0, vec![(P0, record(1, 99, "later")), (P0, record(3, 99, "later"))]).await;
    let all = read_all(&*f.log(), Topic::Deliveries, P0).await;
    check_backlogs(&*f.log(), &all, &froms).await;
}

pub async fn waiting_ends_when_the_record_is_there(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0"]).await;
    let end = end_of(&*log, Topic::Uplinks, P0).await;
    let waiter = {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            loop {
                log.wait_for(Topic::Uplinks, P0, end).await;
                let batch = log.read(Topic::Uplinks, P0, end, WIDE).await.unwrap();
                if !batch.records.is_empty() {
                    return texts(&batch.records);
                }
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    append_texts(&*log, P0, &["u1"]).await;
    assert_eq!(tokio::time::timeout(PATIENCE, waiter).await.unwrap().unwrap(), ["u1"]);
}

pub async fn waiting_for_what_is_there_ends_at_once(f: impl LogFixture) {
    let log = f.log();
    let first = append_texts(&*log, P0, &["u0"]).await;
    tokio::time::timeout(PATIENCE, log.wait_for(Topic::Uplinks, P0, first)).await.unwrap();
}

pub async fn nothing_is_trimmed_beyond_the_floor(mut f: impl LogFixture) {
    let texts_in: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    append_texts(&*f.log(), P0, &texts_in.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let records = read_all(&*f.log(), Topic::Uplinks, P0).await;
    let end = end_of(&*f.log(), Topic::Uplinks, P0).await;
    let floor = records[12].offset;
    f.log().set_retention_floor(Topic::Uplinks, P0, floor);
    if !f.trim(Topic::Uplinks, P0, end).await {
        return;
    }
    let (start, _) = f.log().bounds(Topic::Uplinks, P0).await.unwrap();
    assert!(start <= floor, "the log starts at {start}, the floor is {floor}");
    let kept = texts(&read_range(&*f.log(), Topic::Uplinks, P0, floor, end).await);
    assert_eq!(kept, &texts_in[12..]);
    // Other partitions, and what follows, are not touched; the trim survives a restart.
    f.reopen().await;
    assert_eq!(f.log().bounds(Topic::Uplinks, P0).await.unwrap(), (start, end));
    append_texts(&*f.log(), P0, &["more"]).await;
    assert_eq!(texts(&read_all(&*f.log(), Topic::Uplinks, P0).await).last().unwrap(), "more");
}

pub async fn a_trimmed_target_reads_and_counts_what_is_left(mut f: impl LogFixture) {
    let all = deliver_mixed(&*f.log()).await;
    let before = all[all.len() / 2].offset;
    f.log().set_retention_floor(Topic::Deliveries, P0, before);
    if !f.trim(Topic::Deliveries, P0, before).await {
        return;
    }
    for is_reopened in [false, true] {
        if is_reopened {
            f.reopen().await;
        }
        let (start, _) = f.log().bounds(Topic::Deliveries, P0).await.unwrap();
        let left: Vec<Record> = all.iter().filter(|r| r.offset >= start).cloned().collect();
        let froms: Vec<Offset> = left.iter().step_by(5).map(|r| r.offset).collect();
        check_backlogs(&*f.log(), &left, &froms).await;
        let batch = f.log().read_target(P0, TargetId(1), start, WIDE).await.unwrap();
        assert_eq!(batch.records.len(), left.iter().filter(|r| r.key == 1).count());
    }
}

pub async fn a_position_of_this_log_resolves_to_itself(mut f: impl LogFixture) {
    append_texts(&*f.log(), P0, &["u0", "u1"]).await;
    let offset = read_all(&*f.log(), Topic::Uplinks, P0).await[1].offset;
    let stored = Position { log: f.log().identity(), offset };
    for _ in 0..2 {
        assert_eq!(f.log().resolve(Topic::Uplinks, P0, &stored).await.unwrap(), Resolution::At(offset));
        f.reopen().await;
    }
}

pub async fn a_position_of_another_log_is_never_used(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P0, &["u0"]).await;
    let other = LogIdentity { store: "embedded:another".into(), incarnation: log.identity().incarnation };
    let stored = Position { log: other, offset: Offset::ZERO };
    assert_eq!(log.resolve(Topic::Uplinks, P0, &stored).await.unwrap(), Resolution::OtherLog);
    // A log that was put back from a backup: the position was made in an incarnation that this log never had.
    let mut later = log.identity();
    later.incarnation += 1;
    let stored = Position { log: later, offset: Offset::ZERO };
    assert_eq!(log.resolve(Topic::Uplinks, P0, &stored).await.unwrap(), Resolution::OtherLog);
}

pub async fn a_position_of_an_older_incarnation_is_cut_where_that_one_ended(mut f: impl LogFixture) {
    append_texts(&*f.log(), P0, &["u0", "u1"]).await;
    let ended = end_of(&*f.log(), Topic::Uplinks, P0).await;
    let older = f.log().identity();
    if !f.reopen_uncleanly().await {
        return;
    }
    assert!(f.log().identity().incarnation > older.incarnation);
    assert_eq!(f.log().identity().store, older.store);
    append_texts(&*f.log(), P0, &["u2", "u3", "u4"]).await;
    let second = f.log().identity();
    let second_end = end_of(&*f.log(), Topic::Uplinks, P0).await;
    assert!(f.reopen_uncleanly().await);
    append_texts(&*f.log(), P0, &["u5"]).await;
    let resolve = async |log: &LogIdentity, offset| {
        let stored = Position { log: log.clone(), offset };
        f.log().resolve(Topic::Uplinks, P0, &stored).await.unwrap()
    };
    assert_eq!(resolve(&older, Offset(ended.0 - 1)).await, Resolution::At(Offset(ended.0 - 1)));
    assert_eq!(resolve(&older, ended).await, Resolution::At(ended));
    // Ahead of what survived: these offsets hold other records now.
    assert_eq!(resolve(&older, Offset(ended.0 + 2)).await, Resolution::At(ended));
    assert_eq!(resolve(&second, Offset(second_end.0 + 1)).await, Resolution::At(second_end));
    assert_eq!(resolve(&second, second_end).await, Resolution::At(second_end));
}

pub async fn a_trimmed_position_is_expired(mut f: impl LogFixture) {
    append_texts(&*f.log(), P0, &["u0", "u1", "u2"]).await;
    let third = read_all(&*f.log(), Topic::Uplinks, P0).await[2].offset;
    let stored = Position { log: f.log().identity(), offset: Offset::ZERO };
    f.log().set_retention_floor(Topic::Uplinks, P0, third);
    if !f.trim(Topic::Uplinks, P0, third).await {
        return;
    }
    let (start, _) = f.log().bounds(Topic::Uplinks, P0).await.unwrap();
    assert_eq!(f.log().resolve(Topic::Uplinks, P0, &stored).await.unwrap(), Resolution::Expired { start });
}

/// What a log holds, for comparing before and after.
async fn contents(log: &dyn Log) -> HashMap<(u32, bool), (Vec<String>, Vec<Offset>, Option<Offset>)> {
    let mut contents = HashMap::new();
    for partition in 0..log.num_partitions() {
        for topic in [Topic::Uplinks, Topic::Deliveries] {
            let records = read_all(log, topic, PartitionId(partition)).await;
            let offsets = records.iter().map(|r| r.offset).collect();
            let committed = log.committed(PartitionId(partition)).await.unwrap();
            contents.insert((partition, topic == Topic::Uplinks), (texts(&records), offsets, committed));
        }
    }
    contents
}

async fn fill(log: &dyn Log) {
    for i in 0..40u32 {
        let partition = PartitionId(i % 4);
        append_texts(log, partition, &[&format!("{i}"), "and one"]).await;
        if i % 3 == 0 {
            step_over_all(log, partition, vec![(PartitionId((i + 1) % 4), record(1, 1, format!("d{i}")))]).await;
        }
    }
}

pub async fn a_clean_reopen_keeps_everything_and_the_identity(mut f: impl LogFixture) {
    fill(&*f.log()).await;
    let (identity, before) = (f.log().identity(), contents(&*f.log()).await);
    f.reopen().await;
    assert_eq!(f.log().identity(), identity);
    assert_eq!(contents(&*f.log()).await, before);
    fill(&*f.log()).await;
    assert_eq!(read_all(&*f.log(), Topic::Uplinks, P0).await.len(), 40);
}

pub async fn an_unclean_reopen_keeps_everything_that_was_acknowledged(mut f: impl LogFixture) {
    fill(&*f.log()).await;
    let before = contents(&*f.log()).await;
    if f.reopen_uncleanly().await {
        assert_eq!(contents(&*f.log()).await, before);
    }
}

pub async fn a_closed_log_takes_nothing(mut f: impl LogFixture) {
    append_texts(&*f.log(), P0, &["u0"]).await;
    f.log().close().await.unwrap();
    let refused = f.log().append(P0, vec![record(1, 1, "late")]).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    let step = Step { partition: P0, from: Offset::ZERO, next: Offset::ZERO, outputs: vec![] };
    assert!(f.log().commit_step(step).await.is_err());
    assert!(f.log().health().await.is_err());
    f.log().close().await.unwrap();
    f.reopen().await;
    assert_eq!(texts(&read_all(&*f.log(), Topic::Uplinks, P0).await), ["u0"]);
}

pub async fn the_first_assignment_brings_every_partition_and_the_next_one_waits(f: impl LogFixture) {
    let log = f.log();
    let Assignment::Assigned(mut partitions) = log.next_assignment().await else {
        panic!("nothing can be revoked yet")
    };
    partitions.sort();
    assert_eq!(partitions, (0..4).map(PartitionId).collect::<Vec<_>>());
    let next = tokio::time::timeout(Duration::from_millis(50), log.next_assignment()).await;
    assert!(next.is_err(), "nothing changes while nobody joins or leaves: {next:?}");
}
