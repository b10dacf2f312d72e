-- Finds jobs that have been finished for p_days, the oldest first: see jobs_to_finalize. due_at is the end of the
-- retention.
CREATE OR REPLACE FUNCTION jobs.jobs_past_retention(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[], p_days integer
) RETURNS TABLE (tenant_id text, job_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index jobs_finished_by_updated_at delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
DECLARE
    v_retention interval := make_interval(days => p_days);
    v_until timestamptz := jobs.now() - v_retention;
BEGIN
    RETURN QUERY
    SELECT j.tenant_id, j.job_id, j.updated_at + v_retention
    FROM jobs.jobs j
    WHERE j.status <> 'IN_PROGRESS' AND j.deleted_at IS NULL AND j.updated_at < v_until
      AND (j.tenant_id, j.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    ORDER BY j.updated_at
    LIMIT p_limit;
END $$;
