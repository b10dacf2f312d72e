-- Adds start times, start windows, retry policies and priorities. No row is rewritten.
ALTER TABLE jobs.jobs
    ADD COLUMN start_at timestamptz,          -- NULL: the time of creation
    -- Three numbers for each window: a bit for each day of the week (Monday: 1), the minute of the day,
    -- and the minutes that the window is open. NULL: devices can start at any time.
    ADD COLUMN start_windows integer[],
    ADD COLUMN window_time_zone text,         -- NULL: that of each execution
    ADD COLUMN retry_policy jsonb,            -- written by services/job_request.py; NULL: none
    ADD COLUMN priority smallint NOT NULL DEFAULT 2;  -- of Job.Priority

ALTER TABLE jobs.job_executions
    ADD COLUMN queue_order smallint NOT NULL DEFAULT 0,  -- by the priority: see queue_order
    ADD COLUMN time_zone text,                -- for start windows; NULL: UTC
    ADD COLUMN not_before timestamptz,        -- of an attempt that the retry policy queued
    ADD COLUMN retries integer NOT NULL DEFAULT 0,  -- attempts that the retry policy queued in a row
    -- The first failure of the device that has not been followed by a success, with a retry policy.
    ADD COLUMN failed_status jobs.execution_status,
    ADD COLUMN failed_code text COLLATE "C",
    ADD COLUMN failed_at timestamptz;

ALTER TABLE jobs.job_progress
    ADD COLUMN retries integer NOT NULL DEFAULT 0,          -- attempts that the retry policy queued
    ADD COLUMN retried_devices integer NOT NULL DEFAULT 0,  -- devices that needed a retry
    ADD COLUMN retrying integer NOT NULL DEFAULT 0,         -- see Job.retrying_count
    -- Those of them that have started the next attempt. A cancel or an expiry of the job ends the others.
    ADD COLUMN retrying_in_progress integer NOT NULL DEFAULT 0;

ALTER TABLE jobs.job_stages
    ADD COLUMN retrying integer NOT NULL DEFAULT 0,
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
