-- Adds start times, start windows, retry policies and priorities. No row is rewritten.
ALTER TABLE jobs.jobs
    ADD COLUMN start_at timestamptz,          -- NULL: the time of creation
    -- Three numbers for each window: a bit for each day of the week (Monday: 1), the minute of the day,
    -- and the minutes that the window is open. NULL: devices can start at any time.
    ADD COLUMN start_windows integer[],
    ADD COLUMN window_time_zone text,         -- NULL: that of each execution
    ADD COLUMN retry_policy jsonb,            -- written by services/job_request.py; NULL: none
    ADD COLUMN priority smallint NOT NULL DEFAULT 2;  -- of Job.Priority
