-- depends on: end_time
-- Resets the counts of failure criteria to 0: they count the executions that finish after p_now. The
-- number of rows that this writes depends on the numbers of criteria and stages, not of executions. The
-- caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.restart_criteria(
    p_tenant_id text,
    p_job_id text,
    p_now timestamptz,
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

    INSERT INTO jobs.job_criterion_counts
        (tenant_id, job_id, criterion, stage, finished_before)
    SELECT p_tenant_id, p_job_id, c.criterion, f.stage, f.finished
    FROM jobs.job_failure_criteria c
    CROSS JOIN jobs.finished_by_devices(p_tenant_id, p_job_id) f
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
      AND (p_criteria IS NULL OR c.criterion = ANY (p_criteria))
      AND (c.scope = 'STAGE') = (f.stage >= 0);
END $$;
