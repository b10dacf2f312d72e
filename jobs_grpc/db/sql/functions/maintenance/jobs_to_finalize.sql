-- Finds canceled and expired jobs that are not finalized, the oldest first: at most p_limit.
-- Excludes the jobs with tenant_id in p_skip_tenant_ids and job_id in p_skip_job_ids (parallel
-- arrays). due_at is when the job was canceled or expired.
CREATE OR REPLACE FUNCTION jobs.jobs_to_finalize(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[]
) RETURNS TABLE (tenant_id text, job_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index jobs_to_finalize delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT j.tenant_id, j.job_id, coalesce(j.canceled_at, j.expires_at)
    FROM jobs.jobs j
    WHERE NOT j.finalized AND j.deleted_at IS NULL
      AND coalesce(j.canceled_at, j.expires_at) <= jobs.now()
      AND (j.tenant_id, j.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    ORDER BY coalesce(j.canceled_at, j.expires_at)
    LIMIT p_limit;
END $$;
