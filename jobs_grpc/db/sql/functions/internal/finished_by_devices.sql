-- Returns, for a job and for each of its stages, the number of executions that devices have finished:
-- SUCCEEDED, or failed with a failure_code. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.finished_by_devices(
    p_tenant_id text, p_job_id text
) RETURNS TABLE (
    stage smallint,  -- -1: of the whole job
    finished integer
)
LANGUAGE plpgsql STABLE
-- settings: lookup
AS $$
BEGIN
    RETURN QUERY
    SELECT -1::smallint, p.succeeded + (
               SELECT coalesce(sum(f.executions), 0)::integer
               FROM jobs.job_failures f
               WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
           )
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    UNION ALL
    SELECT s.stage, s.succeeded + s.failures
    FROM jobs.job_stages s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
