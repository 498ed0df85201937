//! What the log keeps and drops: floors, positions, reopening, closing, assignments.

use super::*;

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
