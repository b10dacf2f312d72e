-- Returns the time at which the rollout releases a rank if the job is neither paused nor changed: from then
-- on, is_held is false. '-infinity': the rank was never held. NULL: the stage of the rank is not open.
CREATE OR REPLACE FUNCTION jobs.rank_release_time(rank integer, release jobs.release) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rank > (release).last_rank THEN NULL
    WHEN (release).since IS NULL OR rank <= (release).base THEN '-infinity'::timestamptz
    WHEN rank IS NULL OR (release).rate IS NULL THEN (release).since
    -- Rounded up to microseconds: not before the rank is released.
    ELSE (release).since + make_interval(
        secs => ceil((rank - (release).base) * 60000000::numeric / (release).rate) / 1000000
    )
END;
