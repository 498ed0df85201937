//! Appends and steps: order, durability, atomicity (I1) and fences (I8).

use super::*;

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

pub async fn appends_to_several_partitions_are_answered_in_their_order(f: impl LogFixture) {
    let log = f.log();
    append_texts(&*log, P1, &["before"]).await;
    let of = |text: &str| record(1, 1_000, text.to_owned());
    let parts = vec![(P3, vec![of("d"), of("e")]), (P1, vec![of("b")]), (P0, vec![of("a")])];
    let answers = log.append_all(parts).await;
    let firsts: Vec<Offset> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(texts(&read_all(&*log, Topic::Uplinks, P0).await), ["a"]);
    assert_eq!(texts(&read_all(&*log, Topic::Uplinks, P1).await), ["before", "b"]);
    assert_eq!(texts(&read_all(&*log, Topic::Uplinks, P3).await), ["d", "e"]);
    for (partition, first, text) in [(P3, firsts[0], "d"), (P1, firsts[1], "b"), (P0, firsts[2], "a")] {
        let batch = log.read(Topic::Uplinks, partition, first, WIDE).await.unwrap();
        assert_eq!((batch.records[0].offset, texts(&batch.records)[0].as_str()), (first, text));
    }
    assert!(log.append_all(Vec::new()).await.is_empty());
}
