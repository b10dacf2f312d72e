-- depends on: job_states
-- Returns the jobs with these ids, without executions. Omits ids that don't exist.
CREATE OR REPLACE FUNCTION jobs.get_jobs(
    p_tenant_id text, p_job_ids text[]
) RETURNS SETOF jobs.job_states
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Planning takes longer than these lookups by primary key.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM (SELECT DISTINCT u.job_id FROM unnest(p_job_ids) AS u (job_id)) u
    CROSS JOIN LATERAL (
        SELECT s.*
        FROM jobs.job_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id
        OFFSET 0
    ) s;
END $$;
