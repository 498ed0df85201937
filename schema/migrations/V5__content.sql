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

-- Search: substrings of names, newest first.
CREATE INDEX iot_device_name_trgm_idx ON iot_device USING gin (name gin_trgm_ops);
CREATE INDEX application_name_trgm_idx ON application USING gin (name gin_trgm_ops);
CREATE INDEX iot_device_updated_at_idx ON iot_device (updated_at DESC, id DESC);
