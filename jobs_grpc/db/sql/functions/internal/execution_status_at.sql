-- Returns the status of an execution as readers see it at the time `at`, given its stored
-- status and its job. A forced cancel also ends executions that are IN_PROGRESS.
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
