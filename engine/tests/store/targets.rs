//! Targets: configuration, cursors, dead letters, requests and the log.

use bytes::Bytes;
use sluse_schema::delivery::{DeadLetter, DeadReason, DeliveryKind, DeliveryMeta};
use sluse_schema::id::{ApplicationId, DeadLetterId, DecoderId, DeviceId, OrganizationId, TargetId};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{CursorBatch, StoreError, TargetLogEntry, TargetRequestKind, TargetStore};
use sluse_schema::record::Offset;
use sluse_schema::secret::Secret;
use sluse_schema::target::{BreakerState, Feed, TargetCounters, TargetCursor, TargetKind, TargetStatus};

use crate::fixture::{Database, cipher, position};

const AT_MS: i64 = 1_780_000_000_000;
const REFUSED_AT_MS: i64 = -5_000_000_000_000_000;

fn empty(epoch: i64, offset: u64) -> CursorBatch {
    CursorBatch {
        partition: PartitionId(0),
        epoch,
        cursors: vec![],
        statuses: vec![],
        dead_letters: vec![],
        dead_letters_gone: vec![],
        dead_letters_superseded: vec![],
        requests_done: vec![],
        log: vec![],
        last_message_at: vec![],
        position: position(offset),
    }
}

async fn take(database: &Database) -> i64 {
    let store: &dyn TargetStore = &*database.store;
    store.take_partition(PartitionId(0)).await.unwrap().0
}

fn cursor(target: i64) -> TargetCursor {
    TargetCursor {
        target: TargetId(target),
        position: Some(position(40)),
        holes: vec![Offset(7), Offset(39)],
        counters: TargetCounters { accepted: 10, offered_again: 2, delivered: 6, dead: 3, expired: 1, discarded: 0 },
        rewind_epoch: 4,
        is_tombstone: false,
    }
}

fn letter(target: i64, offset: u64) -> DeadLetter {
    DeadLetter {
        meta: DeliveryMeta {
            target: TargetId(target),
            device: DeviceId(1),
            application: ApplicationId(1),
            organization: OrganizationId(1),
            decoder: Some(DecoderId(9)),
            kind: DeliveryKind::Undecoded,
            event_key: u128::MAX - u128::from(offset),
            received_at_ms: AT_MS,
            content_type: "application/json".into(),
            error: Some("thrown: \0".into()),
        },
        offset,
        reason: DeadReason::TooOld,
        num_attempts: 3,
        status_code: Some(422),
        message: "no\0".into(),
        answer: Bytes::from_static(b"\0\xff"),
        body: Bytes::from_static(b"{\"\0\":1}"),
        died_at_ms: AT_MS + 5,
    }
}

#[tokio::test]
async fn a_cursor_comes_back_as_it_was_tombstones_included() {
    let database = Database::with_targets(3).await;
    let epoch = take(&database).await;
    let tombstone = TargetCursor { is_tombstone: true, ..cursor(2) };
    let quiet = TargetCursor { position: None, holes: vec![], ..cursor(77) };
    let cursors = vec![cursor(1), tombstone, quiet];
    database.store.store_cursors(&CursorBatch { cursors: cursors.clone(), ..empty(epoch, 40) }).await.unwrap();
    assert_eq!(database.store.load_cursors(PartitionId(0)).await.unwrap(), cursors);
    assert!(database.store.load_cursors(PartitionId(1)).await.unwrap().is_empty());
    let store: &dyn TargetStore = &*database.store;
    assert_eq!(store.take_partition(PartitionId(0)).await.unwrap(), (epoch + 1, Some(position(40))));
}

#[tokio::test]
async fn whoever_lost_the_partition_writes_no_cursor_and_no_dead_letter() {
    let database = Database::with_targets(1).await;
    let ours = take(&database).await;
    take(&database).await;
    let batch = CursorBatch { cursors: vec![cursor(1)], dead_letters: vec![letter(1, 3)], ..empty(ours, 9) };
    assert!(matches!(database.store.store_cursors(&batch).await, Err(StoreError::Fenced { .. })));
    assert_eq!(database.number("SELECT count(*) FROM dead_letter").await, 0);
    assert!(database.store.load_cursors(PartitionId(0)).await.unwrap().is_empty());
}

