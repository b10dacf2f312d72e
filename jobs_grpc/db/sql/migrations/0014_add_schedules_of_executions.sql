-- Adds what the schedules of jobs need of executions. No row is rewritten.
ALTER TABLE jobs.job_executions
    ADD COLUMN queue_order smallint NOT NULL DEFAULT 0,  -- by the priority: see queue_order
    ADD COLUMN time_zone text,                -- for start windows; NULL: UTC
    ADD COLUMN not_before timestamptz,        -- of an attempt that the retry policy queued
    -- The automatic retries that the device has needed since CreateJob or the last RetryExecutions, with
    -- the one that the retry budget refused.
    ADD COLUMN retries integer NOT NULL DEFAULT 0,
    -- The failure of the attempt before the current one, while the device counts as failed because of it:
    -- until the device ends the current attempt, or RetryExecutions takes it. NULL: none.
    ADD COLUMN failed_status jobs.execution_status,
    ADD COLUMN failed_code text COLLATE "C",
    ADD COLUMN failed_at timestamptz;
