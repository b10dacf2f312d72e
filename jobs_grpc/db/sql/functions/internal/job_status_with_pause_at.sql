-- Returns the status of a job as readers see it at the time `at`. Unlike job_status_at, it can also be PAUSED
-- or SCHEDULED, which are never stored: so it is text.
CREATE OR REPLACE FUNCTION jobs.job_status_with_pause_at(
    status jobs.job_status,
    expires_at timestamptz,
    in_progress integer,
    paused_at timestamptz,
    is_scheduled boolean,  -- the job has not started
    at timestamptz
) RETURNS text
-- A cast of the enum to text would keep the planner from inlining the function.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jobs.job_status_at(status, expires_at, in_progress, at) = 'COMPLETED' THEN 'COMPLETED'
    WHEN status = 'CANCELED' THEN 'CANCELED'
    WHEN paused_at IS NOT NULL THEN 'PAUSED'
    WHEN is_scheduled THEN 'SCHEDULED'
    ELSE 'IN_PROGRESS'
END;
