-- depends on: apply_retry_policies
-- Times out the devices' IN_PROGRESS executions whose times_out_at has passed. Completes the job if no
-- execution is pending anymore; otherwise, applies its retry policy and rules. Returns the number of
-- executions that it timed out: fewer than p_device_ids if a device reported before this function got
-- the job lock. For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.time_out_executions(
    p_tenant_id text, p_job_id text, p_device_ids text[], p_wait_ms integer
) RETURNS integer
LANGUAGE plpgsql
-- settings: lookup, nested loops, lock timeout
AS $$
DECLARE
    v_timed_out integer;
    v_stages smallint[];  -- of these executions
    v_device_ids text[];  -- parallel to v_stages
    v_has_retry_policy boolean;
    v_has_execution_events boolean;
    v_is_expired boolean;
    v_attempts jobs.finished_attempt[];  -- NULL: without execution_events
    v_updates jobs.decided_update[];
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN 0;
    END IF;
    v_now := jobs.clock_time();

    -- A forced cancel has ended the executions already; finalize_executions updates their rows.
    SELECT j.retry_policy IS NOT NULL, j.execution_events, jobs.is_expired_at(j.expires_at, v_now)
    INTO v_has_retry_policy, v_has_execution_events, v_is_expired
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND NOT j.force_canceled AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;

    IF v_is_expired THEN
        PERFORM jobs.add_expiry_events(p_tenant_id, p_job_id, v_now);
    END IF;

    -- One lookup per device, then an update by ctid, as in update_executions: whatever the statistics
    -- say, no other executions of the job or of its status are read.
    WITH updated AS (
        UPDATE jobs.job_executions e
        SET status = 'TIMED_OUT', status_details = '{"reason": "in progress for too long"}',
            times_out_at = NULL, version = e.version + 1, last_updated_at = v_now, failure_code = ''
        FROM (
            SELECT e.row_id
            FROM unnest(p_device_ids) AS u (device_id)
            CROSS JOIN LATERAL (
                SELECT e.ctid AS row_id, e.status, e.times_out_at
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = u.device_id
                OFFSET 0
            ) e
            WHERE e.status = 'IN_PROGRESS' AND e.times_out_at <= v_now
        ) due
        WHERE e.tenant_id = p_tenant_id AND e.ctid = due.row_id
        RETURNING e.stage, e.device_id, e.execution_number
    )
    SELECT count(*), array_agg(u.stage), array_agg(u.device_id),
           array_agg(
               ROW(p_job_id, u.device_id, 'TIMED_OUT', '', u.execution_number)::jobs.finished_attempt
           ) FILTER (WHERE v_has_execution_events)
    INTO v_timed_out, v_stages, v_device_ids, v_attempts
    FROM updated u;

    IF v_timed_out > 0 THEN
        UPDATE jobs.job_progress p
        SET in_progress = p.in_progress - v_timed_out, timed_out = p.timed_out + v_timed_out
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

        PERFORM jobs.count_failures(
            p_tenant_id, array_fill(p_job_id, ARRAY[v_timed_out]),
            array_fill('TIMED_OUT'::jobs.execution_status, ARRAY[v_timed_out]),
            array_fill(''::text, ARRAY[v_timed_out]), v_stages
        );
        PERFORM jobs.count_stage_changes(
            p_tenant_id, array_fill(p_job_id, ARRAY[v_timed_out]), v_stages,
            array_fill('IN_PROGRESS'::jobs.execution_status, ARRAY[v_timed_out]),
            array_fill('TIMED_OUT'::jobs.execution_status, ARRAY[v_timed_out])
        );
        IF v_has_retry_policy THEN
            SELECT array_agg(jsonb_populate_record(NULL::jobs.decided_update, jsonb_build_object(
                'n', u.n, 'job_id', p_job_id, 'device_id', u.device_id, 'outcome', 'APPLIED',
                'stored_status', 'IN_PROGRESS', 'new_status', 'TIMED_OUT'
            )))
            INTO v_updates
            FROM unnest(v_device_ids) WITH ORDINALITY AS u (device_id, n);
            PERFORM jobs.apply_retry_policies(p_tenant_id, v_updates, v_now);
        END IF;
        IF v_attempts IS NOT NULL THEN
            PERFORM jobs.add_finished_events(p_tenant_id, v_attempts, v_has_retry_policy, v_now);
        END IF;
        PERFORM jobs.complete_finished_jobs(p_tenant_id, ARRAY[p_job_id], v_now);
        PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now, true, v_stages);
    END IF;
    RETURN v_timed_out;
END $$;
