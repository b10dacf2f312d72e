-- Ends those of the executions that are past their deadline, and completes the job if
-- they were the last. Answers how many they were: by the time the job is had, a device
-- may have reported. See lock_job for p_wait_ms.
CREATE OR REPLACE FUNCTION jobs.time_out_executions(
    p_tenant_id text, p_job_id text, p_device_ids text[], p_wait_ms integer
) RETURNS integer
LANGUAGE plpgsql
SET lock_timeout = '1s'
AS $$
DECLARE
    v_count integer;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN 0;
    END IF;
    v_now := clock_timestamp();

    -- A forced cancel has ended them already, and so has a deletion.
    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND NOT j.force_canceled AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'TIMED_OUT', status_details = '{"reason": "in progress for too long"}',
        times_out_at = NULL, version = e.version + 1, last_updated_at = v_now
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
      AND e.device_id = ANY (p_device_ids)
      AND e.status = 'IN_PROGRESS' AND e.times_out_at <= v_now;
    GET DIAGNOSTICS v_count = ROW_COUNT;

    IF v_count > 0 THEN
        UPDATE jobs.job_progress p
        SET in_progress = p.in_progress - v_count, timed_out = p.timed_out + v_count
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

        PERFORM jobs.complete_jobs(p_tenant_id, ARRAY[p_job_id], v_now);
    END IF;
    RETURN v_count;
END $$;
