-- depends on: execution_states
-- Returns a page of a device's pending executions: first those IN_PROGRESS, then those QUEUED. Each
-- group is sorted by (queue_order, queued_at, job_id). Returns at most p_limit executions after the
-- given position.
CREATE OR REPLACE FUNCTION jobs.list_pending_executions(
    p_tenant_id text,
    p_device_id text,
    p_after_status text,            -- IN_PROGRESS or QUEUED; NULL: from the first execution
    p_after_queued_at timestamptz,  -- NULL if p_after_status is NULL
    p_after_job_id text,            -- NULL if p_after_status is NULL
    p_limit integer,
    p_after_queue_order smallint DEFAULT NULL  -- NULL: unknown, as in servers without priorities
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: page
AS $$
DECLARE
    v_after_queued boolean := coalesce(p_after_status = 'QUEUED', false);
    v_after_queued_at timestamptz := coalesce(p_after_queued_at, '-infinity');
    v_after_job_id text := coalesce(p_after_job_id, '');
    v_after_queue_order smallint := p_after_queue_order;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF v_after_queue_order IS NULL THEN
        -- If the execution has changed, starts early enough to leave no other one out.
        v_after_queue_order := coalesce((
            SELECT e.queue_order
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_after_job_id
              AND e.device_id = p_device_id AND e.queued_at = p_after_queued_at
        ), -1);
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM (
        SELECT q.is_queued, q.queue_order, q.queued_at, q.job_id
        FROM jobs.pending_executions q
        WHERE q.tenant_id = p_tenant_id AND q.device_id = p_device_id
          AND (q.is_queued, q.queue_order, q.queued_at, q.job_id)
              > (v_after_queued, v_after_queue_order, v_after_queued_at, v_after_job_id)
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
