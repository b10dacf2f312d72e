-- Returns how many executions of a job are released at the time `at`, with the fraction of the next
-- release: 2.5 is halfway between the second and the third. NULL without a rollout, except before the
-- start, see released_count_at.
--
-- In PL/pgSQL, so that PostgreSQL does not inline it: only jobs with a rate need the result, but each
-- call of a function that reads jobs or executions would set up the expression.
CREATE OR REPLACE FUNCTION jobs.release_progress_at(
    release_end integer,
    release_base integer,
    release_rate integer,       -- per minute; NULL: all up to release_end
    release_since timestamptz,
    paused_at timestamptz,      -- NULL: not paused
    at timestamptz
) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN CASE
        WHEN least(at, paused_at) < release_since THEN coalesce(release_base, 0)
        WHEN release_rate IS NULL THEN release_end
        ELSE least(
            release_end,
            release_base
            + extract(epoch FROM least(at, paused_at) - release_since) * release_rate / 60
        )
    END;
END $$;
