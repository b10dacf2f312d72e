-- Returns one device's execution of a job, unless it is HELD: devices do not see those.
--
-- Raises EXECUTION_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.get_execution(
    p_tenant_id text, p_device_id text, p_job_id text
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql STABLE
-- settings: tenant, index
AS $$
BEGIN
    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id
      AND s.status <> 'HELD';

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('EXECUTION_NOT_FOUND');
    END IF;
END $$;
