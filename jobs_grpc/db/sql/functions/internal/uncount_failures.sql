-- depends on: matches_criterion
-- Subtracts the failures of executions that are about to be retried, those with one of p_statuses,
-- p_failure_codes and p_device_ids, from the counts of their job, its stages and its failure criteria.
-- The caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.uncount_failures(
    p_tenant_id text,
    p_job_id text,
    p_statuses jobs.execution_status[],
    p_failure_codes text[],  -- NULL: all
    p_device_ids text[]      -- NULL: all
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_failure_codes IS NULL AND p_device_ids IS NULL THEN
        UPDATE jobs.job_failures f
        SET executions = 0
        WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id AND f.status = ANY (p_statuses);
    ELSE
        UPDATE jobs.job_failures f
        SET executions = f.executions - retried.executions
        FROM (
            SELECT e.status, coalesce(k.failure_code, '*') AS failure_code,
                   count(*)::integer AS executions
            FROM jobs.job_executions e
            LEFT JOIN jobs.job_failures k
                ON k.tenant_id = p_tenant_id AND k.job_id = p_job_id
                AND k.status = e.status AND k.failure_code = e.failure_code
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.status = ANY (p_statuses) AND e.failure_code IS NOT NULL
              AND jobs.matches_retry(e.failure_code, e.device_id, p_failure_codes, p_device_ids)
            GROUP BY e.status, coalesce(k.failure_code, '*')
        ) retried
        WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
          AND f.status = retried.status AND f.failure_code = retried.failure_code;
    END IF;

    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND (j.open_stage IS NOT NULL OR j.has_failure_criteria);
    IF NOT FOUND THEN
        RETURN;
    END IF;

    UPDATE jobs.job_stages s
    SET failures = s.failures - retried.executions
    FROM (
        SELECT e.stage, count(*)::integer AS executions
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.status = ANY (p_statuses) AND e.failure_code IS NOT NULL
          AND jobs.matches_retry(e.failure_code, e.device_id, p_failure_codes, p_device_ids)
        GROUP BY e.stage
    ) retried
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = retried.stage;

    -- A failure before counts_since is included in finished_before, whether the criterion counts it or
    -- not. The two times are never equal, because both were taken under the job lock. If the clock was
    -- set back, a failure can be subtracted from the wrong count; greatest() keeps counts above 0.
    UPDATE jobs.job_criterion_counts n
    SET failures = greatest(n.failures - retried.failures, 0),
        finished_before = greatest(n.finished_before - retried.finished_before, 0)
    FROM (
        SELECT c.criterion, CASE WHEN c.scope = 'STAGE' THEN e.stage ELSE -1 END AS stage,
               count(*) FILTER (
                   WHERE e.last_updated_at > c.counts_since
                     AND jobs.matches_criterion(e.status, e.failure_code, c.statuses,
                                                c.failure_codes)
               ) AS failures,
               count(*) FILTER (WHERE e.last_updated_at <= c.counts_since) AS finished_before
        FROM jobs.job_executions e
        CROSS JOIN jobs.job_failure_criteria c
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.status = ANY (p_statuses) AND e.failure_code IS NOT NULL
          AND jobs.matches_retry(e.failure_code, e.device_id, p_failure_codes, p_device_ids)
          AND c.tenant_id = p_tenant_id AND c.job_id = p_job_id
        GROUP BY 1, 2
    ) retried
    WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id
      AND n.criterion = retried.criterion AND n.stage = retried.stage;
END $$;
