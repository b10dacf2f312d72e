-- Returns the first p_limit devices that match the target of a continuous job and can join it, in the order of
-- device_id: they have no execution of the job, or one that ended because the device was deleted before it started.
-- The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.joinable_devices(
    p_tenant_id text, p_job_id text,
    p_terms jsonb,              -- of the target
    p_has_device_zones boolean,
    p_device_ids text[],        -- this and the next two: see join_devices
    p_after text,
    p_last text,
    p_limit integer
) RETURNS TABLE (
    device_id text,
    time_zone text,             -- for the execution; NULL without p_has_device_zones
    has_execution boolean
)
LANGUAGE plpgsql
-- settings: index, merge join, no parallel query, no jit
AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        $query$
        SELECT t.device_id, %1$s, e.device_id IS NOT NULL
        FROM (%2$s) t
        LEFT JOIN %3$s e ON %4$s
        WHERE e.device_id IS NULL OR e.status = 'REJECTED' AND e.end_cause = 'DEVICE_DELETED'
        ORDER BY t.device_id
        LIMIT $4
        $query$,
        CASE WHEN p_has_device_zones THEN 't.time_zone' ELSE 'NULL::text' END,
        jobs.target_query(
            p_tenant_id,
            jsonb_build_object('target_selector', 'target')
            || CASE WHEN p_device_ids IS NULL
                    THEN jsonb_build_object('target_range', jsonb_build_array(p_after, p_last))
                    ELSE '{"target_device_ids": {}}' END
            || CASE WHEN p_has_device_zones THEN '{"window_time_zone": "DEVICE"}' ELSE '{}' END::jsonb,
            jsonb_build_object('target', p_terms), 10000000
        ),
        CASE WHEN p_device_ids IS NULL THEN 'jobs.job_executions' ELSE
            'LATERAL (SELECT e.device_id, e.status, e.end_cause FROM jobs.job_executions e'
            ' WHERE e.tenant_id = $1 AND e.job_id = $3 AND e.device_id = t.device_id OFFSET 0)' END,
        CASE WHEN p_device_ids IS NULL THEN
            'e.tenant_id = $1 AND e.job_id = $3 AND e.device_id = t.device_id'
            || jobs.range_condition('e.device_id', jsonb_build_array(p_after, p_last))
        ELSE 'true' END
    ) USING p_tenant_id, p_device_ids, p_job_id, p_limit;
END $$;
