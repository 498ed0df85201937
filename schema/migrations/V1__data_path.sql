-- What the data path reads and writes, and the administrative rows it is configured by.
-- Times are timestamptz; text that comes from devices and receivers is bytea, since PostgreSQL's text refuses NUL.
-- Columns that end in _enc hold an authenticated ciphertext (engine/src/store/cipher.rs), never clear text.

CREATE TABLE setting (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- ---------------------------------------------------------------- tenants, users, groups

CREATE TABLE organization (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    open_data_dk_registered boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint,
    updated_by bigint
);

CREATE TABLE app_user (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text,
    password_hash text,
    active boolean NOT NULL DEFAULT true,
    last_login_at timestamptz,
    name_id text,
    awaiting_confirmation boolean NOT NULL DEFAULT false,
    is_system_user boolean NOT NULL DEFAULT false,
    show_welcome_screen boolean NOT NULL DEFAULT false,
    expires_on timestamptz,
    -- Raised to make every token of this user invalid.
    token_version integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE UNIQUE INDEX app_user_email_key ON app_user (lower(email));
CREATE UNIQUE INDEX app_user_name_id_key ON app_user (name_id);

ALTER TABLE organization
    ADD FOREIGN KEY (created_by) REFERENCES app_user ON DELETE SET NULL,
    ADD FOREIGN KEY (updated_by) REFERENCES app_user ON DELETE SET NULL;

-- A user group. Without an organisation it is the group of global administrators.
CREATE TABLE permission (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    organization_id bigint REFERENCES organization ON DELETE CASCADE,
    automatically_add_new_applications boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX permission_organization_id_idx ON permission (organization_id);

CREATE TABLE permission_level (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    permission_id bigint NOT NULL REFERENCES permission ON DELETE CASCADE,
    type text NOT NULL CHECK (type IN ('GlobalAdmin', 'OrganizationUserAdmin', 'OrganizationGatewayAdmin',
                                       'OrganizationApplicationAdmin', 'Read')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (permission_id, type)
);

CREATE TABLE permission_user (
    permission_id bigint NOT NULL REFERENCES permission ON DELETE CASCADE,
    user_id bigint NOT NULL REFERENCES app_user ON DELETE CASCADE,
    PRIMARY KEY (permission_id, user_id)
);
CREATE INDEX permission_user_user_id_idx ON permission_user (user_id);

-- ---------------------------------------------------------------- applications, devices

CREATE TABLE application (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id bigint NOT NULL REFERENCES organization ON DELETE CASCADE,
    name text NOT NULL UNIQUE,
    description text,
    status text,
    start_date timestamptz,
    end_date timestamptz,
    category text,
    owner text,
    contact_person text,
    contact_email text,
    contact_phone text,
    personal_data boolean,
    hardware text,
    chirpstack_id text,
    controlled_properties text[] NOT NULL DEFAULT '{}',
    device_types text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX application_organization_id_idx ON application (organization_id);

CREATE TABLE permission_application (
    permission_id bigint NOT NULL REFERENCES permission ON DELETE CASCADE,
    application_id bigint NOT NULL REFERENCES application ON DELETE CASCADE,
    PRIMARY KEY (permission_id, application_id)
);
CREATE INDEX permission_application_application_id_idx ON permission_application (application_id);

CREATE TABLE device_model (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id bigint NOT NULL REFERENCES organization ON DELETE CASCADE,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX device_model_organization_id_idx ON device_model (organization_id);

CREATE TABLE iot_device (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_id bigint NOT NULL REFERENCES application ON DELETE CASCADE,
    device_model_id bigint REFERENCES device_model,
    type text NOT NULL CHECK (type IN ('GENERIC_HTTP', 'LORAWAN', 'MQTT_INTERNAL_BROKER', 'MQTT_EXTERNAL_BROKER',
                                       'SIGFOX')),
    name text NOT NULL,
    longitude double precision,
    latitude double precision,
    comment_on_location text,
    comment text,
    -- The client's JSON text of keys and values, as it was sent.
    metadata text,
    -- LORAWAN: 16 lower-case hex digits.
    device_eui text UNIQUE,
    -- GENERIC_HTTP: SHA-256 of the lower-case key for look-up, the key itself encrypted for its owner.
    api_key_hash bytea UNIQUE,
    api_key_enc bytea,
    -- What else belongs to the type, without secrets (LoRaWAN profile and activation, Sigfox and MQTT settings).
    settings jsonb NOT NULL DEFAULT '{}',
    -- Secrets of the type (keys, passwords, private keys): one encrypted JSON object.
    settings_enc bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX iot_device_application_id_idx ON iot_device (application_id);
CREATE INDEX iot_device_device_model_id_idx ON iot_device (device_model_id);

-- ---------------------------------------------------------------- decoders, targets, connections

CREATE TABLE payload_decoder (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id bigint NOT NULL REFERENCES organization ON DELETE CASCADE,
    name text NOT NULL,
    decoding_function text NOT NULL,
    -- os2iot, ts013, actility, chirpstack3, ttn2; NULL: recognised from the source.
    dialect text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX payload_decoder_organization_id_idx ON payload_decoder (organization_id);

CREATE TABLE data_target (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_id bigint NOT NULL REFERENCES application ON DELETE CASCADE,
    -- Our stable hash of the id over the number of partitions, set by the writer right after the insert.
    partition integer,
    type text NOT NULL CHECK (type IN ('HTTP_PUSH', 'FIWARE', 'MQTT', 'OPENDATADK')),
    name text NOT NULL,
    url text,
    timeout_ms bigint NOT NULL DEFAULT 30000,
    -- authorizationHeader, clientSecret, mqttPassword: one encrypted JSON object.
    secrets_enc bytea,
    mqtt_port integer,
    mqtt_topic text,
    mqtt_qos smallint,
    mqtt_username text,
    tenant text,
    context text,
    token_endpoint text,
    client_id text,
    -- Our additions.
    ca_certificates text,
    rate_per_second integer,
    num_in_flight_max integer,
    age_seconds_max bigint,
    last_message_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX data_target_application_id_idx ON data_target (application_id);
CREATE INDEX data_target_partition_idx ON data_target (partition);

CREATE TABLE open_data_dk_dataset (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    data_target_id bigint NOT NULL UNIQUE REFERENCES data_target ON DELETE CASCADE,
    name text NOT NULL,
    description text NOT NULL,
    keywords text[],
    license text NOT NULL,
    author_name text NOT NULL,
    author_email text NOT NULL,
    resource_title text NOT NULL,
    update_frequency text,
    documentation_url text,
    data_directory text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);

CREATE TABLE connection (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    data_target_id bigint NOT NULL REFERENCES data_target ON DELETE CASCADE,
    payload_decoder_id bigint REFERENCES payload_decoder,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX connection_data_target_id_idx ON connection (data_target_id);
CREATE INDEX connection_payload_decoder_id_idx ON connection (payload_decoder_id);

CREATE TABLE connection_device (
    connection_id bigint NOT NULL REFERENCES connection ON DELETE CASCADE,
    device_id bigint NOT NULL REFERENCES iot_device ON DELETE CASCADE,
    PRIMARY KEY (connection_id, device_id)
);
CREATE INDEX connection_device_device_id_idx ON connection_device (device_id);

-- ---------------------------------------------------------------- change events and audit

CREATE TABLE change_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity text NOT NULL,
    entity_id bigint NOT NULL,
    happened_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE change_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at timestamptz NOT NULL DEFAULT now(),
    user_id bigint,
    -- 'jwt', 'api-key', 'system'
    principal text NOT NULL,
    remote_address text,
    request_id text,
    action text NOT NULL,
    entity text NOT NULL,
    entity_id bigint,
    -- Secrets are taken out before they get here.
    before jsonb,
    after jsonb,
    succeeded boolean NOT NULL DEFAULT true
);
CREATE INDEX change_log_happened_at_idx ON change_log (happened_at);
CREATE INDEX change_log_entity_idx ON change_log (entity, entity_id);

CREATE FUNCTION notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sluse_change', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER change_event_notify AFTER INSERT ON change_event FOR EACH STATEMENT EXECUTE FUNCTION notify_change();

-- ---------------------------------------------------------------- device stage: state follows the log

CREATE TABLE uplinks_partition (
    partition integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    log_store text,
    log_incarnation bigint,
    log_offset bigint,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE device_state (
    device_id bigint PRIMARY KEY REFERENCES iot_device ON DELETE CASCADE,
    log_store text,
    log_incarnation bigint,
    log_offset bigint,
    latest_payload bytea,
    latest_received_at timestamptz,
    latest_event_at timestamptz,
    latest_offset bigint,
    rssi_dbm integer,
    snr_db real,
    f_cnt bigint,
    -- JSON array of transmissions, newest last.
    transmissions bytea NOT NULL DEFAULT '[]',
    -- 24 bytes per seen event: repeat key, offset, received-at in ms, big-endian.
    seen_events bytea NOT NULL DEFAULT '',
    -- JSON object: battery, margin, last join, last downlink.
    link bytea NOT NULL DEFAULT '{}',
    num_uplinks bigint NOT NULL DEFAULT 0,
    num_repeats bigint NOT NULL DEFAULT 0,
    num_decode_failures bigint NOT NULL DEFAULT 0,
    num_f_cnt_missing bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
ALTER TABLE device_state ALTER COLUMN latest_payload SET COMPRESSION lz4;
ALTER TABLE device_state ALTER COLUMN transmissions SET COMPRESSION lz4;

CREATE TABLE decoder_error (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payload_decoder_id bigint NOT NULL REFERENCES payload_decoder ON DELETE CASCADE,
    device_id bigint NOT NULL REFERENCES iot_device ON DELETE CASCADE,
    kind text NOT NULL,
    message bytea NOT NULL,
    sample bytea NOT NULL,
    num_failures bigint NOT NULL DEFAULT 1,
    failed_at timestamptz NOT NULL
);
CREATE INDEX decoder_error_payload_decoder_id_idx ON decoder_error (payload_decoder_id, id);
CREATE INDEX decoder_error_device_id_idx ON decoder_error (device_id, id);

CREATE TABLE unknown_sender (
    source text NOT NULL,
    sender text NOT NULL,
    num_heard bigint NOT NULL,
    first_heard_at timestamptz NOT NULL,
    last_heard_at timestamptz NOT NULL,
    PRIMARY KEY (source, sender)
);
CREATE INDEX unknown_sender_last_heard_at_idx ON unknown_sender (last_heard_at);

CREATE TABLE gateway_status_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id text NOT NULL,
    was_online boolean NOT NULL,
    heard_at timestamptz NOT NULL,
    UNIQUE (gateway_id, heard_at)
);

-- ---------------------------------------------------------------- target stage: cursors, dead letters

CREATE TABLE deliveries_partition (
    partition integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    log_store text,
    log_incarnation bigint,
    log_offset bigint,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Outlives its target as a tombstone, hence no foreign key.
CREATE TABLE target_cursor (
    target_id bigint PRIMARY KEY,
    partition integer NOT NULL,
    log_store text,
    log_incarnation bigint,
    log_offset bigint,
    -- 8 bytes per hole, big-endian, ascending.
    holes bytea NOT NULL DEFAULT '',
    accepted bigint NOT NULL DEFAULT 0,
    offered_again bigint NOT NULL DEFAULT 0,
    delivered bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    discarded bigint NOT NULL DEFAULT 0,
    rewind_epoch bigint NOT NULL DEFAULT 0,
    is_tombstone boolean NOT NULL DEFAULT false,
    -- target::TargetStatus as JSON, for people.
    status bytea,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
CREATE INDEX target_cursor_partition_idx ON target_cursor (partition);

CREATE TABLE target_request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_id bigint NOT NULL REFERENCES data_target ON DELETE CASCADE,
    -- rewind_to_time (argument: Unix ms), rewind_to_offset, replay (arguments: dead letter ids)
    kind text NOT NULL CHECK (kind IN ('rewind_to_time', 'rewind_to_offset', 'replay')),
    arguments bigint[] NOT NULL,
    requested_by bigint,
    requested_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX target_request_target_id_idx ON target_request (target_id);

CREATE TABLE dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_id bigint NOT NULL REFERENCES data_target ON DELETE CASCADE,
    device_id bigint NOT NULL,
    application_id bigint NOT NULL,
    organization_id bigint NOT NULL,
    payload_decoder_id bigint,
    kind text NOT NULL,
    event_key bytea NOT NULL,
    received_at timestamptz NOT NULL,
    content_type text NOT NULL,
    log_offset bigint NOT NULL,
    reason text NOT NULL,
    num_attempts integer NOT NULL,
    status_code integer,
    message bytea NOT NULL,
    decode_error bytea,
    answer bytea NOT NULL,
    body bytea NOT NULL,
    died_at timestamptz NOT NULL
);
CREATE INDEX dead_letter_target_id_idx ON dead_letter (target_id, id);
CREATE INDEX dead_letter_died_at_idx ON dead_letter (died_at);
-- A rewind supersedes a range of offsets, and a repeated flush recognises its own rows.
CREATE INDEX dead_letter_log_offset_idx ON dead_letter (target_id, log_offset);

CREATE TABLE target_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_id bigint NOT NULL REFERENCES data_target ON DELETE CASCADE,
    device_id bigint REFERENCES iot_device ON DELETE SET NULL,
    payload_decoder_id bigint REFERENCES payload_decoder ON DELETE SET NULL,
    type text NOT NULL CHECK (type IN ('OK', 'ERROR')),
    status_code integer,
    message bytea NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX target_log_target_id_idx ON target_log (target_id, id);
CREATE INDEX target_log_device_id_idx ON target_log (device_id);
CREATE INDEX target_log_payload_decoder_id_idx ON target_log (payload_decoder_id);
