-- depends on: execution_status_at
-- Returns whether a device sees an execution as pending at the time `at`: it can start it, or has
-- started it.
CREATE OR REPLACE FUNCTION jobs.is_pending_at(
    status jobs.execution_status,
    canceled_at timestamptz,
    force_canceled boolean,
    expires_at timestamptz,
    paused_at timestamptz,
    at timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jobs.execution_status_at(status, canceled_at, force_canceled, expires_at, at)
           IN ('QUEUED', 'IN_PROGRESS')
       AND (status = 'IN_PROGRESS' OR paused_at IS NULL);
