-- Returns whether a start window of a job is open, and its next seven openings: {"is_open": true,
-- "next_openings": [849348000000000, …]}. NULL if the windows are in the time zone of each device.
CREATE OR REPLACE FUNCTION jobs.window_state(
    p_start_windows integer[], p_window_time_zone text  -- as in job_states
) RETURNS json
LANGUAGE plpgsql STABLE STRICT
AS $$
DECLARE
    v_now timestamptz := jobs.read_time();
BEGIN
    IF p_window_time_zone = 'DEVICE' THEN
        RETURN NULL;
    END IF;
    RETURN json_build_object(
        'is_open', jobs.is_window_open(p_start_windows, p_window_time_zone, v_now),
        'next_openings', ARRAY(
            SELECT jobs.pg_micros(o)
            FROM unnest(jobs.next_openings(p_start_windows, p_window_time_zone, v_now, 7)) AS o
        )
    );
END $$;
