-- An application's name is its organisation's own affair: that another tenant has one of the same name is not to be found out by trying.
ALTER TABLE application DROP CONSTRAINT application_name_key;
ALTER TABLE application ADD CONSTRAINT application_organization_id_name_key UNIQUE (organization_id, name);
-- The new constraint's index begins with the organisation too.
DROP INDEX application_organization_id_idx;
-- A global administrator's list is ordered by names of all organisations.
CREATE INDEX application_name_idx ON application (name);
