-- Times out the devices' IN_PROGRESS executions whose times_out_at has passed. Completes the job if no
-- execution is pending anymore; otherwise, applies its retry policy and rules. Returns the number of
-- executions that it timed out: fewer than p_device_ids if a device reported before this function got
-- the job lock. For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.time_out_executions(
    p_tenant_id text, p_job_id text, p_device_ids text[], p_wait_ms integer
) RETURNS integer
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops, lock timeout
AS $$
DECLARE
    v_job record;
    v_changes jobs.execution_change[];
    v_now timestamptz;
BEGIN
    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN 0;
    END IF;
    v_now := jobs.clock_time();

    -- A forced cancel has ended the executions already; finalize_executions updates their rows.
    SELECT j.retry_policy IS NOT NULL AS has_retry_policy, j.execution_events,
           j.has_failure_criteria OR j.open_stage IS NOT NULL AS has_rules,
           jobs.is_expired_at(j.expires_at, v_now) AS is_expired
    INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND NOT j.force_canceled AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;

    IF v_job.is_expired THEN
        PERFORM jobs.add_expiry_events(p_tenant_id, p_job_id, v_now);
    END IF;

    -- One lookup per device, as in update_executions: whatever the statistics say, no other executions of the job
    -- or of its status are read.
    SELECT array_agg(jobs.execution_change(
        n => u.n, job_id => p_job_id, device_id => u.device_id, row_id => e.row_id, stage => e.stage,
        execution_number => e.execution_number, stored_status => e.status,
        failed_status => e.failed_status, failed_code => e.failed_code, failed_at => e.failed_at,
        retries => e.retries, time_zone => e.time_zone,
        new_status => 'TIMED_OUT', status_details => '{"reason": "in progress for too long"}',
        failure_code => '',
        is_expired => v_job.is_expired, has_rules => v_job.has_rules, execution_events => v_job.execution_events
    ))
    INTO v_changes
    FROM unnest(p_device_ids) WITH ORDINALITY AS u (device_id, n)
    CROSS JOIN LATERAL (
        SELECT e.ctid AS row_id, e.*
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = u.device_id
        OFFSET 0
    ) e
    WHERE e.status = 'IN_PROGRESS' AND e.times_out_at <= v_now;
    IF v_changes IS NULL THEN
        RETURN 0;
    END IF;

    IF v_job.has_rules THEN
        v_now := jobs.end_time(p_tenant_id, ARRAY[p_job_id], v_now);
    END IF;
    IF v_job.has_retry_policy THEN
        v_changes := jobs.decide_retries(p_tenant_id, v_changes, v_now);
    END IF;
    PERFORM jobs.change_executions(p_tenant_id, v_changes, v_now);
    RETURN cardinality(v_changes);
END $$;
