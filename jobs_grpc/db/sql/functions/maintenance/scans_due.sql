-- Finds continuous jobs whose full scan begins or continues, the longest due first: see jobs_to_finalize.
CREATE OR REPLACE FUNCTION jobs.scans_due(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[]
) RETURNS TABLE (tenant_id text, job_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index continuous_jobs_by_scan_due_at delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, c.job_id, c.scan_due_at
    FROM jobs.continuous_jobs c
    -- The lower bound: see jobs_to_purge.
    WHERE c.scan_due_at > '-infinity' AND c.scan_due_at <= jobs.now()
      AND (c.tenant_id, c.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    ORDER BY c.scan_due_at
    LIMIT p_limit;
END $$;
