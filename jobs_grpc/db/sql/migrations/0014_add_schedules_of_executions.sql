-- Adds what the schedules of jobs need of executions. No row is rewritten.
ALTER TABLE jobs.job_executions
    ADD COLUMN queue_order smallint NOT NULL DEFAULT 0,  -- by the priority: see queue_order
    ADD COLUMN time_zone text,                -- for start windows; NULL: UTC
    ADD COLUMN not_before timestamptz,        -- of an attempt that the retry policy queued
    ADD COLUMN retries integer NOT NULL DEFAULT 0,  -- attempts that the retry policy queued in a row
    -- The first failure of the device that has not been followed by a success, with a retry policy.
    ADD COLUMN failed_status jobs.execution_status,
    ADD COLUMN failed_code text COLLATE "C",
    ADD COLUMN failed_at timestamptz;
