-- Returns when a waiting QUEUED execution will be due; see due_at. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.execution_due_at(
    p_tenant_id text, p_job_id text, p_device_id text, p_at timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql STABLE
-- settings: lookup
AS $$
BEGIN
    RETURN (
        SELECT jobs.due_at(
            e.not_before, j.start_windows, coalesce(j.window_time_zone, e.time_zone, 'UTC'), p_at
        )
        FROM jobs.job_executions e
        JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id
    );
END $$;
