-- Returns how many executions of a job are released at the time `at`: those with a rank up to this number. It is 0
-- before the job starts, and NULL after the start of a job without a rollout. It never falls while the job is not
-- changed, and each change starts at the number released so far, so an execution that was released stays released.
--
-- Not a standard body: Citus would take the call of release_progress_at for a dependency of jobs.release.
CREATE OR REPLACE FUNCTION jobs.released_count_at(
    release jobs.release, at timestamptz
) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN (release).since IS NULL THEN NULL
        WHEN least(at, (release).paused_at) < (release).since THEN coalesce((release).base, 0)
        WHEN (release).rate IS NULL THEN (release).last_rank
        ELSE floor(jobs.release_progress_at(release, at))::integer
    END
$$;
