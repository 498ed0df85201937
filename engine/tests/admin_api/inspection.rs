//! Looking into the running data path, and asking something of it: rows that its stages write are shown, and what people ask
//! becomes a request with its change event.

use serde_json::{Value, json};

use crate::fixture::Api;
use crate::registry::Registry;

async fn run(api: &Api, sql: &str) {
    api.store.pool().get().await.unwrap().batch_execute(sql).await.unwrap();
}

async fn post_to(api: &Api, path: String, body: Value) -> crate::fixture::Answer {
    api.post(&path, body).await
}

/// Dead letters 1 to `num` of a target; their body is no text.
async fn with_letters(api: &Api, own: &Registry, num: i64) {
    let sql = format!(
        "INSERT INTO dead_letter (target_id, device_id, application_id, organization_id, payload_decoder_id, kind, event_key, \
         received_at, content_type, log_offset, reason, num_attempts, status_code, message, answer, body, died_at) \
         SELECT {}, {}, {}, {}, {}, 'body', '\\x00', now(), 'application/json', n, 'refused', 1, 422, 'Unprocessable Entity', \
         'no \\000 thanks', '\\xff00', now() FROM generate_series(1, {num}) AS n",
        own.target["id"], own.device["id"], own.application, own.organization, own.decoder["id"]
    );
    run(api, &sql).await;
}

#[tokio::test]
async fn a_device_shows_its_newest_message_its_window_its_link_and_its_counters() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let path = format!("/iot-device/{}", own.device["id"]);
    let (_, silent) = api.get(&path).await;
    assert_eq!((&silent["latestReceivedMessage"], &silent["receivedMessagesMetadata"]), (&json!(null), &json!([])));
    let sql = format!(
        "INSERT INTO device_state (device_id, latest_payload, latest_received_at, latest_event_at, latest_offset, rssi_dbm, \
         snr_db, transmissions, link, num_uplinks, num_repeats) VALUES ({}, '{{\"raw\": 213}}', now(), '2026-01-02T03:04:05Z', 9, \
         -97, 7.5, '[{{\"t\":1000,\"o\":8}},{{\"t\":2000,\"o\":9,\"r\":-97,\"s\":7.5,\"g\":2,\"f\":4,\"m\":1}}]', \
         '{{\"batteryLevelPercent\":81.5,\"marginDb\":10}}', 2, 1)",
        own.device["id"]
    );
    run(&api, &sql).await;
    let (status, shown) = api.get(&path).await;
    assert_eq!(status, 200, "{shown}");
    let latest = &shown["latestReceivedMessage"];
    assert_eq!((&latest["rawData"], &latest["rssi"]), (&json!({"raw": 213}), &json!(-97)));
    assert_eq!(latest["sentTime"], "2026-01-02T03:04:05.000Z");
    let window = shown["receivedMessagesMetadata"].as_array().unwrap();
    assert_eq!(window.len(), 2);
    assert_eq!(
        (&window[0]["sentTime"], &window[0]["signalData"]["fCntGap"]),
        (&json!("1970-01-01T00:00:02.000Z"), &json!(1))
    );
    assert_eq!(window[1]["signalData"], Value::Null);
    assert_eq!(
        (&shown["linkState"]["batteryLevelPercent"], &shown["counters"]["numUplinks"]),
        (&json!(81.5), &json!(2))
    );
    let (_, list) = api.get(&format!("/application/{}/iot-devices", own.application)).await;
    assert_eq!(list["data"][0]["latestReceivedMessage"]["rssi"], -97, "{list}");
}

#[tokio::test]
async fn dead_letters_are_listed_inspected_replayed_once_and_purged() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    with_letters(&api, &own, 3).await;
    let base = format!("/data-target/{}/dead-letters", own.target["id"]);
    let (_, list) = api.get(&format!("{base}?limit=2")).await;
    assert_eq!((&list["count"], list["data"].as_array().unwrap().len()), (&json!(3), 2));
    let newest = list["data"][0]["id"].clone();
    assert_eq!((&list["data"][0]["offset"], &list["data"][0]["iotDevice"]["name"]), (&json!(3), &json!("Room 1")));
    let (_, letter) = api.get(&format!("{base}/{newest}")).await;
    assert_eq!((&letter["body"], &letter["bodyEncoding"]), (&json!("/wA="), &json!("base64")));
    assert_eq!(letter["answer"], "no \u{0} thanks");

    let requested = |body: Value| post_to(&api, format!("{base}/replay"), body);
    assert_eq!(requested(json!({"ids": [newest, 999_999]})).await, (201, json!({"requested": 1})));
    assert_eq!(
        requested(json!({"all": true})).await,
        (201, json!({"requested": 2})),
        "what waits is not asked for twice"
    );
    assert_eq!(requested(json!({"all": true})).await, (201, json!({"requested": 0})));
    assert_eq!(requested(json!({})).await.0, 400);
    let requests = "SELECT count(*) FROM target_request WHERE kind = 'replay'";
    let events = "SELECT count(*) FROM change_event WHERE entity = 'target_request'";
    assert_eq!((api.number(requests).await, api.number(events).await), (2, 2));

    let delete = |id: Value| {
        let (api, path) = (&api, format!("{base}/{id}"));
        async move { api.call("DELETE", &path, Some(&api.admin), None).await }
    };
    assert_eq!(delete(newest.clone()).await, (200, json!({"affected": 1})));
    assert_eq!(delete(newest).await.0, 404);
    assert_eq!(post_to(&api, format!("{base}/purge"), json!({"all": true})).await, (201, json!({"affected": 2})));
    assert_eq!(api.number("SELECT count(*) FROM dead_letter").await, 0);
}

