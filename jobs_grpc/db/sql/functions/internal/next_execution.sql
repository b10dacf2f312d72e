-- The job that a device is to go on with, or to start: what it is IN_PROGRESS with, or else
-- the oldest that is QUEUED. NULL: none. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.next_execution(
    p_tenant_id text, p_device_id text
) RETURNS text
-- Before PostgreSQL 18 a function of the language sql is planned at each call.
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    -- The stored status finds the index, the derived one leaves out dead jobs.
    RETURN (
        SELECT s.job_id
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
          AND s.stored_pending AND s.status IN ('QUEUED', 'IN_PROGRESS')
        ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
        LIMIT 1
    );
END $$;
