-- What stands in ChirpStack as well: gateways, device profiles, multicast groups, downlinks; and what has still to be brought in line.

-- The gateway as people describe it; figures and times come from ChirpStack and from the gateway's own state messages.
CREATE TABLE gateway (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- NULL: found in ChirpStack and given to nobody yet. An organisation that has gateways cannot be deleted.
    organization_id bigint REFERENCES organization,
    -- 16 lower-case hex digits.
    gateway_id text NOT NULL UNIQUE CHECK (gateway_id ~ '^[0-9a-f]{16}$'),
    name text NOT NULL,
    description text,
    longitude double precision,
    latitude double precision,
    altitude double precision,
    tags jsonb NOT NULL DEFAULT '{}',
    placement text,
    model_name text,
    antenna_type text,
    status text,
    gateway_responsible_name text,
    gateway_responsible_email text,
    gateway_responsible_phone_number text,
    operational_responsible_name text,
    operational_responsible_email text,
    notify_offline boolean,
    notify_unusual_packages boolean,
    offline_alarm_threshold_minutes bigint,
    minimum_packages bigint,
    maximum_packages bigint,
    alarm_mail text,
    has_sent_offline_notification boolean,
    -- Today's, as ChirpStack counts them.
    rx_packets_received bigint NOT NULL DEFAULT 0,
    tx_packets_emitted bigint NOT NULL DEFAULT 0,
    last_seen_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX gateway_organization_id_idx ON gateway (organization_id);

-- Whose a device profile is. What is in it stands in ChirpStack.
CREATE TABLE device_profile (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chirpstack_id uuid NOT NULL UNIQUE,
    -- NULL: made in ChirpStack, for everybody to use.
    organization_id bigint REFERENCES organization ON DELETE CASCADE,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE UNIQUE INDEX device_profile_name_key ON device_profile (COALESCE(organization_id, 0), lower(name));

CREATE TABLE multicast (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_id bigint NOT NULL REFERENCES application ON DELETE CASCADE,
    name text NOT NULL,
    address text NOT NULL,
    frame_counter bigint NOT NULL,
    data_rate bigint NOT NULL,
    frequency bigint NOT NULL,
    group_type text NOT NULL,
    -- Network and application session key: one encrypted JSON object.
    settings_enc bytea,
    -- NULL: without devices there is nothing in ChirpStack.
    chirpstack_group_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX multicast_application_id_idx ON multicast (application_id);
CREATE UNIQUE INDEX multicast_chirpstack_group_id_key ON multicast (chirpstack_group_id);

CREATE TABLE multicast_device (
    multicast_id bigint NOT NULL REFERENCES multicast ON DELETE CASCADE,
    device_id bigint NOT NULL REFERENCES iot_device ON DELETE CASCADE,
    PRIMARY KEY (multicast_id, device_id)
);
CREATE INDEX multicast_device_device_id_idx ON multicast_device (device_id);

-- A downlink that was handed to ChirpStack, and what became of it.
CREATE TABLE downlink (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id bigint NOT NULL REFERENCES iot_device ON DELETE CASCADE,
    queue_item_id text NOT NULL UNIQUE,
    f_cnt_down bigint,
    payload bytea NOT NULL,
    port integer NOT NULL,
    is_confirmed boolean NOT NULL DEFAULT false,
    sent_at timestamptz,
    acknowledged_at timestamptz,
    is_acknowledged boolean,
    flushed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);
CREATE INDEX downlink_device_id_idx ON downlink (device_id, id);
CREATE INDEX downlink_created_at_idx ON downlink (created_at);

-- What may not stand in ChirpStack as it stands here. Written before ChirpStack is called and taken away when both agree, so that a
-- crash in between leaves a line that a job finishes: rows that are there are written to ChirpStack, the others deleted there.
CREATE TABLE network_server_task (
    -- 'device', 'gateway', 'device_profile', 'multicast', 'application'
    kind text NOT NULL,
    -- devEUI, gateway id, or ChirpStack's UUID.
    key text NOT NULL,
    -- Raised with every note: whoever finishes takes away only what he saw.
    generation bigint NOT NULL DEFAULT 1,
    -- Whether the row was deleted here, so that what is left in ChirpStack is ours to delete.
    is_deletion boolean NOT NULL DEFAULT false,
    due_at timestamptz NOT NULL,
    num_attempts integer NOT NULL DEFAULT 0,
    last_error text,
    noted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, key)
);
CREATE INDEX network_server_task_due_at_idx ON network_server_task (due_at);

CREATE FUNCTION note_deletion(task_kind text, task_key text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO network_server_task AS t (kind, key, is_deletion, due_at) VALUES (task_kind, task_key, true, now())
    ON CONFLICT (kind, key) DO UPDATE SET is_deletion = true, due_at = now(), generation = t.generation + 1, num_attempts = 0
$$;

-- Whatever deletes a row, a cascade included, leaves the note in the same transaction.
CREATE FUNCTION note_device_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_deletion('device', OLD.device_eui);
    RETURN NULL;
END
$$;
CREATE TRIGGER iot_device_note_deletion AFTER DELETE ON iot_device FOR EACH ROW
    WHEN (OLD.type = 'LORAWAN' AND OLD.device_eui IS NOT NULL AND OLD.settings ? 'chirpstackApplicationId')
    EXECUTE FUNCTION note_device_deletion();

CREATE FUNCTION note_application_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_deletion('application', OLD.chirpstack_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER application_note_deletion AFTER DELETE ON application FOR EACH ROW
    WHEN (OLD.chirpstack_id IS NOT NULL) EXECUTE FUNCTION note_application_deletion();

CREATE FUNCTION note_multicast_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_deletion('multicast', OLD.chirpstack_group_id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER multicast_note_deletion AFTER DELETE ON multicast FOR EACH ROW
    WHEN (OLD.chirpstack_group_id IS NOT NULL) EXECUTE FUNCTION note_multicast_deletion();

CREATE FUNCTION note_gateway_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_deletion('gateway', OLD.gateway_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER gateway_note_deletion AFTER DELETE ON gateway FOR EACH ROW EXECUTE FUNCTION note_gateway_deletion();

CREATE FUNCTION note_device_profile_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_deletion('device_profile', OLD.chirpstack_id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER device_profile_note_deletion AFTER DELETE ON device_profile FOR EACH ROW
    EXECUTE FUNCTION note_device_profile_deletion();

-- Which devices have a profile.
CREATE INDEX iot_device_profile_idx ON iot_device ((settings->'lorawanSettings'->>'deviceProfileID')) WHERE type = 'LORAWAN';

-- A device that leaves its application leaves the multicast groups there; ChirpStack hears of it.
CREATE FUNCTION leave_multicasts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO network_server_task AS t (kind, key, due_at)
    SELECT 'multicast', m.chirpstack_group_id::text, now() FROM multicast m JOIN multicast_device d ON d.multicast_id = m.id
    WHERE d.device_id = NEW.id AND m.chirpstack_group_id IS NOT NULL
    ON CONFLICT (kind, key) DO UPDATE SET generation = t.generation + 1, due_at = now(), num_attempts = 0;
    DELETE FROM multicast_device WHERE device_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER iot_device_leave_multicasts AFTER UPDATE OF application_id ON iot_device FOR EACH ROW
    WHEN (OLD.application_id <> NEW.application_id) EXECUTE FUNCTION leave_multicasts();

CREATE INDEX application_chirpstack_id_idx ON application (chirpstack_id);