#[tokio::test]
async fn a_targets_state_is_what_its_owner_wrote_and_a_rewind_is_a_request_to_it() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let path = format!("/data-target/{}", own.target["id"]);
    let (status, before) = api.get(&format!("{path}/state")).await;
    assert_eq!((status, &before["feed"]), (200, &json!(null)));
    let status_json = json!({
        "targetId": own.target["id"], "feed": "lagging", "breaker": "open", "breakerReason": "401", "nextProbeAtMs": 5000,
        "lagRecords": 7, "lagSeconds": 1.5, "numInFlight": 0, "inFlightLimit": 4, "counters": {"accepted": 9, "offeredAgain": 0,
        "delivered": 2, "dead": 0, "expired": 0, "discarded": 0}, "pending": 7, "lastError": "401 Unauthorized",
        "lastDeliveredAtMs": null, "asOfMs": 1000,
    });
    let sql = format!(
        "INSERT INTO target_cursor (target_id, partition, log_offset, holes, accepted, delivered, status) \
         VALUES ({}, 1, 12, '\\x0000000000000003', 9, 2, convert_to('{status_json}', 'UTF8'))",
        own.target["id"]
    );
    run(&api, &sql).await;
    let (_, state) = api.get(&format!("{path}/state")).await;
    assert_eq!(
        (&state["feed"], &state["breaker"], &state["lagRecords"]),
        (&json!("lagging"), &json!("open"), &json!(7))
    );
    assert_eq!((&state["counters"]["pending"], &state["numHoles"]), (&json!(7), &json!(1)), "{state}");

    let rewind = |body: Value| post_to(&api, format!("{path}/rewind"), body);
    assert_eq!(rewind(json!({"time": "2026-01-01T03:12:00Z"})).await.0, 201);
    assert_eq!(rewind(json!({"offset": 3})).await.0, 201);
    assert_eq!(rewind(json!({"offset": 3, "time": "2026-01-01T03:12:00Z"})).await.0, 400);
    let waiting = "SELECT count(*) FROM target_request WHERE arguments IN ('{1767237120000}', '{3}')";
    assert_eq!(api.number(waiting).await, 2);
    assert_eq!(api.get(&format!("{path}/state")).await.1["numRequestsWaiting"], 2);
    // Whoever asks without end is told to wait, and the table stays small.
    let mut statuses = Vec::new();
    for _ in 0..100 {
        statuses.push(rewind(json!({"offset": 3})).await.0);
    }
    assert_eq!((statuses[97], statuses[98]), (201, 429));
}

#[tokio::test]
async fn decoder_errors_logs_and_unknown_senders_are_listed_newest_first() {
    let api = Api::start().await;
    let own = Registry::new(&api, "Aarhus").await;
    let sql = format!(
        "INSERT INTO decoder_error (payload_decoder_id, device_id, kind, message, sample, num_failures, failed_at) \
         SELECT {decoder}, {device}, 'thrown', convert_to('boom ' || n, 'UTF8'), '\\xff', n, now() FROM generate_series(1, 2) n; \
         INSERT INTO target_log (target_id, device_id, type, status_code, message, created_at) \
         VALUES ({target}, {device}, 'ERROR', 500, 'Internal Server Error', now()), ({target}, NULL, 'OK', 200, 'OK', now()); \
         INSERT INTO unknown_sender VALUES ('chirpstack', 'a81758fffe0000ff', 3, now(), now()), ('http', '12ab', 1, now(), now() - interval '1 h')",
        decoder = own.decoder["id"],
        device = own.device["id"],
        target = own.target["id"]
    );
    run(&api, &sql).await;
    for path in [
        format!("/payload-decoder/{}/errors", own.decoder["id"]),
        format!("/iot-device/{}/decoder-errors", own.device["id"]),
    ] {
        let (status, list) = api.get(&path).await;
        assert_eq!((status, &list["count"], &list["data"][0]["message"]), (200, &json!(2), &json!("boom 2")), "{list}");
        assert_eq!(list["data"][0]["sample"], "\u{fffd}");
    }
    let (_, log) = api.get(&format!("/datatarget-log/{}", own.target["id"])).await;
    assert_eq!((&log[0]["type"], &log[0]["iotDevice"]), (&json!("OK"), &json!(null)));
    assert_eq!((&log[1]["statusCode"], &log[1]["iotDevice"]["name"]), (&json!(500), &json!("Room 1")));
    assert_eq!(api.get(&format!("/data-target/{}", own.target["id"])).await.1["hasRecentErrors"], true);
    let (_, senders) = api.get("/unknown-devices").await;
    assert_eq!((&senders["count"], &senders["data"][0]["sender"]), (&json!(2), &json!("a81758fffe0000ff")));
}
