-- Adds the counts of automatic retries. No row is rewritten.
ALTER TABLE jobs.job_progress
    ADD COLUMN retries integer NOT NULL DEFAULT 0,          -- attempts that the retry policy queued
    ADD COLUMN retried_devices integer NOT NULL DEFAULT 0,  -- devices that needed a retry
    ADD COLUMN retrying integer NOT NULL DEFAULT 0,         -- see Job.retrying_count
    -- Those of them that have started the next attempt. A cancel or an expiry of the job ends the others.
    ADD COLUMN retrying_in_progress integer NOT NULL DEFAULT 0;

-- An execution that a start, a report or a timeout has changed, while apply_retry_policies decides
-- about its next attempt.
CREATE TYPE jobs.decided_retry AS (
    n bigint,                            -- as in decided_update
    row_id tid,                          -- of the execution
    device_id text,
    stage smallint,
    old_status jobs.execution_status,
    status jobs.execution_status,
    failure_code text,
    failed_status jobs.execution_status, -- this and the next two: as in job_executions
    failed_code text,
    failed_at timestamptz,
    needs_first_retry boolean,           -- and has not needed a retry before
    needs_retry boolean,
    not_before timestamptz               -- of the next attempt; NULL: none
);
