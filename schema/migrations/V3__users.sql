-- Users, groups, audit: what the database holds on to by itself, and what the change log and the system log say.

-- ---------------------------------------------------------------- groups

-- There is one group of global administrators.
CREATE UNIQUE INDEX permission_global_key ON permission ((organization_id IS NULL)) WHERE organization_id IS NULL;

-- A group holds applications of its own organisation only. Checked at the commit, so that an application can move.
ALTER TABLE permission ADD UNIQUE (id, organization_id);
ALTER TABLE application ADD UNIQUE (id, organization_id);
ALTER TABLE permission_application ADD COLUMN organization_id bigint;
DELETE FROM permission_application m USING permission p, application a
    WHERE p.id = m.permission_id AND a.id = m.application_id AND p.organization_id IS DISTINCT FROM a.organization_id;
UPDATE permission_application m SET organization_id = p.organization_id FROM permission p WHERE p.id = m.permission_id;
ALTER TABLE permission_application
    ALTER COLUMN organization_id SET NOT NULL,
    ADD FOREIGN KEY (permission_id, organization_id) REFERENCES permission (id, organization_id)
        DEFERRABLE INITIALLY DEFERRED,
    ADD FOREIGN KEY (application_id, organization_id) REFERENCES application (id, organization_id)
        DEFERRABLE INITIALLY DEFERRED;
-- The organisation is the group's; nobody else has to know of the column.
CREATE FUNCTION permission_application_organization() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT organization_id INTO NEW.organization_id FROM permission WHERE id = NEW.permission_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER permission_application_organization BEFORE INSERT OR UPDATE ON permission_application
    FOR EACH ROW EXECUTE FUNCTION permission_application_organization();

-- ---------------------------------------------------------------- users

-- Null until somebody waits; afterwards true or false.
ALTER TABLE app_user ALTER COLUMN awaiting_confirmation DROP NOT NULL, ALTER COLUMN awaiting_confirmation DROP DEFAULT;
UPDATE app_user SET awaiting_confirmation = NULL WHERE NOT awaiting_confirmation;
-- Lists by name, and those who wait.
CREATE INDEX app_user_name_idx ON app_user (name);

-- ---------------------------------------------------------------- change log

ALTER TABLE change_log
    -- Through what: 'token …', 'api-key …', 'password', 'kombit', 'openid'. Never the credential itself.
    ADD COLUMN credential text,
    -- Whose administrators may read the line. No foreign key: lines outlive organisations.
    ADD COLUMN organization_ids bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN name text,
    -- Why it did not succeed.
    ADD COLUMN reason text;
DROP INDEX change_log_entity_idx;
CREATE INDEX change_log_entity_idx ON change_log (entity, entity_id, id);
CREATE INDEX change_log_user_id_idx ON change_log (user_id, id);
CREATE INDEX change_log_action_idx ON change_log (action, id);
CREATE INDEX change_log_organization_ids_idx ON change_log USING gin (organization_ids);

CREATE FUNCTION change_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the change log is never changed';
END
$$;
CREATE TRIGGER change_log_append_only BEFORE UPDATE ON change_log
    FOR EACH ROW EXECUTE FUNCTION change_log_is_append_only();

-- ---------------------------------------------------------------- system log: our own warnings and errors

CREATE TABLE system_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at timestamptz NOT NULL,
    node_id text NOT NULL,
    level text NOT NULL CHECK (level IN ('WARN', 'ERROR')),
    -- The part of the program.
    target text NOT NULL,
    message text NOT NULL,
    -- Named values, as texts; secrets are taken out before they get here.
    fields jsonb NOT NULL DEFAULT '{}',
    -- How often since the line before, of which only this one was kept.
    num_times bigint NOT NULL DEFAULT 1
);
CREATE INDEX system_log_happened_at_idx ON system_log (happened_at);
CREATE INDEX system_log_level_idx ON system_log (level, id);
