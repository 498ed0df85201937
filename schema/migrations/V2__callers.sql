-- Who may call: API keys (their routes come later, their look-up is there), organisations that somebody asked to be let into.

CREATE TABLE api_key (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    -- SHA-256 of the key, which is shown once and kept nowhere.
    key_hash bytea NOT NULL UNIQUE,
    -- The first characters, for people.
    key_prefix text NOT NULL,
    system_user_id bigint NOT NULL UNIQUE REFERENCES app_user ON DELETE CASCADE,
    expires_on timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by bigint REFERENCES app_user ON DELETE SET NULL,
    updated_by bigint REFERENCES app_user ON DELETE SET NULL
);

CREATE TABLE api_key_permission (
    api_key_id bigint NOT NULL REFERENCES api_key ON DELETE CASCADE,
    permission_id bigint NOT NULL REFERENCES permission ON DELETE CASCADE,
    PRIMARY KEY (api_key_id, permission_id)
);
CREATE INDEX api_key_permission_permission_id_idx ON api_key_permission (permission_id);

CREATE TABLE user_requested_organization (
    user_id bigint NOT NULL REFERENCES app_user ON DELETE CASCADE,
    organization_id bigint NOT NULL REFERENCES organization ON DELETE CASCADE,
    PRIMARY KEY (user_id, organization_id)
);
CREATE INDEX user_requested_organization_organization_id_idx ON user_requested_organization (organization_id);
