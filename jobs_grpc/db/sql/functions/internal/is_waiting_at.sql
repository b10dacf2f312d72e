-- depends on: is_window_open
-- Returns whether a QUEUED execution waits at the time `at`: its backoff has not ended, or no start window of
-- its job is open. With a delay, it also waits for the first `delay` seconds after a window opens.
CREATE OR REPLACE FUNCTION jobs.is_waiting_at(
    not_before timestamptz,  -- NULL: no backoff
    windows integer[],       -- as in jobs.jobs; NULL: none
    zone text,
    at timestamptz,
    delay double precision DEFAULT 0
) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN coalesce(not_before > at, false)
    OR windows IS NOT NULL AND NOT jobs.is_window_open(windows, zone, at, delay);
