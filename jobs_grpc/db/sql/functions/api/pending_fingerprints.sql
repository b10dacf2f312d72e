-- Returns a fingerprint for each device: a text that changes when the device's pending executions
-- change. It covers the first 101, which is one more than a response can hold.
CREATE OR REPLACE FUNCTION jobs.pending_fingerprints(
    p_tenant_id text, p_device_ids text[]
) RETURNS TABLE (device_id text, fingerprint text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Planning takes longer than reading a few rows of an index.
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT d.device_id, p.fingerprint
    FROM unnest(p_device_ids) AS d (device_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(string_agg(e.job_id || ' ' || e.version, ',' ORDER BY e.job_id), '')
            AS fingerprint
        FROM (
            SELECT s.job_id, s.version
            FROM jobs.execution_states s
            WHERE s.tenant_id = p_tenant_id AND s.device_id = d.device_id
              AND s.stored_status IN ('QUEUED', 'IN_PROGRESS')
              AND s.status IN ('QUEUED', 'IN_PROGRESS')
            ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
            LIMIT 101
        ) e
    ) p;
END $$;
