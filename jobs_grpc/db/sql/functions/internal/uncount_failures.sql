-- depends on: matches_criterion
-- Subtracts failures that do not count anymore from the counts of their job, its stages and its failure
-- criteria. The arrays are parallel, with one element per device. The caller holds the job lock and has
-- set the tenant.
CREATE OR REPLACE FUNCTION jobs.uncount_failures(
    p_tenant_id text,
    p_job_id text,
    p_statuses jobs.execution_status[],
    p_failure_codes text[],
    p_stages smallint[],  -- NULL elements: no rollout
    p_failed_ats timestamptz[]
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE jobs.job_failures f
    SET executions = f.executions - uncounted.executions
    FROM (
        SELECT u.status, coalesce(k.failure_code, '*') AS failure_code,
               sum(u.executions)::integer AS executions
        FROM (
            SELECT u.status, u.failure_code, count(*) AS executions
            FROM unnest(p_statuses, p_failure_codes) AS u (status, failure_code)
            GROUP BY u.status, u.failure_code
        ) u
        LEFT JOIN LATERAL (
            SELECT k.failure_code
            FROM jobs.job_failures k
            WHERE k.tenant_id = p_tenant_id AND k.job_id = p_job_id
              AND k.status = u.status AND k.failure_code = u.failure_code
            OFFSET 0
        ) k ON true
        GROUP BY u.status, coalesce(k.failure_code, '*')
    ) uncounted
    WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
      AND f.status = uncounted.status AND f.failure_code = uncounted.failure_code;

    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND (j.open_stage IS NOT NULL OR j.has_failure_criteria);
    IF NOT FOUND THEN
        RETURN;
    END IF;

    UPDATE jobs.job_stages s
    SET failures = s.failures - uncounted.executions
    FROM (
        SELECT u.stage, count(*)::integer AS executions
        FROM unnest(p_stages) AS u (stage)
        GROUP BY u.stage
    ) uncounted
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = uncounted.stage;

    -- A failure before counts_since is included in finished_before, whether the criterion counts it or
    -- not. The two times are never equal, because both were taken under the job lock. If the clock was
    -- set back, a failure can be subtracted from the wrong count; greatest() keeps counts above 0.
    UPDATE jobs.job_criterion_counts n
    SET failures = greatest(n.failures - uncounted.failures, 0),
        finished_before = greatest(n.finished_before - uncounted.finished_before, 0)
    FROM (
        SELECT c.criterion, CASE WHEN c.scope = 'STAGE' THEN u.stage ELSE -1 END AS stage,
               count(*) FILTER (
                   WHERE u.failed_at > c.counts_since
                     AND jobs.matches_criterion(u.status, u.failure_code, c.statuses,
                                                c.failure_codes)
               ) AS failures,
               count(*) FILTER (WHERE u.failed_at <= c.counts_since) AS finished_before
        FROM unnest(p_statuses, p_failure_codes, p_stages, p_failed_ats)
            AS u (status, failure_code, stage, failed_at)
        CROSS JOIN jobs.job_failure_criteria c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
        GROUP BY 1, 2
    ) uncounted
    WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id
      AND n.criterion = uncounted.criterion AND n.stage = uncounted.stage;
END $$;
