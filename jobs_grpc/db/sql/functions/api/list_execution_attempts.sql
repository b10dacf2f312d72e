-- Returns at most p_limit attempts of one device's execution of a job, newest first.
--
-- Raises EXECUTION_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.list_execution_attempts(
    p_tenant_id text, p_job_id text, p_device_id text, p_limit integer
) RETURNS TABLE (
    device_id text,
    status text,
    status_details jsonb,
    execution_number integer,
    queued_at timestamptz,
    started_at timestamptz,
    last_updated_at timestamptz,
    times_out_at timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    WITH current AS (
        SELECT s.device_id, s.status, s.status_details, s.execution_number, s.queued_at,
               s.started_at, s.last_updated_at, s.times_out_at
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id
    )
    SELECT * FROM current
    UNION ALL
    SELECT a.device_id, a.status::text, a.status_details, a.execution_number, a.queued_at,
           a.started_at, a.last_updated_at, NULL
    FROM jobs.execution_attempts a
    WHERE a.tenant_id = p_tenant_id AND a.job_id = p_job_id AND a.device_id = p_device_id
      AND EXISTS (SELECT FROM current)
    ORDER BY execution_number DESC
    LIMIT p_limit;

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('EXECUTION_NOT_FOUND');
    END IF;
END $$;
