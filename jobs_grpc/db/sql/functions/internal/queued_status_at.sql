-- Returns the status that an execution stored as QUEUED has at the time `at`. If its job was
-- canceled and has expired, the earlier of the two decides.
CREATE OR REPLACE FUNCTION jobs.queued_status_at(
    canceled_at timestamptz, expires_at timestamptz, at timestamptz
) RETURNS jobs.execution_status
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jobs.is_expired_at(expires_at, coalesce(canceled_at, at))
        THEN 'TIMED_OUT'::jobs.execution_status
    WHEN canceled_at IS NOT NULL THEN 'REJECTED'
    ELSE 'QUEUED'
END;
