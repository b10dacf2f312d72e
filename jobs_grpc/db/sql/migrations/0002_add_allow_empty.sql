-- Adds whether a stage of a group may have no devices. No row is rewritten.
ALTER TABLE jobs.job_stages
    ADD COLUMN allow_empty boolean NOT NULL DEFAULT false;
