-- Resets the counts of failure criteria to 0: they count the executions that finish after p_now. The
-- number of rows that this writes depends on the numbers of criteria and stages, not of executions. The
-- caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.restart_criteria(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_criteria smallint[] DEFAULT NULL  -- NULL: all
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    -- All failures until now are before it, also those that end_time has moved.
    v_counts_since timestamptz := jobs.end_time(p_tenant_id, ARRAY[p_job_id], p_now);
BEGIN
    UPDATE jobs.job_failure_criteria c
    SET counts_since = v_counts_since
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
      AND (p_criteria IS NULL OR c.criterion = ANY (p_criteria));

    DELETE FROM jobs.job_criterion_counts n
    WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id
      AND (p_criteria IS NULL OR n.criterion = ANY (p_criteria));

    -- Before the restart: the executions that SUCCEEDED or failed, of the job or of each stage.
    INSERT INTO jobs.job_criterion_counts
        (tenant_id, job_id, criterion, stage, finished_before)
    SELECT p_tenant_id, p_job_id, c.criterion, f.stage, f.finished
    FROM jobs.job_failure_criteria c
    CROSS JOIN (
        SELECT -1::smallint AS stage, p.succeeded + (
                   SELECT coalesce(sum(f.executions), 0)::integer
                   FROM jobs.job_failures f
                   WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
               ) AS finished
        FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        UNION ALL
        SELECT s.stage, s.succeeded + s.failures
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
    ) f
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
      AND (p_criteria IS NULL OR c.criterion = ANY (p_criteria))
      AND (c.scope = 'STAGE') = (f.stage >= 0);
END $$;
