-- Finds deleted jobs, the oldest deletion first: see jobs_to_finalize. due_at is when the job was deleted.
CREATE OR REPLACE FUNCTION jobs.jobs_to_purge(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[]
) RETURNS TABLE (tenant_id text, job_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index jobs_by_deleted_at delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT j.tenant_id, j.job_id, j.deleted_at
    FROM jobs.jobs j
    -- The lower bound matters on Citus, where the settings of this function do not reach the shards:
    -- without statistics, the planner expects that a range has few rows, so it uses the index.
    WHERE j.deleted_at > '-infinity' AND j.deleted_at <= jobs.now()
      AND (j.tenant_id, j.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    ORDER BY j.deleted_at
    LIMIT p_limit;
END $$;
