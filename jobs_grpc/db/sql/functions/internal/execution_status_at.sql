-- depends on: queued_status_at
-- What an execution is at a moment, whatever is stored of it. A forced cancel ends those
-- at work, too.
CREATE OR REPLACE FUNCTION jobs.execution_status_at(
    status jobs.execution_status,
    canceled_at timestamptz,
    force_canceled boolean,
    expires_at timestamptz,
    at timestamptz
) RETURNS jobs.execution_status
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'QUEUED' THEN jobs.queued_status_at(canceled_at, expires_at, at)
    WHEN status = 'IN_PROGRESS' AND force_canceled THEN 'REJECTED'
    ELSE status
END;
