-- depends on: execution_status_at, is_held_at
-- Returns whether a device sees an execution as pending at the time `at`: it can start it, or has
-- started it.
CREATE OR REPLACE FUNCTION jobs.is_pending_at(
    status jobs.execution_status,
    canceled_at timestamptz,
    force_canceled boolean,
    expires_at timestamptz,
    paused_at timestamptz,
    rank integer,
    release_end integer,
    release_base integer,
    release_rate integer,
    release_since timestamptz,
    at timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jobs.execution_status_at(status, canceled_at, force_canceled, expires_at, at)
           IN ('QUEUED', 'IN_PROGRESS')
       AND (status = 'IN_PROGRESS'
            OR paused_at IS NULL
               AND NOT jobs.is_held_at(
                       rank, release_end, release_base, release_rate, release_since, NULL, at
                   ));
