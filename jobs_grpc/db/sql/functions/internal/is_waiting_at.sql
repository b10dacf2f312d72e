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
-- Most executions have neither, and IS NOT NULL is cheaper than coalesce().
RETURN not_before IS NOT NULL AND not_before > at
    OR windows IS NOT NULL AND NOT jobs.is_window_open(windows, zone, at, delay);
