-- Writes derived statuses of a canceled or expired job: those of the next p_limit executions after
-- p_after_device_id ('': from the start) and, when no execution is left, that of the job. Readers see no
-- difference, so the version of an execution does not change. For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.finalize_executions(
    p_tenant_id text, p_job_id text,
    p_after_device_id text,
    p_limit integer,
    p_wait_ms integer,
    OUT next_device_id text,      -- to continue after; NULL: nothing is left
    OUT timed_out_count integer,  -- executions written as TIMED_OUT
    OUT rejected_count integer    -- executions written as REJECTED
)
LANGUAGE plpgsql
-- settings: tenant, lock timeout, custom plan, index
AS $$
DECLARE
    v_now timestamptz;
    v_queued integer;
    v_in_progress integer;
    v_job record;
    v_forced boolean;                      -- the executions stored as IN_PROGRESS become REJECTED
    v_pending integer;                     -- how many executions to write are left
    v_final_status jobs.execution_status;  -- this and the next two: of the executions stored as QUEUED
    v_final_at timestamptz;
    v_final_details jsonb;
    v_canceled_details jsonb;              -- of the others
    v_last_device_id text;
    v_groups jobs.execution_change[];      -- the executions to write, in groups with the same counts
BEGIN
    timed_out_count := 0;
    rejected_count := 0;
    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN;
    END IF;
    v_now := jobs.clock_time();
    SELECT p.queued, p.in_progress INTO v_queued, v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    SELECT j.canceled_at, j.expires_at, j.cancel_reason, j.force_canceled INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND NOT j.finalized
      AND j.deleted_at IS NULL;
    v_final_status := jobs.queued_status_at(v_job.canceled_at, v_job.expires_at, v_now);
    IF NOT FOUND OR v_final_status = 'QUEUED' THEN
        RETURN;
    END IF;
    -- In the first transaction, because a device can report between this one and the last.
    PERFORM jobs.add_expiry_events(p_tenant_id, p_job_id, v_now);

    v_forced := v_job.force_canceled;
    v_pending := v_queued + CASE WHEN v_forced THEN v_in_progress ELSE 0 END;
    IF v_pending > 0 THEN
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
                   stored_status => g.status, failed_at => g.failed_at, new_status => g.new_status
               )),
               coalesce(sum(g.executions) FILTER (WHERE g.new_status = 'TIMED_OUT'), 0),
               coalesce(sum(g.executions) FILTER (WHERE g.new_status = 'REJECTED'), 0)
        INTO v_groups, timed_out_count, rejected_count
        FROM (
            SELECT e.stage, e.status, min(e.failed_at) AS failed_at, count(*)::integer AS executions,
                   CASE WHEN e.status = 'QUEUED' THEN v_final_status ELSE 'REJECTED' END AS new_status
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.device_id > p_after_device_id
              AND (v_last_device_id IS NULL OR e.device_id <= v_last_device_id)
              AND (e.status = 'QUEUED' OR e.status = 'IN_PROGRESS' AND v_forced)
            GROUP BY e.stage, e.status, e.failed_at IS NULL
        ) g;
        PERFORM jobs.count_changes(p_tenant_id, v_groups, v_now);

        v_final_at := least(v_job.canceled_at, v_job.expires_at);  -- see queued_status_at; ignores NULL
        v_final_details := jobs.final_status_details(v_final_status, v_job.cancel_reason);
        v_canceled_details := jobs.final_status_details('REJECTED', v_job.cancel_reason);
        UPDATE jobs.job_executions e
        SET status = CASE WHEN e.status = 'QUEUED' THEN v_final_status ELSE 'REJECTED' END,
            canceled_by_operator = e.status <> 'QUEUED' OR v_final_status = 'REJECTED',
            last_updated_at = CASE WHEN e.status = 'QUEUED' THEN v_final_at
                                   ELSE v_job.canceled_at END,
            status_details = CASE WHEN e.status = 'QUEUED' THEN v_final_details
                                  ELSE v_canceled_details END,
            end_cause = CASE WHEN e.status <> 'QUEUED' OR v_final_status = 'REJECTED'
                             THEN 'JOB_CANCELED' ELSE 'JOB_EXPIRED' END,
            ended_number = CASE WHEN e.status <> 'QUEUED' THEN e.execution_number ELSE e.ended_number END,
            times_out_at = NULL
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
          AND (v_last_device_id IS NULL OR e.device_id <= v_last_device_id)
          AND (e.status = 'QUEUED' OR e.status = 'IN_PROGRESS' AND v_forced);

        IF v_pending > timed_out_count + rejected_count THEN
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
