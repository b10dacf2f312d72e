-- depends on: execution_states
-- Cancels one device's execution, and completes the job if it was the last. Answers the
-- execution after it.
--
-- JB007 the device has no execution of this job      JB008 it is over; DETAIL has its status
-- JB010 the device is at work, and p_force is false
CREATE OR REPLACE FUNCTION jobs.cancel_execution(
    p_tenant_id text, p_job_id text, p_device_id text, p_reason text, p_force boolean
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
-- To plan takes longer than to find the rows by their keys.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_status jobs.execution_status;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    PERFORM FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
    END IF;

    v_now := clock_timestamp();
    SELECT jobs.execution_status_at(
        e.status, j.canceled_at, j.force_canceled, j.expires_at, v_now
    )
    INTO v_status
    FROM jobs.job_executions e
    JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id
      AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
    ELSIF v_status NOT IN ('QUEUED', 'IN_PROGRESS') THEN
        RAISE EXCEPTION 'execution is over' USING ERRCODE = 'JB008', DETAIL = v_status;
    ELSIF v_status = 'IN_PROGRESS' AND NOT p_force THEN
        RAISE EXCEPTION 'execution is running' USING ERRCODE = 'JB010';
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'REJECTED', canceled_by_operator = true, status_details = jsonb_build_object('reason', p_reason),
        version = e.version + 1, last_updated_at = v_now, times_out_at = NULL
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id;

    UPDATE jobs.job_progress p
    SET queued = p.queued - (v_status = 'QUEUED')::integer,
        in_progress = p.in_progress - (v_status = 'IN_PROGRESS')::integer,
        rejected = p.rejected + 1
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    PERFORM jobs.complete_jobs(p_tenant_id, ARRAY[p_job_id], v_now);

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;
END $$;
