//! Reads: limits, ends, times, one target's records, waiting.

use super::*;

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
pub(super) async fn deliver_mixed(log: &dyn Log) -> Vec<Record> {
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

pub(super) async fn check_backlogs(log: &dyn Log, all: &[Record], froms: &[Offset]) {
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
