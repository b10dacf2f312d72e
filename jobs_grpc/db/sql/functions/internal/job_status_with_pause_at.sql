-- depends on: is_expired_at
-- Returns the status of a job as readers see it at the time `at`: that of job_status_at, or PAUSED.
-- Text, because PAUSED is never stored.
CREATE OR REPLACE FUNCTION jobs.job_status_with_pause_at(
    status jobs.job_status,
    expires_at timestamptz,
    in_progress integer,
    paused_at timestamptz,
    at timestamptz
) RETURNS text
-- A cast of the enum to text would keep the planner from inlining the function.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'COMPLETED' THEN 'COMPLETED'
    WHEN status = 'CANCELED' THEN 'CANCELED'
    WHEN in_progress = 0 AND jobs.is_expired_at(expires_at, at) THEN 'COMPLETED'
    WHEN paused_at IS NOT NULL THEN 'PAUSED'
    ELSE 'IN_PROGRESS'
END;
