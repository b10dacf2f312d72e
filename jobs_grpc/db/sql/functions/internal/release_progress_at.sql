-- Returns how many executions of a job are released at the time `at`, with the fraction of the next
-- release: 2.5 is halfway between the second and the third. NULL without a rollout, except before the
-- start, see released_count_at.
--
-- In PL/pgSQL, so that PostgreSQL does not inline it: only jobs with a rate need the result, but each
-- call of a function that reads jobs or executions would set up the expression.
CREATE OR REPLACE FUNCTION jobs.release_progress_at(
    release jobs.release, at timestamptz
) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    v_at timestamptz := least(at, release.paused_at);
BEGIN
    RETURN CASE
        WHEN v_at < release.since THEN coalesce(release.base, 0)
        WHEN release.rate IS NULL THEN release.last_rank
        ELSE least(
            release.last_rank,
            release.base + extract(epoch FROM v_at - release.since) * release.rate / 60
        )
    END;
END $$;
