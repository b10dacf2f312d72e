-- The jobs, each with its release as one value. Not a function of the row, because on Citus the rows of shards have
-- types of their own.
--
-- The planner merges the view with the query, and reads a field of ROW(…) from its column, so both cost nothing. A
-- sub-select with OFFSET 0 or DISTINCT ON would build the value: call released_count_at inside of it instead.
CREATE OR REPLACE VIEW jobs.jobs_with_release WITH (security_invoker = true) AS
SELECT
    ROW(j.release_end, j.release_base, j.release_rate, j.release_since, j.paused_at)::jobs.release
        AS release,
    j.xmin AS row_version,  -- another one after each change of the row: see job_fingerprints
    -- Last, because migrations add columns.
    j.*
FROM jobs.jobs j;
