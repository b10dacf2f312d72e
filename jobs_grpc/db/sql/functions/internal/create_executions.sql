-- Creates the executions of a job without a rollout, and returns their number. The caller has set the
-- tenant.
CREATE OR REPLACE FUNCTION jobs.create_executions(
    p_tenant_id text, p_job_id text,
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- see target_query
    p_target_device_ids text[],
    p_max_targets integer,
    p_now timestamptz
) RETURNS integer
LANGUAGE plpgsql
-- settings: lookup, merge join, no parallel query, no jit
AS $$
DECLARE
    v_queue_order smallint := jobs.queue_order(p_request ->> 'priority');
    v_executions integer;
BEGIN
    -- In the order of the primary key, which the indexes deliver: another order takes twice as long.
    IF p_request ?| '{target_group_id,target_all}' AND NOT p_request ? 'window_time_zone' THEN
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order)
        SELECT p_tenant_id, p_job_id, m.device_id, p_now, p_now, v_queue_order
        FROM public.device_group_members m
        WHERE m.tenant_id = p_tenant_id AND m.group_id = p_request ->> 'target_group_id'
        UNION ALL
        SELECT p_tenant_id, p_job_id, d.device_id, p_now, p_now, v_queue_order
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id AND p_request ? 'target_all';
    ELSE
        EXECUTE format(
            $query$
            INSERT INTO jobs.job_executions
                (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order, time_zone)
            SELECT $1, $3, t.device_id, $4, $4, $5, %s
            FROM (%s) t
            ORDER BY t.device_id
            $query$,
            CASE WHEN p_request ->> 'window_time_zone' = 'DEVICE' THEN 't.time_zone' ELSE 'NULL' END,
            jobs.target_query(p_tenant_id, p_request, p_selector_terms, p_max_targets)
        ) USING p_tenant_id, p_target_device_ids, p_job_id, p_now, v_queue_order;
    END IF;
    GET DIAGNOSTICS v_executions = ROW_COUNT;
    RETURN v_executions;
END $$;
