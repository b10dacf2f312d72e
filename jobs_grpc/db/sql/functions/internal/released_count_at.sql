-- depends on: release_progress_at
-- Returns how many executions of a job are released at the time `at`: those with a rank up to this
-- number; 0 before the job starts. NULL without a rollout, except before the start. It never falls while
-- the job is not changed, and each change starts at the number released so far, so an execution that was
-- released stays released.
CREATE OR REPLACE FUNCTION jobs.released_count_at(
    release_end integer,
    release_base integer,
    release_rate integer,        -- per minute; NULL: all up to release_end
    release_since timestamptz,   -- not before the job starts; NULL: neither a rollout nor a start time
    paused_at timestamptz,       -- NULL: not paused
    at timestamptz
) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN least(at, paused_at) < release_since THEN coalesce(release_base, 0)
    WHEN release_rate IS NULL THEN release_end
    ELSE floor(
        jobs.release_progress_at(
            release_end, release_base, release_rate, release_since, paused_at, at
        )
    )::integer
END;
