-- Finds deleted jobs, in any order: at most p_limit. Excludes the jobs with tenant_id in
-- p_skip_tenant_ids and job_id in p_skip_job_ids (parallel arrays). due_at is when the job was
-- deleted.

-- The previous version returned fewer columns.
DROP FUNCTION IF EXISTS jobs.jobs_to_purge(integer, text[], text[]);

CREATE OR REPLACE FUNCTION jobs.jobs_to_purge(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[]
) RETURNS TABLE (tenant_id text, job_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
-- Only the index jobs_to_purge is left. There is no ORDER BY, because the primary key, which has
-- all jobs, could deliver the order of that index too.
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT j.tenant_id, j.job_id, j.deleted_at
    FROM jobs.jobs j
    WHERE j.deleted_at IS NOT NULL
      AND (j.tenant_id, j.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    LIMIT p_limit;
END $$;
