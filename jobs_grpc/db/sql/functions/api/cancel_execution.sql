-- depends on: execution_states
-- Cancels one execution and returns it. Completes the job if none of its executions is
-- pending afterwards; otherwise, the next stage may open.
--
-- Raises EXECUTION_NOT_FOUND, EXECUTION_FINISHED (with the status), and, unless p_force,
-- EXECUTION_IN_PROGRESS.
CREATE OR REPLACE FUNCTION jobs.cancel_execution(
    p_tenant_id text,
    p_job_id text,
    p_device_id text,
    p_reason text,
    p_force boolean,
    p_user_id text DEFAULT NULL  -- NULL: unknown
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
    v_status jobs.execution_status;
    v_stage smallint;
    v_is_retrying boolean;
    v_number integer;
    v_details jsonb := jsonb_build_object('reason', p_reason);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    v_job := jobs.lock_job(p_tenant_id, p_job_id, 'EXECUTION_NOT_FOUND');
    PERFORM jobs.set_read_time(v_job.locked_at);

    SELECT jobs.execution_status_at(
        e.status, v_job.canceled_at, v_job.force_canceled, v_job.expires_at, v_job.locked_at
    ), e.stage, e.failed_at IS NOT NULL, e.execution_number
    INTO v_status, v_stage, v_is_retrying, v_number
    FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('EXECUTION_NOT_FOUND');
    ELSIF v_status NOT IN ('QUEUED', 'IN_PROGRESS') THEN
        PERFORM jobs.raise_error('EXECUTION_FINISHED', v_status::text);
    ELSIF v_status = 'IN_PROGRESS' AND NOT p_force THEN
        PERFORM jobs.raise_error('EXECUTION_IN_PROGRESS');
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'REJECTED', canceled_by_operator = true, end_cause = 'EXECUTION_CANCELED',
        status_details = v_details, version = e.version + 1, last_updated_at = v_job.locked_at, times_out_at = NULL
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id;

    UPDATE jobs.job_progress p
    SET queued = p.queued - (v_status = 'QUEUED')::integer,
        in_progress = p.in_progress - (v_status = 'IN_PROGRESS')::integer,
        rejected = p.rejected + 1
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;
    IF v_stage IS NOT NULL THEN
        PERFORM jobs.count_stage_changes(
            p_tenant_id, ARRAY[p_job_id], ARRAY[v_stage], ARRAY[v_status],
            ARRAY['REJECTED'::jobs.execution_status]
        );
    END IF;

    IF v_is_retrying THEN
        PERFORM jobs.change_retrying_counts(
            p_tenant_id, ARRAY[p_job_id], ARRAY[v_stage], ARRAY[-1],
            ARRAY[-(v_status = 'IN_PROGRESS')::integer]
        );
    END IF;

    IF v_job.execution_events THEN
        PERFORM jobs.add_finished_events(
            p_tenant_id,
            ARRAY[ROW(p_job_id, p_device_id, 'REJECTED', '', v_number)::jobs.finished_attempt],
            false, v_job.locked_at, p_user_id
        );
    END IF;
    PERFORM jobs.complete_finished_jobs(
        p_tenant_id, ARRAY[p_job_id], v_job.locked_at, p_user_id
    );
    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_job.locked_at);

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;
END $$;
