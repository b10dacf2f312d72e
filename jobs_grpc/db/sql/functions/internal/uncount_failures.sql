-- Takes the failures of executions that are about to be retried out of the counts of their job: of
-- those with one of p_statuses, p_failure_codes and p_device_ids. The caller holds the job lock and
-- has set the tenant.
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
        RETURN;
    END IF;

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
          AND (p_failure_codes IS NULL OR e.failure_code = ANY (p_failure_codes))
          AND (p_device_ids IS NULL OR e.device_id = ANY (p_device_ids))
        GROUP BY e.status, coalesce(k.failure_code, '*')
    ) retried
    WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
      AND f.status = retried.status AND f.failure_code = retried.failure_code;
END $$;
