-- Adds the type of the release of a job, so that functions take it as one value: see the view jobs_with_release.
CREATE TYPE jobs.release AS (
    last_rank integer,     -- up to which the stages are open; NULL: the job has no rollout
    base      integer,     -- the number of executions that are released at `since`
    rate      integer,     -- per minute; NULL: all up to last_rank at once
    since     timestamptz, -- not before the job starts; NULL: neither a rollout nor a start time
    paused_at timestamptz  -- NULL: not paused
);
