-- depends on: count_changes, execution_change
-- Writes derived statuses of a canceled or expired job: those of the next p_limit executions after
-- p_after_device_id ('': from the start) and, when no execution is left, that of the job. Readers see no
-- difference, so the version of an execution does not change. For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.finalize_executions(
    p_tenant_id text,
    p_job_id text,
    p_after_device_id text,
    p_limit integer,
    p_wait_ms integer,
    OUT next_device_id text,      -- to continue after; NULL: nothing is left
    OUT timed_out_count integer,  -- executions written as TIMED_OUT
    OUT rejected_count integer    -- executions written as REJECTED
)
LANGUAGE plpgsql
-- settings: lock timeout, custom plan, index
AS $$
DECLARE
    v_now timestamptz;
    v_final_status jobs.execution_status;  -- of the executions stored as QUEUED
    v_final_at timestamptz;
    v_final_details jsonb;
    v_end_cause text;  -- NULL: see end_cause
    v_canceled_at timestamptz;
    v_cancel_reason text;
    v_queued integer;
    v_in_progress integer;
    v_forced boolean;  -- the executions stored as IN_PROGRESS become REJECTED
    v_queued_finalized integer;
    v_in_progress_finalized integer := 0;
    v_last_device_id text;
    v_groups jobs.execution_change[];  -- the executions to write, in groups with the same counts
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    timed_out_count := 0;
    rejected_count := 0;
    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN;
    END IF;
    v_now := jobs.clock_time();
    SELECT p.queued, p.in_progress INTO v_queued, v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    SELECT jobs.queued_status_at(j.canceled_at, j.expires_at, v_now),
           least(j.canceled_at, j.expires_at),  -- see queued_status_at; ignores NULL
           j.canceled_at, j.cancel_reason, j.force_canceled AND v_in_progress > 0
    INTO v_final_status, v_final_at, v_canceled_at, v_cancel_reason, v_forced
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND NOT j.finalized
      AND j.deleted_at IS NULL;
    IF NOT FOUND OR v_final_status = 'QUEUED' THEN
        RETURN;
    END IF;
    -- In the first transaction, because a device can report between this one and the last.
    PERFORM jobs.add_expiry_events(p_tenant_id, p_job_id, v_now);

    IF v_queued > 0 OR v_forced THEN
        SELECT e.device_id INTO v_last_device_id
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
        ORDER BY e.device_id
        LIMIT 1 OFFSET p_limit - 1;

        -- The failure of an earlier attempt still counts afterwards, so its status and code change no count. Its
        -- time says that the execution was retrying.
        SELECT array_agg(jobs.execution_change(
            job_id => p_job_id, stage => g.stage, executions => g.executions,
            stored_status => g.status, failed_at => g.failed_at,
            new_status => CASE WHEN g.status = 'QUEUED' THEN v_final_status ELSE 'REJECTED' END
        ))
        INTO v_groups
        FROM (
            SELECT e.stage, e.status, min(e.failed_at) AS failed_at, count(*)::integer AS executions
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.device_id > p_after_device_id
              AND (v_last_device_id IS NULL OR e.device_id <= v_last_device_id)
              AND (e.status = 'QUEUED' OR e.status = 'IN_PROGRESS' AND v_forced)
            GROUP BY e.stage, e.status, e.failed_at IS NULL
        ) g;
        PERFORM jobs.count_changes(p_tenant_id, v_groups, v_now);

        v_final_details := jobs.final_status_details(v_final_status, v_cancel_reason);
        v_end_cause := CASE WHEN v_final_status = 'REJECTED' THEN 'JOB_CANCELED' END;
        UPDATE jobs.job_executions e
        SET status = v_final_status, canceled_by_operator = (v_final_status = 'REJECTED'),
            last_updated_at = v_final_at, status_details = v_final_details, end_cause = v_end_cause
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
          AND (v_last_device_id IS NULL OR e.device_id <= v_last_device_id)
          AND e.status = 'QUEUED';
        GET DIAGNOSTICS v_queued_finalized = ROW_COUNT;

        IF v_forced THEN
            v_final_details := jobs.final_status_details('REJECTED', v_cancel_reason);
            UPDATE jobs.job_executions e
            SET status = 'REJECTED', canceled_by_operator = true, last_updated_at = v_canceled_at,
                status_details = v_final_details, end_cause = 'JOB_CANCELED', times_out_at = NULL
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.device_id > p_after_device_id
              AND (v_last_device_id IS NULL OR e.device_id <= v_last_device_id)
              AND e.status = 'IN_PROGRESS';
            GET DIAGNOSTICS v_in_progress_finalized = ROW_COUNT;
        END IF;

        IF v_final_status = 'TIMED_OUT' THEN
            timed_out_count := v_queued_finalized;
            rejected_count := v_in_progress_finalized;
        ELSE
            rejected_count := v_queued_finalized + v_in_progress_finalized;
        END IF;

        IF v_queued > v_queued_finalized
           OR v_forced AND v_in_progress > v_in_progress_finalized THEN
            next_device_id := v_last_device_id;
            RETURN;
        END IF;
    END IF;

    UPDATE jobs.jobs j
    SET finalized = true, awaiting_approval = false,
        status = jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now),
        completed_at = CASE WHEN j.status = 'IN_PROGRESS' AND v_in_progress = 0
                            THEN j.expires_at ELSE j.completed_at END,
        updated_at = CASE WHEN j.status = 'IN_PROGRESS' AND v_in_progress = 0
                          THEN j.expires_at ELSE j.updated_at END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
