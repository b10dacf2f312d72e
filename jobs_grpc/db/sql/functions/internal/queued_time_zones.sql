-- Returns the time zones in which the start windows of a job open for its QUEUED executions: that of the job,
-- or those of the devices, for which it reads all QUEUED executions. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.queued_time_zones(p_tenant_id text, p_job_id text) RETURNS text[]
LANGUAGE plpgsql STABLE
-- settings: index
AS $$
DECLARE
    v_zone text;
BEGIN
    SELECT j.window_time_zone INTO v_zone
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_zone IS NOT NULL THEN
        RETURN ARRAY[v_zone];
    END IF;
    RETURN ARRAY(
        SELECT DISTINCT coalesce(e.time_zone, 'UTC')
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED'
    );
END $$;
