-- depends on: is_window_open
-- Returns whether an execution that is QUEUED can't start at the time `at`, because its backoff has not
-- ended or no start window of its job is open. False without both. With a delay, it also waits for so many
-- seconds after a window opens.
CREATE OR REPLACE FUNCTION jobs.is_waiting_at(
    not_before timestamptz,
    windows integer[],
    zone text,
    at timestamptz,
    delay double precision DEFAULT 0
) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN coalesce(not_before > at, false)
    OR windows IS NOT NULL AND NOT jobs.is_window_open(windows, zone, at, delay);
