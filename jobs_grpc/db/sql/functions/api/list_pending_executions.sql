-- depends on: execution_states
-- Returns a device's pending executions: those IN_PROGRESS before those QUEUED, oldest first.
CREATE OR REPLACE FUNCTION jobs.list_pending_executions(
    p_tenant_id text, p_device_id text, p_limit integer
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- The stored status selects the partial index; the derived status excludes executions of
    -- canceled and expired jobs.
    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
      AND s.stored_status IN ('QUEUED', 'IN_PROGRESS')
      AND s.status IN ('QUEUED', 'IN_PROGRESS')
    ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
    LIMIT p_limit;
END $$;
