-- Returns executions of devices that readers see as QUEUED or HELD: the first p_limit, in the order of
-- the devices and then of their queues. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.queued_executions(
    p_tenant_id text, p_device_ids text[], p_limit integer
) RETURNS TABLE (job_id text, device_id text)
LANGUAGE plpgsql STABLE
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.job_id, u.device_id
    FROM unnest(p_device_ids) AS u (device_id)
    CROSS JOIN LATERAL (
        SELECT e.job_id
        FROM jobs.job_executions e
        CROSS JOIN LATERAL (
            SELECT j.canceled_at, j.expires_at, j.deleted_at
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = e.job_id
            OFFSET 0
        ) j
        WHERE e.tenant_id = p_tenant_id AND e.device_id = u.device_id
          AND CASE WHEN e.end_cause IS NULL THEN 0 ELSE 1 END = 0  -- this and the next: as in pending_executions
          AND e.status IN ('QUEUED', 'IN_PROGRESS')
          AND e.started_at IS NULL
          AND j.deleted_at IS NULL
          AND jobs.queued_status_at(j.canceled_at, j.expires_at, jobs.now()) = 'QUEUED'
        ORDER BY e.queue_order, e.queued_at, e.job_id
        LIMIT p_limit
    ) e
    LIMIT p_limit;
END $$;
