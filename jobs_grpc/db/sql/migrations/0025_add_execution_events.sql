-- Adds the choice of execution events. No row is rewritten.
ALTER TABLE jobs.jobs ADD COLUMN execution_events boolean NOT NULL DEFAULT false;

-- An attempt that has ended, as those who end it pass it to add_finished_events.
CREATE TYPE jobs.finished_attempt AS (
    job_id text,
    device_id text,
    status jobs.execution_status,
    failure_code text,  -- NULL or '': none
    execution_number integer
);
