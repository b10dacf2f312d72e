-- Returns the job of a device's next execution: the oldest that is IN_PROGRESS, otherwise the
-- oldest that is QUEUED. NULL: the device has no pending execution. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.next_execution(
    p_tenant_id text, p_device_id text
) RETURNS text
-- Not LANGUAGE sql: before PostgreSQL 18, such a function is planned on every call.
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    -- The stored status selects the partial index; the derived status excludes executions of
    -- canceled and expired jobs.
    RETURN (
        SELECT s.job_id
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
          AND s.stored_status IN ('QUEUED', 'IN_PROGRESS')
          AND s.status IN ('QUEUED', 'IN_PROGRESS')
        ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
        LIMIT 1
    );
END $$;
