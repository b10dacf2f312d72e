-- What a job's status is at a moment: past its expiry, and with no device at work, a job
-- is COMPLETED whether or not anybody has written that down.
CREATE OR REPLACE FUNCTION jobs.job_status_at(
    status jobs.job_status, expires_at timestamptz, in_progress integer, at timestamptz
) RETURNS jobs.job_status
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'IN_PROGRESS' AND in_progress = 0 AND expires_at <= at THEN 'COMPLETED'
    ELSE status
END;
