-- Returns the failures of a job by status and failure_code, the most frequent first, each with the
-- first few devices. The code '*' stands for all pairs that have no count of their own.
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.get_failure_summary(
    p_tenant_id text, p_job_id text,
    p_statuses text[],      -- NULL: all
    p_failure_codes text[]  -- NULL: all; does not apply to '*'
) RETURNS TABLE (status text, failure_code text, executions integer, device_ids text[])
LANGUAGE plpgsql STABLE
-- Only the index job_executions_by_failure_code delivers the order of the devices.
-- settings: tenant, page
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;

    RETURN QUERY
    SELECT f.status::text, f.failure_code, f.executions, sample.device_ids
    FROM jobs.job_failures f
    CROSS JOIN LATERAL (
        SELECT array_agg(few.device_id) AS device_ids
        FROM (
            SELECT e.device_id
            FROM (
                -- The limit bounds what is read if the code is mostly that of another status.
                SELECT e.device_id, e.status
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                  AND e.failure_code >= f.failure_code AND e.failure_code <= f.failure_code
                ORDER BY e.failure_code, e.device_id
                LIMIT 100
            ) e
            WHERE e.status = f.status
            LIMIT 5
        ) few
    ) sample
    WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id AND f.executions > 0
      AND (p_statuses IS NULL OR f.status::text = ANY (p_statuses))
      AND (p_failure_codes IS NULL OR f.failure_code = '*'
           OR f.failure_code = ANY (p_failure_codes))
    ORDER BY f.executions DESC, f.status, f.failure_code;
END $$;
