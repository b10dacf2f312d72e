-- Checks when a new job starts and the time zone of its start windows.
--
-- Raises START_OUT_OF_RANGE, REPLACEMENT_SCHEDULED and ZONE_NOT_ALLOWED.
CREATE OR REPLACE FUNCTION jobs.check_schedule(
    p_request jsonb,  -- as in jobs.jobs.request
    p_start_at timestamptz,
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF p_start_at > jobs.latest_start(p_now) THEN
        PERFORM jobs.raise_error('START_OUT_OF_RANGE');
    END IF;
    IF p_start_at > p_now AND p_request ? 'replaces_job_id' THEN
        PERFORM jobs.raise_error('REPLACEMENT_SCHEDULED');
    END IF;
    IF p_request ->> 'window_time_zone' <> 'DEVICE'
       AND NOT jobs.is_known_time_zone(p_request ->> 'window_time_zone') THEN
        PERFORM jobs.raise_error('ZONE_NOT_ALLOWED', 'is not known to the database');
    END IF;
END $$;
