-- Returns a page of a device's pending executions: first those IN_PROGRESS, then those QUEUED. Each
-- group is sorted by (queue_order, queued_at, job_id). Leaves out executions that wait; see
-- is_waiting_at. Returns at most p_limit executions after the given position.
--
-- Without a position, a last row without a job_id has the ended_executions, if there are any. If there are
-- fewer than p_limit and an execution waits, that row has the time at which it is due as not_before (see
-- next_due_at), and the current time as last_updated_at.
CREATE OR REPLACE FUNCTION jobs.list_pending_executions(
    p_tenant_id text, p_device_id text,
    p_limit integer,
    p_after_status text DEFAULT NULL,  -- IN_PROGRESS or QUEUED; NULL: from the first execution
    p_after_queue_order smallint DEFAULT NULL,  -- this and the next two: NULL if p_after_status is NULL
    p_after_queued_at timestamptz DEFAULT NULL,
    p_after_job_id text DEFAULT NULL
) RETURNS TABLE (
    job_id text,
    device_id text,
    document_type text,
    document_params jsonb,
    status text,
    status_details jsonb,
    execution_number integer,
    version integer,
    queued_at timestamptz,
    started_at timestamptz,
    last_updated_at timestamptz,
    expires_at timestamptz,
    times_out_at timestamptz,
    failure_code text,
    queue_order smallint,
    not_before timestamptz,
    cancel_requested boolean,
    ended_executions jsonb  -- see the function
)
LANGUAGE plpgsql STABLE
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_after_queued boolean := coalesce(p_after_status = 'QUEUED', false);
    v_after_queue_order smallint := coalesce(p_after_queue_order, -1);
    v_after_queued_at timestamptz := coalesce(p_after_queued_at, '-infinity');
    v_after_job_id text := coalesce(p_after_job_id, '');
    v_executions integer;
    v_has_ended boolean;
BEGIN
    IF p_after_status IS NULL THEN
        v_has_ended := jobs.has_ended_executions(p_tenant_id, p_device_id);
        IF v_has_ended IS NULL THEN
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
    SELECT q.job_id, q.device_id, q.document_type, q.document_params, q.status, q.status_details,
           q.execution_number, q.version, q.queued_at, q.started_at, q.last_updated_at, q.expires_at,
           q.times_out_at, q.failure_code, q.queue_order, NULL::timestamptz,
           q.cancel_requested, NULL::jsonb
    FROM jobs.pending_executions q
    WHERE q.tenant_id = p_tenant_id AND q.device_id = p_device_id AND NOT q.is_waiting
      AND (q.is_queued, q.queue_order, q.queued_at, q.job_id)
          > (v_after_queued, v_after_queue_order, v_after_queued_at, v_after_job_id)
    ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
    LIMIT p_limit;

    GET DIAGNOSTICS v_executions = ROW_COUNT;
    IF v_executions < p_limit THEN
        not_before := jobs.next_due_at(p_tenant_id, p_device_id);
        last_updated_at := jobs.now();
    END IF;
    IF v_has_ended THEN
        ended_executions := jobs.ended_executions(p_tenant_id, p_device_id);
    END IF;
    IF not_before IS NOT NULL OR ended_executions IS NOT NULL THEN
        RETURN NEXT;
    END IF;
END $$;
