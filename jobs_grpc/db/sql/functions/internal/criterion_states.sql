-- Returns what the failure criteria of a job have counted, one row per criterion, or per criterion and
-- stage with the scope STAGE. p_at decides how many executions are released. The caller has set the
-- tenant.
CREATE OR REPLACE FUNCTION jobs.criterion_states(
    p_tenant_id text, p_job_id text, p_at timestamptz,
    p_stages smallint[]  -- of the criteria with the scope STAGE, with duplicates; NULL: all
) RETURNS TABLE (
    criterion smallint,
    stage smallint,      -- -1: the scope is JOB
    failures integer,    -- that the criterion counts
    finished integer,    -- executions that devices have finished, as min_finished counts
    basis_size bigint,   -- how many executions are 100 percent; 0: the threshold is a count
    threshold bigint     -- the number of failures at which it trips; NULL while basis_size is 0
)
LANGUAGE plpgsql STABLE
-- settings: lookup, nested loops
AS $$
BEGIN
    RETURN QUERY
    SELECT c.criterion, counted.stage, coalesce(n.failures, 0), sizes.finished, basis.size,
           CASE WHEN c.percent IS NULL THEN c.count
                -- Rounded up.
                WHEN basis.size > 0 THEN (c.percent * basis.size + 99) / 100 END::bigint
    FROM (
        SELECT p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected
                   AS total,
               jobs.released_count_at(j.release, p_at) AS released,
               p.succeeded + (
                   SELECT coalesce(sum(f.executions), 0)::integer
                   FROM jobs.job_failures f
                   WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
               ) AS finished
        FROM jobs.jobs_with_release j
        JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
        OFFSET 0  -- computed once
    ) job
    CROSS JOIN (
        SELECT (-1)::smallint AS stage, NULL::integer AS first_rank, NULL::integer AS last_rank,
               NULL::integer AS finished
        UNION ALL
        SELECT s.stage, s.first_rank, s.last_rank, s.succeeded + s.failures
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND p_stages IS NULL
        UNION ALL
        SELECT s.stage, s.first_rank, s.last_rank, s.succeeded + s.failures
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = ANY (p_stages)
    ) counted
    JOIN jobs.job_failure_criteria c
        ON c.tenant_id = p_tenant_id AND c.job_id = p_job_id
        AND (c.scope = 'STAGE') = (counted.stage >= 0)
    LEFT JOIN LATERAL (
        SELECT n.failures, n.finished_before
        FROM jobs.job_criterion_counts n
        WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id AND n.criterion = c.criterion
          AND n.stage = counted.stage
        OFFSET 0
    ) n ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(counted.finished, job.finished) - coalesce(n.finished_before, 0) AS finished,
               coalesce(counted.last_rank - counted.first_rank + 1, job.total) AS targeted,
               CASE WHEN job.released IS NULL THEN job.total
                    WHEN counted.stage = -1 THEN job.released
                    ELSE greatest(
                        least(job.released, counted.last_rank) - counted.first_rank + 1, 0
                    )
               END AS released
    ) sizes
    CROSS JOIN LATERAL (
        SELECT CASE WHEN c.percent IS NULL THEN 0
                    WHEN c.basis = 'TARGETED' THEN sizes.targeted
                    WHEN c.basis = 'RELEASED' THEN sizes.released
                    ELSE sizes.finished END::bigint AS size
    ) basis;
END $$;
