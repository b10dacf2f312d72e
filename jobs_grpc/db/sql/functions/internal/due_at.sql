-- Returns when a QUEUED execution is due: the first time from `at` on at which is_waiting_at is false.
CREATE OR REPLACE FUNCTION jobs.due_at(
    not_before timestamptz,
    windows integer[],
    zone text,
    at timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    v_at timestamptz := greatest(at, not_before);  -- ignores NULL
BEGIN
    IF windows IS NULL OR jobs.is_window_open(windows, zone, v_at) THEN
        RETURN v_at;
    END IF;
    RETURN (jobs.next_openings(windows, zone, v_at, 1))[1];
END $$;
