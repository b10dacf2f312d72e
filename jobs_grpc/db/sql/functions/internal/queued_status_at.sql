-- What an execution stored as QUEUED is at a moment. Of cancel and expiry, the earlier
-- one decided.
CREATE OR REPLACE FUNCTION jobs.queued_status_at(
    canceled_at timestamptz, expires_at timestamptz, at timestamptz
) RETURNS jobs.execution_status
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN expires_at <= coalesce(canceled_at, at) THEN 'TIMED_OUT'::jobs.execution_status
    WHEN canceled_at IS NOT NULL THEN 'REJECTED'
    ELSE 'QUEUED'
END;
