-- Adds the number of the last event of a job, and whether its expiry has an event. No row is rewritten.
ALTER TABLE jobs.job_progress
    ADD COLUMN event_count integer NOT NULL DEFAULT 0,
    ADD COLUMN has_expiry_event boolean NOT NULL DEFAULT false;
