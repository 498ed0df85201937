//! Who a sender is, and what a device becomes active with.

use sluse_schema::device::Dialect;
use sluse_schema::id::{DecoderId, DeviceId, DeviceKey, TargetId};
use sluse_schema::port::decoder::DecodeErrorKind;
use sluse_schema::port::{DecodeFailure, DeviceDirectory, DeviceStore};

use crate::fixture::Database;

#[tokio::test]
async fn senders_are_found_by_eui_and_by_key_in_the_order_asked() {
    let database = Database::with_devices(2).await;
    let DeviceKey::ApiKey(hash) = DeviceKey::of_api_key("31DAB038 ") else { unreachable!() };
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    database
        .run(&format!(
            "INSERT INTO iot_device (application_id, type, name, api_key_hash)
             VALUES (1, 'GENERIC_HTTP', 'Box', decode('{hash}', 'hex'))"
        ))
        .await;
    let eui = |text: &str| DeviceKey::DevEui(text.parse().unwrap());
    let keys = [
        DeviceKey::of_api_key("31dab038"),
        eui("0000000000000002"),
        eui("00000000000000FF"),
        eui("0000000000000001"),
        DeviceKey::of_api_key("other"),
        eui("0000000000000002"),
    ];
    let found = database.store.find_devices(&keys).await.unwrap();
    let ids: Vec<Option<i64>> = found.iter().map(|device| device.map(|device| device.device.0)).collect();
    assert_eq!(ids, [Some(3), Some(2), None, Some(1), None, Some(2)]);
    assert_eq!(found[0].unwrap().organization.0, 1);
    assert!(database.store.find_devices(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_device_has_each_target_and_decoder_once_and_open_data_never() {
    let database = Database::with_targets(3).await;
    database
        .run(
            "UPDATE data_target SET type = 'OPENDATADK' WHERE id = 3;
             INSERT INTO payload_decoder (organization_id, name, decoding_function, dialect)
             VALUES (1, 'D', 'function decode() {}', 'ts013');
             INSERT INTO connection (data_target_id, payload_decoder_id) VALUES (1, 1), (1, 1), (1, NULL), (2, 1), (3, 1);
             INSERT INTO connection_device (connection_id, device_id) VALUES (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)",
        )
        .await;
    let active = database.store.activate(&[DeviceId(1), DeviceId(99)]).await.unwrap();
    assert_eq!(active.len(), 1);
    let config = &active[0].config;
    let routes: Vec<_> = config.routes.iter().map(|r| (r.target, r.decoder.as_ref().map(|d| d.id))).collect();
    let (one, two, decoder) = (TargetId(1), TargetId(2), Some(DecoderId(1)));
    assert_eq!(routes, [(one, None), (one, decoder), (two, decoder)]);
    assert_eq!((config.application.0, config.organization.0, config.name.as_str()), (1, 1, "Meter 1"));
    assert!(
        config.metadata.to_string().contains(r#""type":"LORAWAN","deviceEUI":"0000000000000001""#),
        "{}",
        config.metadata
    );

    let script = config.routes[1].decoder.clone().unwrap();
    assert_eq!(script.dialect, Some(Dialect::Ts013));
    let again = database.store.load_configs(&[DeviceId(1)]).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&script, again[0].routes[1].decoder.as_ref().unwrap()), "one text for all devices");
    database.run("UPDATE payload_decoder SET decoding_function = 'function decode() { return 1 }'").await;
    let edited = database.store.load_configs(&[DeviceId(1)]).await.unwrap();
    assert_ne!(edited[0].routes[1].decoder.as_ref().unwrap().version, script.version);
}

#[tokio::test]
async fn the_record_carries_application_groups_and_model_and_no_secret() {
    let database = Database::with_devices(1).await;
    database
        .run(
            r#"INSERT INTO permission (name, organization_id) VALUES ('Readers', 1);
               INSERT INTO permission_application (permission_id, application_id) VALUES (1, 1);
               INSERT INTO device_model (organization_id, body) VALUES (1, '{"id": "m1", "name": "Acme"}');
               UPDATE iot_device SET device_model_id = 1, metadata = '{"k":"v"}', longitude = 10.2, latitude = 56.1,
                      settings = '{"lorawanSettings": {"OTAAapplicationKey": "00112233", "activationType": "OTAA"}}'"#,
        )
        .await;
    let config = database.store.load_configs(&[DeviceId(1)]).await.unwrap().remove(0);
    let record: serde_json::Value = serde_json::from_str(&config.metadata.to_string()).unwrap();
    assert_eq!(record["application"]["permissionIds"], serde_json::json!([1]));
    assert_eq!(record["deviceModel"]["body"]["name"], "Acme");
    assert_eq!(record["metadata"], "{\"k\":\"v\"}");
    assert_eq!(record["location"]["coordinates"], serde_json::json!([10.2, 56.1]));
    assert_eq!(record["lorawanSettings"]["devEUI"], "0000000000000001");
    assert!(!config.metadata.to_string().contains("00112233"));
}

#[tokio::test]
async fn failed_decodes_are_listed_and_those_of_a_decoder_that_is_gone_are_not() {
    let database = Database::with_devices(1).await;
    database.run("INSERT INTO payload_decoder (organization_id, name, decoding_function) VALUES (1, 'D', 'x')").await;
    let failure = |decoder: i64, failed_at_ms: i64| DecodeFailure {
        decoder: DecoderId(decoder),
        device: DeviceId(1),
        kind: DecodeErrorKind::Thrown,
        message: "thrown: \0".into(),
        sample: (&b"{\"\0\"}"[..]).into(),
        failed_at_ms,
        num_failures: 3,
    };
    let failures = [failure(1, 1_780_000_000_000), failure(9, 1_780_000_000_000), failure(1, -5_000_000_000_000_000)];
    database.store.record_decode_failures(&failures).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM decoder_error WHERE num_failures = 3").await, 2);
    assert_eq!(database.number("SELECT count(*) FROM decoder_error WHERE sample = ''").await, 1);
}