#[tokio::test]
async fn dead_letters_come_back_whole_once_each_and_leave_as_asked() {
    let database = Database::with_targets(2).await;
    let epoch = take(&database).await;
    let letters = vec![letter(1, 3), letter(1, 4), letter(2, 4), letter(99, 4)];
    let batch = CursorBatch { dead_letters: letters, ..empty(epoch, 9) };
    // The answer of the first was lost: the same flush again.
    for _ in 0..2 {
        database.store.store_cursors(&batch).await.unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM dead_letter").await, 3);
    let ids: Vec<DeadLetterId> = (1..10).map(DeadLetterId).collect();
    let found = database.store.load_dead_letters(TargetId(1), &ids).await.unwrap();
    assert_eq!(found.iter().map(|(_, letter)| letter.clone()).collect::<Vec<_>>(), [letter(1, 3), letter(1, 4)]);

    let again = DeadLetter { died_at_ms: AT_MS + 99, ..letter(1, 3) };
    let gone = vec![found[0].0];
    let batch = CursorBatch { dead_letters: vec![again], dead_letters_gone: gone, ..empty(epoch, 9) };
    database.store.store_cursors(&batch).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM dead_letter WHERE target_id = 1").await, 2);
    let batch = CursorBatch { dead_letters_superseded: vec![(TargetId(1), 4)], ..empty(epoch, 9) };
    database.store.store_cursors(&batch).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM dead_letter WHERE target_id = 1").await, 1);
    assert_eq!(database.number("SELECT count(*) FROM dead_letter WHERE target_id = 2").await, 1);
}

#[tokio::test]
async fn a_refused_dead_letter_loses_its_body_and_stops_nothing() {
    let database = Database::with_targets(1).await;
    let epoch = take(&database).await;
    let bad = DeadLetter { died_at_ms: REFUSED_AT_MS, ..letter(1, 5) };
    let nul = {
        let mut letter = letter(1, 6);
        letter.meta.content_type = "text/\0".into();
        letter
    };
    let batch =
        CursorBatch { cursors: vec![cursor(1)], dead_letters: vec![letter(1, 4), bad, nul], ..empty(epoch, 40) };
    database.store.store_cursors(&batch).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM dead_letter").await, 3);
    assert_eq!(database.number("SELECT count(*) FROM dead_letter WHERE body = ''").await, 1);
    assert_eq!(database.store.load_cursors(PartitionId(0)).await.unwrap(), [cursor(1)]);
}

#[tokio::test]
async fn the_log_has_every_error_and_the_first_success_after_one() {
    let database = Database::with_targets(2).await;
    let epoch = take(&database).await;
    let entry = |target: i64, is_error: bool, device: i64| TargetLogEntry {
        target: TargetId(target),
        device: Some(DeviceId(device)),
        decoder: Some(DecoderId(77)),
        is_error,
        status_code: Some(if is_error { 500 } else { 200 }),
        message: "\0".into(),
        logged_at_ms: AT_MS,
    };
    let (error, ok) = (true, false);
    let flushes: [&[(i64, bool)]; 4] = [
        &[(1, ok), (1, ok), (2, error)],
        &[(1, error), (1, error), (2, ok), (1, ok), (2, ok), (1, ok)],
        &[(1, ok), (2, error)],
        &[(2, ok), (1, ok), (3, error)],
    ];
    for flush in flushes {
        let log = flush.iter().map(|(target, is_error)| entry(*target, *is_error, 1 + target)).collect();
        database.store.store_cursors(&CursorBatch { log, ..empty(epoch, 1) }).await.unwrap();
    }
    let client = database.store.pool().get().await.unwrap();
    for (target, expected) in [(1i64, "ERROR ERROR OK"), (2, "ERROR OK ERROR OK")] {
        let sql = "SELECT string_agg(type, ' ' ORDER BY id) FROM target_log WHERE target_id = $1";
        let lines: String = client.query_one(sql, &[&target]).await.unwrap().get(0);
        assert_eq!(lines, expected, "target {target}");
    }
    let num_with_device =
        "SELECT count(*) FROM target_log WHERE device_id IS NOT NULL OR payload_decoder_id IS NOT NULL";
    assert_eq!(database.number(num_with_device).await, 0, "devices 2 and 3 and decoder 77 are gone");
}

#[tokio::test]
async fn requests_wait_in_order_until_they_are_done() {
    let database = Database::with_targets(1).await;
    let epoch = take(&database).await;
    database
        .run(
            "INSERT INTO target_request (target_id, kind, arguments) VALUES
             (1, 'rewind_to_time', '{1780000000000}'), (1, 'replay', '{4,5}'), (1, 'rewind_to_offset', '{7}')",
        )
        .await;
    let requests = database.store.load_requests(PartitionId(0)).await.unwrap();
    let kinds: Vec<_> = requests.iter().map(|request| request.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            TargetRequestKind::RewindToTime(AT_MS),
            TargetRequestKind::Replay(vec![DeadLetterId(4), DeadLetterId(5)]),
            TargetRequestKind::RewindToOffset(7)
        ]
    );
    assert!(database.store.load_requests(PartitionId(1)).await.unwrap().is_empty());
    let requests_done = vec![requests[0].id, requests[1].id];
    database.store.store_cursors(&CursorBatch { requests_done, ..empty(epoch, 1) }).await.unwrap();
    assert_eq!(database.store.load_requests(PartitionId(0)).await.unwrap(), requests[2..]);
}

