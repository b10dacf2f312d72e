-- Returns a device, and in further rows the first p_limit executions of its queue, in its order: those
-- IN_PROGRESS, then those QUEUED, including those that wait (see is_waiting_at). The first row has no job_id:
-- its time_zone is that of the device. The others have no labels, group_ids, facts and times of the device.
--
-- Raises DEVICE_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.get_device(
    p_tenant_id text, p_device_id text, p_limit integer
) RETURNS TABLE (
    labels jsonb,
    group_ids text[],   -- in order, at most 1,000
    last_seen_at timestamptz,
    facts jsonb,
    facts_updated_at timestamptz,
    job_id text,
    /* for each FIELD: FIELD TYPE */
)
LANGUAGE plpgsql STABLE  -- see set_read_time
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: tenant, page
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobs.set_read_time(jobs.clock_time());

    PERFORM FROM public.device_state d
    WHERE d.tenant_id = p_tenant_id AND d.device_id = p_device_id;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('DEVICE_NOT_FOUND');
    END IF;

    SELECT d.labels, d.time_zone, d.last_seen_at INTO labels, time_zone, last_seen_at
    FROM jobs.devices d
    WHERE d.tenant_id = p_tenant_id AND d.device_id = p_device_id;
    labels := coalesce(labels, '{}');
    SELECT f.facts, f.facts_updated_at INTO facts, facts_updated_at
    FROM jobs.device_facts f
    WHERE f.tenant_id = p_tenant_id AND f.device_id = p_device_id;
    facts := coalesce(facts, '{}');
    device_id := p_device_id;
    group_ids := jobs.device_groups(p_tenant_id, p_device_id, 1000);
    RETURN NEXT;

    RETURN QUERY
    SELECT NULL::jsonb, NULL::text[], NULL::timestamptz, NULL::jsonb, NULL::timestamptz,
           s.job_id, /* for each FIELD: s.FIELD */
    FROM (
        SELECT q.is_queued, q.queue_order, q.queued_at, q.job_id
        FROM jobs.pending_executions q
        WHERE q.tenant_id = p_tenant_id AND q.device_id = p_device_id
        ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
        LIMIT p_limit
    ) page
    CROSS JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = page.job_id AND s.device_id = p_device_id
        OFFSET 0
    ) s
    ORDER BY page.is_queued, page.queue_order, page.queued_at, page.job_id;
END $$;
