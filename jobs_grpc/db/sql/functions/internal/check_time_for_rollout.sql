-- Raises EXPIRY_TOO_EARLY unless the last device can start before the job expires. The facts of the error are
-- both numbers of seconds, the first five stages that take time, the number of such stages, and
-- p_is_scheduled.
CREATE OR REPLACE FUNCTION jobs.check_time_for_rollout(
    p_minimum_time jsonb,    -- see minimum_rollout_time
    p_seconds_left numeric,  -- until the job expires, from now or from its start; NULL: it never does
    p_is_scheduled boolean   -- the job has not started
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF (p_minimum_time ->> 'seconds')::numeric >= p_seconds_left THEN
        PERFORM jobs.raise_error(
            'EXPIRY_TOO_EARLY',
            '',
            jsonb_build_object(
                'seconds', p_minimum_time -> 'seconds',
                'seconds_left', p_seconds_left,
                'stages', jsonb_path_query_array(p_minimum_time, '$.stages[0 to 4]'),
                'stage_count', jsonb_array_length(p_minimum_time -> 'stages'),
                'is_scheduled', p_is_scheduled
            )
        );
    END IF;
END $$;
