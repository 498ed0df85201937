//! Gateways' states, unknown senders, and what is deleted for its age or number.

use sluse_schema::id::GatewayId;
use sluse_schema::port::{GatewayState, GatewayStore, UnknownSender, UnknownSenderStore};
use sluse_schema::uplink::SourceKind;

use crate::fixture::Database;

const AT_MS: i64 = 1_780_000_000_000;

#[tokio::test]
async fn the_last_state_of_an_instant_holds() {
    let database = Database::new().await;
    let state = |gateway, is_online, heard_at_ms| GatewayState { gateway: GatewayId(gateway), is_online, heard_at_ms };
    let states = [state(1, true, AT_MS), state(1, false, AT_MS), state(2, true, AT_MS), state(1, true, AT_MS + 1)];
    for _ in 0..2 {
        database.store.record_gateway_states(&states).await.unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM gateway_status_history").await, 3);
    assert_eq!(database.number("SELECT count(*) FROM gateway_status_history WHERE was_online").await, 2);
    database.store.record_gateway_states(&[]).await.unwrap();
}

#[tokio::test]
async fn unknown_senders_are_counted_together_nul_bytes_and_all() {
    let database = Database::new().await;
    let sender = |name: &str, num_heard, heard_at_ms| UnknownSender {
        source: SourceKind::Http,
        sender: name.into(),
        heard_at_ms,
        num_heard,
    };
    let senders = [sender("a\0", 2, AT_MS), sender("b", 1, AT_MS), sender("a\0", 3, AT_MS + 9)];
    for _ in 0..2 {
        database.store.record_unknown_senders(&senders).await.unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM unknown_sender").await, 2);
    assert_eq!(database.number("SELECT max(num_heard) FROM unknown_sender").await, 10);
}

#[tokio::test]
async fn housekeeping_keeps_what_the_limits_say_and_no_more() {
    let database = Database::with_targets(2).await;
    database
        .run(
            "INSERT INTO payload_decoder (organization_id, name, decoding_function) VALUES (1, 'D', 'x'), (1, 'E', 'x');
             INSERT INTO decoder_error (payload_decoder_id, device_id, kind, message, sample, failed_at)
             SELECT 1 + i % 2, 1, 'thrown', '', '', now() FROM generate_series(1, 300) i;
             INSERT INTO target_log (target_id, type, message, created_at)
             SELECT 1 + (i % 3) / 2, 'ERROR', '', now() FROM generate_series(1, 900) i;
             INSERT INTO unknown_sender SELECT 'http', i::text, 1, now(), now() - i * interval '1 second'
             FROM generate_series(1, 10100) i;
             INSERT INTO gateway_status_history (gateway_id, was_online, heard_at)
             SELECT 'a', true, date_trunc('hour', now()) + i * interval '1 ms' FROM generate_series(1, 30) i;
             INSERT INTO gateway_status_history (gateway_id, was_online, heard_at) VALUES ('b', true, now() - interval '31 days');
             INSERT INTO dead_letter (target_id, device_id, application_id, organization_id, kind, event_key, received_at,
                    content_type, log_offset, reason, num_attempts, message, answer, body, died_at)
             SELECT 1, 1, 1, 1, 'body', '', now(), '', i, 'refused', 1, '', '', '', now() - i * interval '1 day'
             FROM generate_series(20, 40) i;
             INSERT INTO change_event (entity, entity_id, happened_at)
             SELECT 'device', i, now() - i * interval '1 day' FROM generate_series(5, 9) i",
        )
        .await;
    assert!(database.store.housekeeping().await.unwrap() > 0);
    for (sql, expected) in [
        ("SELECT count(*) FROM decoder_error WHERE payload_decoder_id = 1", 100),
        ("SELECT min(id) FROM decoder_error", 101),
        ("SELECT count(*) FROM target_log WHERE target_id = 1", 250),
        ("SELECT count(*) FROM target_log WHERE target_id = 2", 250),
        ("SELECT count(*) FROM unknown_sender", 10_000),
        ("SELECT count(*) FROM unknown_sender WHERE sender = '1'", 1),
        ("SELECT count(*) FROM gateway_status_history", 10),
        ("SELECT count(*) FROM dead_letter", 10),
        ("SELECT count(*) FROM change_event", 2),
    ] {
        assert_eq!(database.number(sql).await, expected, "{sql}");
    }
    assert_eq!(database.store.housekeeping().await.unwrap(), 0);
}
