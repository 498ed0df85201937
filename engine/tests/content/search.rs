//! Search: by name, by identifier, within the tenant.

use serde_json::{Value, json};

use crate::engine::{Engine, engine, http_device, id};

async fn search(engine: &Engine, token: &str, text: &str) -> Vec<(String, i64)> {
    // As the web client does: once by itself, and once more for the query.
    let encoded =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let text = encoded(&encoded(text));
    let answer = engine.got(token, &format!("/search?q={text}&limit=50&offset=0")).await;
    let rows = answer["data"].as_array().unwrap();
    assert_eq!(answer["count"], rows.len());
    rows.iter().map(|row| (row["type"].as_str().unwrap().to_owned(), id(row))).collect()
}

#[tokio::test]
async fn rows_are_found_by_name_and_identifier_and_only_within_the_tenant() {
    let engine = engine().await;
    let own = engine.tenant("Zebra own", &["OrganizationApplicationAdmin"]).await;
    let other = engine.tenant("Zebra other", &["OrganizationApplicationAdmin"]).await;
    let http = engine.made(&own.token, "/iot-device", http_device("50%_zebra \\ crossing", own.application)).await;
    let lora = json!({"name": "Meter", "type": "LORAWAN", "applicationId": own.application,
                      "lorawanSettings": {"devEUI": "A81758FFFE0000AA", "activationType": "NONE"}});
    let lora = engine.made(&own.token, "/iot-device", lora).await;
    engine.made(&other.token, "/iot-device", http_device("their zebra", other.application)).await;

    let device = |row: &Value| ("IoTDevice".to_owned(), id(row));
    let application = ("Application".to_owned(), own.application);
    assert_eq!(search(&engine, &own.token, " ZEBRA ").await, [device(&http), application.clone()]);
    assert_eq!(search(&engine, &engine.admin, "zebra").await.len(), 4);
    // Nothing of a text is a wildcard.
    assert_eq!(search(&engine, &own.token, "50%_zebra \\").await, [device(&http)]);
    assert_eq!(search(&engine, &own.token, "5%zebra").await, []);
    // One or two characters, wherever they stand, in any case.
    let odd = engine.made(&own.token, "/iot-device", http_device("ǂ Ǽq", own.application)).await;
    for text in ["ǂ", "ǽ", "Ǽ", "Q", "ǼQ", "ǂ ", "q"] {
        assert_eq!(search(&engine, &own.token, text).await, [device(&odd)], "{text}");
        let of_all = search(&engine, &engine.admin, text).await;
        assert!(of_all.contains(&device(&odd)), "{text}");
    }
    for text in ["ǂq", "qǼ", "%", "_"] {
        let found = search(&engine, &own.token, text).await;
        assert!(!found.contains(&device(&odd)), "{text}");
    }
    assert_eq!(search(&engine, &own.token, "\\").await, [device(&http)]);
    // Whole identifiers, in any case, and found by nobody else.
    assert_eq!(search(&engine, &own.token, "a81758fffe0000aa").await, [device(&lora)]);
    assert_eq!(search(&engine, &own.token, "A81758FFFE0000AA").await, [device(&lora)]);
    assert_eq!(search(&engine, &other.token, "A81758FFFE0000AA").await, []);
    let key = http["apiKey"].as_str().unwrap().to_uppercase();
    assert_eq!(search(&engine, &own.token, &key).await, [device(&http)]);
    assert_eq!(search(&engine, &other.token, &key).await, []);

    let page = engine.got(&own.token, "/search?q=zebra&limit=1&offset=1").await;
    assert_eq!((&page["count"], &page["data"][0]["id"]), (&json!(2), &json!(own.application)));
    let found = engine.got(&own.token, "/search?q=a81758fffe0000aa&limit=1&offset=0").await;
    let row = &found["data"][0];
    assert_eq!((&row["deviceEUI"], &row["deviceType"]), (&json!("A81758FFFE0000AA"), &json!("LORAWAN")));
    assert_eq!((&row["applicationId"], &row["organizationId"]), (&json!(own.application), &json!(own.organization)));
    for absent in ["apiKey", "deviceId"] {
        assert_eq!(row[absent], json!(null), "{absent}");
    }
}
