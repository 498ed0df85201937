-- What the API's content needs beyond the data path: Sigfox groups, the authority that signs device certificates, and the indexes
-- of searches and long lists.

CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- A login at Sigfox, with which an organisation's devices are administered there.
CREATE TABLE sigfox_group (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id bigint NOT NULL REFERENCES organization ON DELETE CASCADE,
    username text NOT NULL,
    password_enc bytea NOT NULL,
    -- The group's own id at Sigfox, as it last told.
    sigfox_group_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL,
    UNIQUE (organization_id, username)
);

-- The one authority behind the certificates of MQTT devices, made when the first is asked for.
CREATE TABLE certificate_authority (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    -- PEM.
    certificate text NOT NULL,
    key_enc bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A Sigfox device is one row, whoever registers it.
CREATE UNIQUE INDEX iot_device_sigfox_id_key ON iot_device (upper(settings->>'deviceId')) WHERE type = 'SIGFOX';

-- A page of an application's devices is read in its order, without sorting all of them.
CREATE INDEX iot_device_application_id_id_idx ON iot_device (application_id, id);
DROP INDEX iot_device_application_id_idx;

-- Search: substrings of names, newest first.
CREATE INDEX iot_device_name_trgm_idx ON iot_device USING gin (name gin_trgm_ops);
CREATE INDEX application_name_trgm_idx ON application USING gin (name gin_trgm_ops);
CREATE INDEX iot_device_updated_at_idx ON iot_device (updated_at DESC, id DESC);

-- Whether a device of an application has been silent for a day, asked of every application on a page, is one probe of an index.
-- `latest_slot` counts six hours: an index over the time itself would end heap-only updates of the hottest rows there are, this
-- one does so four times a day per device.
ALTER TABLE device_state ADD COLUMN application_id bigint;
ALTER TABLE device_state ADD COLUMN latest_slot integer
    GENERATED ALWAYS AS (floor(extract(epoch FROM latest_received_at AT TIME ZONE 'UTC') / 21600)::integer) STORED;
UPDATE device_state s SET application_id = d.application_id FROM iot_device d WHERE d.id = s.device_id;
CREATE INDEX device_state_application_id_latest_slot_idx ON device_state (application_id, latest_slot);

-- The device stage knows nothing of it: a state learns its device's application when it is first written, and when the device moves.
CREATE FUNCTION device_state_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE device_state s SET application_id = d.application_id
    FROM added JOIN iot_device d ON d.id = added.device_id WHERE s.device_id = added.device_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER device_state_added AFTER INSERT ON device_state
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION device_state_added();

CREATE FUNCTION iot_device_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE device_state SET application_id = NEW.application_id WHERE device_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER iot_device_moved AFTER UPDATE OF application_id ON iot_device FOR EACH ROW
    WHEN (OLD.application_id IS DISTINCT FROM NEW.application_id) EXECUTE FUNCTION iot_device_moved();