#[tokio::test]
async fn status_and_time_of_the_last_message_are_kept_and_time_never_goes_back() {
    let database = Database::with_targets(1).await;
    let epoch = take(&database).await;
    let status = TargetStatus {
        target_id: TargetId(1),
        feed: Feed::Lagging,
        breaker: BreakerState::Open,
        breaker_reason: Some("401 \0".into()),
        next_probe_at_ms: Some(AT_MS),
        lag_records: 3,
        lag_seconds: f64::NAN,
        num_in_flight: 1,
        in_flight_limit: 4,
        counters: TargetCounters::default(),
        pending: 3,
        last_error: None,
        last_delivered_at_ms: None,
        as_of_ms: AT_MS,
    };
    for (at_ms, expected) in [(AT_MS, AT_MS), (AT_MS - 5, AT_MS), (AT_MS + 5, AT_MS + 5)] {
        let batch = CursorBatch {
            statuses: vec![status.clone()],
            last_message_at: vec![(TargetId(1), at_ms), (TargetId(1), at_ms - 1), (TargetId(99), at_ms)],
            ..empty(epoch, 1)
        };
        database.store.store_cursors(&batch).await.unwrap();
        let sql = "SELECT (extract(epoch FROM last_message_at) * 1000)::bigint FROM data_target";
        assert_eq!(database.number(sql).await, expected);
    }
    let sql = "SELECT count(*) FROM target_cursor WHERE convert_from(status, 'UTF8') LIKE '%\"breaker\":\"open\"%'";
    assert_eq!(database.number(sql).await, 1);
}

#[tokio::test]
async fn targets_are_read_with_their_secrets_and_an_unreadable_one_stops_no_other() {
    let database = Database::with_targets(4).await;
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let http = hex(cipher().encrypt(br#"{"authorizationHeader":"Basic abc"}"#));
    let mqtt = hex(cipher().encrypt(br#"{"mqttPassword":"pw"}"#));
    let other = sluse_engine::store::Cipher::new(&Secret::new("another key, also 32 characters or more")).unwrap();
    let foreign = hex(other.encrypt(b"{}"));
    database
        .run(&format!(
            "UPDATE data_target SET secrets_enc = '\\x{http}', rate_per_second = 5, age_seconds_max = 60 WHERE id = 1;
             UPDATE data_target SET type = 'MQTT', url = 'mqtts://h', mqtt_topic = 'out', mqtt_qos = 1, mqtt_username = 'u',
                    secrets_enc = '\\x{mqtt}' WHERE id = 2;
             UPDATE data_target SET secrets_enc = '\\x{foreign}' WHERE id = 3;
             UPDATE data_target SET partition = 1 WHERE id = 4"
        ))
        .await;
    let targets = database.store.load_targets(PartitionId(0), None).await.unwrap();
    assert_eq!(targets.iter().map(|target| target.target.0).collect::<Vec<_>>(), [1, 2, 3]);
    let TargetKind::HttpPush(http) = &targets[0].kind else { panic!("{:?}", targets[0].kind) };
    assert_eq!((http.authorization.reveal(), http.timeout_ms), ("Basic abc", 30_000));
    assert_eq!((targets[0].policy.rate_per_second, targets[0].policy.age_ms_max), (Some(5), Some(60_000)));
    let TargetKind::Mqtt(mqtt) = &targets[1].kind else { panic!("{:?}", targets[1].kind) };
    assert_eq!((mqtt.port, mqtt.qos, mqtt.password.reveal()), (8883, 1, "pw"));
    let TargetKind::Unreadable(bad) = &targets[2].kind else { panic!("{:?}", targets[2].kind) };
    assert_eq!(bad.kind, "HTTP_PUSH");
    assert!(bad.reason.contains("SLUSE_SECRET_KEY") || bad.reason.contains("damaged"), "{}", bad.reason);

    let only = database.store.load_targets(PartitionId(0), Some(&[TargetId(2), TargetId(4)])).await.unwrap();
    assert_eq!(only.len(), 1);
    assert_eq!(only[0], targets[1]);
    database.run("UPDATE data_target SET mqtt_topic = 'in' WHERE id = 2").await;
    let edited = database.store.load_targets(PartitionId(0), Some(&[TargetId(2)])).await.unwrap();
    assert_ne!(edited[0].version, targets[1].version);
}

#[tokio::test]
async fn the_decoder_of_a_replay_is_the_one_of_now_and_none_when_it_or_the_device_is_gone() {
    let database = Database::with_devices(1).await;
    database.run("INSERT INTO payload_decoder (organization_id, name, decoding_function) VALUES (1, 'D', 'old')").await;
    let load = |decoder, device| database.store.load_decoder(DecoderId(decoder), DeviceId(device));
    assert_eq!(&*load(1, 1).await.unwrap().unwrap().0.source, "old");
    database.run("UPDATE payload_decoder SET decoding_function = 'mended'").await;
    let (script, record) = load(1, 1).await.unwrap().unwrap();
    assert_eq!(&*script.source, "mended");
    assert!(record.contains("\"name\":\"Meter 1\""));
    assert!(load(2, 1).await.unwrap().is_none() && load(1, 2).await.unwrap().is_none());
}
