-- Returns the time at which the rollout releases a rank if the job is neither paused nor changed: from then
-- on, is_held_at is false. '-infinity': the rank was never held. NULL: the stage of the rank is not open.
CREATE OR REPLACE FUNCTION jobs.rank_release_time(
    rank integer,
    release_end integer,
    release_base integer,
    release_rate integer,
    release_since timestamptz
) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rank > release_end THEN NULL
    WHEN release_since IS NULL OR rank <= release_base THEN '-infinity'::timestamptz
    WHEN rank IS NULL OR release_rate IS NULL THEN release_since
    -- Rounded up to microseconds: not before the rank is released.
    ELSE release_since + make_interval(
        secs => ceil((rank - release_base) * 60000000::numeric / release_rate) / 1000000
    )
END;
