-- Writes down what readers derive for a dead job: for the next p_limit executions after
-- p_after_device_id ('': from the start) and, after the last one, for the job. Answers
-- the device to go on after; NULL: this was the end. Nothing of it is visible, so the
-- version of an execution stays. See lock_job for p_wait_ms.
CREATE OR REPLACE FUNCTION jobs.finalize_job(
    p_tenant_id text, p_job_id text, p_after_device_id text, p_limit integer, p_wait_ms integer
) RETURNS text
LANGUAGE plpgsql
SET lock_timeout = '1s'
-- The limit and the range are to be known when the plan is made.
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    v_now timestamptz;
    v_fate jobs.execution_status;
    v_dated timestamptz;
    v_canceled_at timestamptz;
    v_cancel_reason text;
    v_in_progress integer;
    v_queued integer;
    v_cut_off boolean;
    v_cut_offs integer := 0;
    v_count integer;
    v_last text;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN NULL;
    END IF;
    v_now := clock_timestamp();
    SELECT p.queued, p.in_progress INTO v_queued, v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    SELECT jobs.queued_status_at(j.canceled_at, j.expires_at, v_now),
           CASE WHEN j.expires_at <= coalesce(j.canceled_at, v_now)
                THEN j.expires_at ELSE j.canceled_at END,
           j.canceled_at, j.cancel_reason, j.force_canceled AND v_in_progress > 0
    INTO v_fate, v_dated, v_canceled_at, v_cancel_reason, v_cut_off
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND NOT j.finalized
      AND j.deleted_at IS NULL;
    IF NOT FOUND OR v_fate = 'QUEUED' THEN
        RETURN NULL;
    END IF;

    IF v_queued > 0 OR v_cut_off THEN
        SELECT e.device_id INTO v_last
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
        ORDER BY e.device_id
        LIMIT 1 OFFSET p_limit - 1;

        UPDATE jobs.job_executions e
        SET status = v_fate, canceled_by_operator = v_fate = 'REJECTED', last_updated_at = v_dated,
            status_details = jobs.execution_end_details(v_fate, v_cancel_reason)
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
          AND (v_last IS NULL OR e.device_id <= v_last)
          AND e.status = 'QUEUED';
        GET DIAGNOSTICS v_count = ROW_COUNT;

        IF v_cut_off THEN
            UPDATE jobs.job_executions e
            SET status = 'REJECTED', canceled_by_operator = true, last_updated_at = v_canceled_at,
                times_out_at = NULL,
                status_details = jobs.execution_end_details('REJECTED', v_cancel_reason)
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.device_id > p_after_device_id
              AND (v_last IS NULL OR e.device_id <= v_last)
              AND e.status = 'IN_PROGRESS';
            GET DIAGNOSTICS v_cut_offs = ROW_COUNT;
        END IF;

        UPDATE jobs.job_progress p
        SET queued = p.queued - v_count,
            in_progress = p.in_progress - v_cut_offs,
            timed_out = p.timed_out + CASE v_fate WHEN 'TIMED_OUT' THEN v_count ELSE 0 END,
            rejected = p.rejected + v_cut_offs + CASE v_fate WHEN 'REJECTED' THEN v_count ELSE 0 END
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

        IF v_queued > v_count OR (v_cut_off AND v_in_progress > v_cut_offs) THEN
            RETURN v_last;
        END IF;
    END IF;

    UPDATE jobs.jobs j
    SET finalized = true,
        status = jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now),
        completed_at = CASE WHEN j.status = 'IN_PROGRESS' AND v_in_progress = 0
                            THEN j.expires_at ELSE j.completed_at END,
        updated_at = CASE WHEN j.status = 'IN_PROGRESS' AND v_in_progress = 0
                          THEN j.expires_at ELSE j.updated_at END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    RETURN NULL;
END $$;
