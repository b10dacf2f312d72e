-- Counts the devices that have not started the replaced job, as the JSON of ReplacedDevices: how many there are, how
-- many are in each stage of the new job, and how many are not in the new job. NULL: the replaced job is finished. The
-- caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.preview_replacement(
    p_tenant_id text,
    p_job_id text,           -- the new job
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- see target_query
    p_target_device_ids text[],
    p_max_targets integer
) RETURNS jsonb
LANGUAGE plpgsql STABLE
-- settings: index, merge join, no parallel query, no jit
AS $$
DECLARE
    v_status text;
    v_queued integer;
    v_stages integer[];  -- parallel to v_devices; the stage is NULL for devices that are not in the new job
    v_devices integer[];
BEGIN
    SELECT s.status, s.queued + s.held INTO v_status, v_queued
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_request ->> 'replaces_job_id';
    IF coalesce(v_status IN ('COMPLETED', 'CANCELED'), true) THEN
        RETURN NULL;
    END IF;

    IF v_queued > 0 THEN
        EXECUTE jobs.staged_targets(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_max_targets
        ) || $query$
            SELECT array_agg(c.stage), array_agg(c.devices)
            FROM (
                SELECT s.stage, count(*) AS devices
                FROM (
                    SELECT e.device_id
                    FROM jobs.job_executions e
                    WHERE e.tenant_id = $1 AND e.job_id = $3 AND e.status = 'QUEUED'
                ) e
                LEFT JOIN staged s ON s.device_id COLLATE "C" = e.device_id
                GROUP BY s.stage
            ) c
            $query$
        INTO v_stages, v_devices
        USING p_tenant_id, p_target_device_ids, p_request ->> 'replaces_job_id';
    END IF;
    RETURN jsonb_build_object(
        'device_count', (SELECT coalesce(sum(d), 0) FROM unnest(v_devices) AS d),
        'stage_counts', (
            SELECT coalesce(jsonb_agg(coalesce(v_devices[array_position(v_stages, n - 1)], 0) ORDER BY n), '[]')
            FROM generate_series(1, jsonb_array_length(p_request -> 'rollout' -> 'stages')) AS n
        ),
        'untargeted_count', coalesce(v_devices[array_position(v_stages, NULL)], 0)
    );
END $$;
