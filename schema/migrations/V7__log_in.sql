-- Attempts to log in at a provider that were answered: each answers once, whichever node it comes to. An attempt lives for fifteen
-- minutes; rows are deleted after an hour.
CREATE TABLE answered_log_in (
    attempt text PRIMARY KEY,
    answered_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX answered_log_in_answered_at_idx ON answered_log_in (answered_at);
