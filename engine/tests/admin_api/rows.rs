//! Rows of every kind, written by SQL: what a list is as long as, for tests that count and measure.

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub applications: u32,
    pub devices: u32,
    /// Users, groups, gateways, decoders, targets, connections, keys, lines of logs: so many of each.
    pub others: u32,
    /// Organisations, and applications, over which what belongs to one is dealt: with fewer than there are, the first have more.
    pub organizations: u32,
    pub dealt_applications: u32,
}

/// Adds what is missing from `from` to `to`. Everything but the first users and groups is of here; ids count from 1 (users, groups: 2).
pub async fn load(client: &tokio_postgres::Client, from: &Size, to: &Size) {
    let sql = [
        ("o0", from.organizations),
        ("o1", to.organizations),
        ("a0", from.applications),
        ("a1", to.applications),
        ("d0", from.devices),
        ("d1", to.devices),
        ("x0", from.others),
        ("x1", to.others),
        ("org", to.organizations),
        ("app", to.dealt_applications),
    ]
    .iter()
    .fold(ROWS.to_owned(), |sql, (name, number)| sql.replace(&format!("<{name}>"), &number.to_string()));
    client.batch_execute("SET statement_timeout = 0; SET synchronous_commit = off").await.unwrap();
    for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

const ROWS: &str = "
INSERT INTO organization (id, name) OVERRIDING SYSTEM VALUE
    SELECT i, 'Organisation ' || i FROM generate_series(<o0> + 1, <o1>) i;
INSERT INTO app_user (id, name, email, awaiting_confirmation) OVERRIDING SYSTEM VALUE
    SELECT 1 + i, 'User ' || i, 'user-' || i || '@load.example.org', i <= 1000 FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO permission (id, name, organization_id) OVERRIDING SYSTEM VALUE
    SELECT 1 + i, 'Group ' || i, 1 + i % <org> FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO permission_level (permission_id, type) SELECT 1 + i, t FROM generate_series(<x0> + 1, <x1>) i,
    unnest(ARRAY['Read', 'OrganizationApplicationAdmin', 'OrganizationUserAdmin', 'OrganizationGatewayAdmin']) t;
INSERT INTO permission_user (permission_id, user_id) SELECT 1 + i, 1 + i FROM generate_series(<x0> + 1, <x1>) i
    UNION SELECT 2, 1 + i FROM generate_series(<x0> + 1, LEAST(<x1>, 1000)) i
    UNION SELECT 1 + i, 2 FROM generate_series(<x0> + 1, LEAST(<x1>, 50)) i;
INSERT INTO user_requested_organization (user_id, organization_id)
    SELECT 1 + i, 1 FROM generate_series(<x0> + 1, LEAST(<x1>, 1000)) i;
INSERT INTO application (id, name, organization_id) OVERRIDING SYSTEM VALUE
    SELECT i, 'Application ' || i, 1 + i % <org> FROM generate_series(<a0> + 1, <a1>) i;
INSERT INTO permission_application (permission_id, application_id)
    SELECT 1 + CASE WHEN i % <org> = 0 THEN <org> ELSE i % <org> END, i FROM generate_series(<a0> + 1, <a1>) i;
INSERT INTO device_model (id, organization_id, body) OVERRIDING SYSTEM VALUE
    SELECT i, 1 + i % <org>, jsonb_build_object('id', 'urn:' || i, 'name', 'Model ' || i) FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO iot_device (id, application_id, device_model_id, type, name, longitude, latitude, device_eui, api_key_hash, updated_at)
    OVERRIDING SYSTEM VALUE
    SELECT i, 1 + i % <app>, CASE WHEN i % 3 = 0 THEN 1 END, CASE WHEN i % 2 = 0 THEN 'LORAWAN' ELSE 'GENERIC_HTTP' END,
        (ARRAY['Meter', 'Sensor', 'Room', 'Parking spot', 'Bin'])[1 + i % 5] || ' ' || i
            || CASE WHEN i % 50000 = 0 THEN ' æ' WHEN i % 1000 = 0 THEN ' qx' WHEN i % 100 = 0 THEN ' z' ELSE '' END,
        10 + i % 100 / 100.0, 56, CASE WHEN i % 2 = 0 THEN lpad(to_hex(i), 16, '0') END,
        CASE WHEN i % 2 = 1 THEN sha256(convert_to('key-' || i, 'UTF8')) END, now() - i * interval '1 second'
    FROM generate_series(<d0> + 1, <d1>) i;
ALTER TABLE device_state DISABLE TRIGGER device_state_added;
INSERT INTO device_state (device_id, application_id, latest_payload, latest_received_at, latest_event_at, latest_offset, rssi_dbm, snr_db)
    SELECT i, 1 + i % <app>, convert_to('{\"data\":\"' || repeat('00', 40) || i || '\"}', 'UTF8'), now() - i % 1000 * interval '1 minute',
        now() - i % 1000 * interval '1 minute', i, -90, 7.5
    FROM generate_series(<d0> + 1, <d1>) i;
ALTER TABLE device_state ENABLE TRIGGER device_state_added;
INSERT INTO payload_decoder (id, organization_id, name, decoding_function) OVERRIDING SYSTEM VALUE
    SELECT i, 1 + i % <org>, 'Decoder ' || i, 'function decode(p) { return p; }' FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO data_target (id, application_id, partition, type, name, url) OVERRIDING SYSTEM VALUE
    SELECT i, 1 + i % <app>, 0, CASE WHEN i % 5 = 0 THEN 'OPENDATADK' ELSE 'HTTP_PUSH' END, 'Target ' || i, 'https://hub.example.org'
    FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO open_data_dk_dataset (id, data_target_id, name, description, license, author_name, author_email, resource_title)
    OVERRIDING SYSTEM VALUE
    SELECT i, i, 'Dataset ' || i, 'd', 'https://example.org', 'a', 'a@example.org', 'r'
    FROM generate_series(<x0> + 1, <x1>) i WHERE i % 5 = 0;
INSERT INTO connection (id, data_target_id, payload_decoder_id) OVERRIDING SYSTEM VALUE
    SELECT i, CASE WHEN i <= 100 THEN 1 ELSE i END, CASE WHEN i <= 100 THEN 1 ELSE i END FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO connection_device (connection_id, device_id)
    SELECT i, 1 FROM generate_series(<x0> + 1, LEAST(<x1>, 100)) i
    UNION SELECT i, 1 + (i * 7 + k) % <d1> FROM generate_series(<x0> + 1, <x1>) i, generate_series(0, 9) k
    UNION SELECT i, CASE WHEN i % 5 = 0 THEN i ELSE 1 END FROM generate_series(<x0> + 1, LEAST(<x1>, 100)) i;
INSERT INTO gateway (id, organization_id, gateway_id, name, longitude, latitude, last_seen_at) OVERRIDING SYSTEM VALUE
    SELECT i, 1 + i % <org>, lpad(to_hex(i), 16, '0'), 'gateway-' || i, 10, 56, now() FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO gateway_status_history (gateway_id, was_online, heard_at)
    SELECT lpad(to_hex(i), 16, '0'), k % 2 = 0, now() - k * interval '1 hour'
    FROM generate_series(<x0> + 1, <x1>) i, generate_series(1, 3) k;
INSERT INTO multicast (id, application_id, name, address, frame_counter, data_rate, frequency, group_type) OVERRIDING SYSTEM VALUE
    SELECT i, 1 + i % <app>, 'Multicast ' || i, '01020304', 0, 0, 868100000, 'CLASS_C' FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO multicast_device (multicast_id, device_id)
    SELECT i, 2 * (1 + (i + k) % (<d1> / 2 - 1)) FROM generate_series(<x0> + 1, <x1>) i, generate_series(0, 2) k ON CONFLICT DO NOTHING;
INSERT INTO app_user (id, name, active, is_system_user) OVERRIDING SYSTEM VALUE
    SELECT 100000000 + i, 'Key ' || i, false, true FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO api_key (id, name, key_hash, key_prefix, system_user_id) OVERRIDING SYSTEM VALUE
    SELECT i, 'Key ' || i, sha256(convert_to(lpad(to_hex(i), 8, '0') || '-0000-4000-8000-000000000000', 'UTF8')), '0000', 100000000 + i
    FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO api_key_permission (api_key_id, permission_id) SELECT i, 1 + i FROM generate_series(<x0> + 1, <x1>) i
    UNION SELECT i, 2 FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO device_profile (chirpstack_id, organization_id, name)
    SELECT ('11111111-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 1 + i % <org>, 'Profile ' || i
    FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO change_log (user_id, principal, action, entity, entity_id, name, organization_ids)
    SELECT 1, 'jwt', 'UPDATE', 'device', i, 'Meter', ARRAY[1 + i % <org>] FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO system_log (happened_at, node_id, level, target, message)
    SELECT now(), 'a', 'WARN', 'sluse', 'line ' || i FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO unknown_sender (source, sender, num_heard, first_heard_at, last_heard_at)
    SELECT 'chirpstack', lpad(to_hex(i), 16, '0'), 1, now(), now() FROM generate_series(<x0> + 1, <x1>) i;
INSERT INTO decoder_error (payload_decoder_id, device_id, kind, message, sample, failed_at)
    SELECT 1, 1, 'threw', 'x', '{}', now() FROM generate_series(<x0> + 1, LEAST(<x1>, 100)) i;
INSERT INTO dead_letter (target_id, device_id, application_id, organization_id, payload_decoder_id, kind, event_key, received_at,
        content_type, log_offset, reason, num_attempts, status_code, message, answer, body, died_at)
    SELECT 1, 1, 1, 1, 1, 'body', '\\x00', now(), 'application/json', i, 'refused', 1, 422, 'no', 'no', '{}', now()
    FROM generate_series(<x0> + 1, LEAST(<x1>, 1000)) i;
INSERT INTO target_log (target_id, device_id, payload_decoder_id, type, status_code, message, created_at)
    SELECT 1, 1, 1, 'ERROR', 500, 'no', now() FROM generate_series(<x0> + 1, LEAST(<x1>, 250)) i;
INSERT INTO downlink (device_id, queue_item_id, payload, port, sent_at)
    SELECT 2, 'item-' || i, '\\x00', 1, CASE WHEN i % 2 = 0 THEN now() END FROM generate_series(<x0> + 1, LEAST(<x1>, 100)) i;
SELECT setval(pg_get_serial_sequence(t, 'id'), 200000000) FROM unnest(ARRAY['organization', 'app_user', 'permission', 'application',
    'iot_device', 'data_target', 'connection', 'payload_decoder', 'gateway', 'multicast', 'api_key', 'device_model']) t;
INSERT INTO change_event (entity, entity_id) VALUES ('user', 1);
ANALYZE;
";
