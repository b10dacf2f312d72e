-- Finds jobs whose stage_due_at has passed, the oldest first: see jobs_to_finalize. due_at is stage_due_at.
CREATE OR REPLACE FUNCTION jobs.stages_due(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[]
) RETURNS TABLE (tenant_id text, job_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index jobs_by_stage_due_at delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT j.tenant_id, j.job_id, j.stage_due_at
    FROM jobs.jobs j
    WHERE j.stage_due_at IS NOT NULL AND j.paused_at IS NULL AND j.status = 'IN_PROGRESS'
      AND j.deleted_at IS NULL AND j.stage_due_at <= jobs.now()
      AND (j.tenant_id, j.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    ORDER BY j.stage_due_at
    LIMIT p_limit;
END $$;
