-- Adds failures of devices to the counts of their jobs, one for each element of the parallel arrays.
-- The caller holds the job locks and has set the tenant.

-- The previous version had no p_stages.
DROP FUNCTION IF EXISTS jobs.count_failures(text, text[], jobs.execution_status[], text[]);

CREATE OR REPLACE FUNCTION jobs.count_failures(
    p_tenant_id text,
    p_job_ids text[],
    p_statuses jobs.execution_status[],
    p_failure_codes text[],
    p_stages smallint[] DEFAULT NULL  -- NULL, or an element that is NULL: no rollout
) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    INSERT INTO jobs.job_failures AS f (tenant_id, job_id, status, failure_code, executions)
    SELECT p_tenant_id, named.job_id, named.status, named.failure_code, sum(named.executions)
    FROM (
        -- A pair that has no row gets one while the job has fewer than 100.
        SELECT pair.job_id, pair.status, pair.executions,
               CASE WHEN pair.has_row
                         OR max(pair.row_count) OVER (PARTITION BY pair.job_id)
                            + row_number() OVER (
                                PARTITION BY pair.job_id, pair.has_row
                                ORDER BY pair.status, pair.failure_code
                            ) <= 100
                    THEN pair.failure_code ELSE '*' END AS failure_code
        FROM (
            SELECT input.job_id, input.status, input.failure_code, input.executions,
                   EXISTS (
                       SELECT FROM jobs.job_failures k
                       WHERE k.tenant_id = p_tenant_id AND k.job_id = input.job_id
                         AND k.status = input.status AND k.failure_code = input.failure_code
                   ) AS has_row,
                   -- Counts the rows of each job once.
                   CASE WHEN input.is_first THEN (
                       SELECT count(*) FROM jobs.job_failures k
                       WHERE k.tenant_id = p_tenant_id AND k.job_id = input.job_id
                         AND k.failure_code <> '*'
                   ) END AS row_count
            FROM (
                SELECT u.job_id, u.status, u.failure_code, count(*) AS executions,
                       row_number() OVER (PARTITION BY u.job_id) = 1 AS is_first
                FROM unnest(p_job_ids, p_statuses, p_failure_codes)
                    AS u (job_id, status, failure_code)
                GROUP BY u.job_id, u.status, u.failure_code
            ) input
        ) pair
    ) named
    GROUP BY named.job_id, named.status, named.failure_code
    ON CONFLICT (tenant_id, job_id, status, failure_code)
        DO UPDATE SET executions = f.executions + excluded.executions;
END $$;
