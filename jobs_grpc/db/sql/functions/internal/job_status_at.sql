-- Returns the status of a job as readers see it at the time `at`. A job past its expiry with no
-- execution IN_PROGRESS is COMPLETED, even before the row is updated.
CREATE OR REPLACE FUNCTION jobs.job_status_at(
    status jobs.job_status, expires_at timestamptz, in_progress integer, at timestamptz
) RETURNS jobs.job_status
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    -- In this order: in_progress can be a sub-select.
    WHEN status = 'IN_PROGRESS' AND jobs.is_expired_at(expires_at, at) AND in_progress = 0
        THEN 'COMPLETED'
    ELSE status
END;
