-- Returns up to 20 jobs, other than p_job_id, by job_id, with pending executions on these devices. The
-- caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.overlapping_jobs(
    p_tenant_id text, p_job_id text, p_device_ids text[]
) RETURNS text[]
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
    RETURN ARRAY(
        SELECT DISTINCT e.job_id
        FROM unnest(p_device_ids) AS d (device_id)
        CROSS JOIN LATERAL (
            SELECT e.job_id
            FROM jobs.pending_executions e
            WHERE e.tenant_id = p_tenant_id AND e.device_id = d.device_id
              AND e.job_id IS DISTINCT FROM p_job_id
            ORDER BY e.is_queued, e.queue_order, e.queued_at, e.job_id
            LIMIT 20
        ) e
        ORDER BY e.job_id
        LIMIT 20
    );
END $$;
