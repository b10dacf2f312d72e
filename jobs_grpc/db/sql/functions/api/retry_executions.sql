-- Queues again, as the next attempt, the executions of a job that read as one of p_statuses.
-- If there are none, nothing changes, the expiry included.
--
-- JB005 no such job
-- JB011 the job is CANCELED, or past its expiry and to keep it; DETAIL has its status
-- JB014 the job is not in progress, and p_max_active_jobs are
CREATE OR REPLACE FUNCTION jobs.retry_executions(
    p_tenant_id text,
    p_job_id text,
    p_statuses text[],           -- of FAILED, TIMED_OUT and REJECTED
    p_expires_in_hours integer,  -- from now; NULL: as before
    p_never_expires boolean,
    p_max_active_jobs integer    -- NULL: no limit
) RETURNS TABLE (retried_count integer, expires_at timestamptz)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    v_job jobs.jobs;
    v_counts jobs.job_progress;
    v_now timestamptz;
    v_status jobs.job_status;
    v_expired boolean;
    v_expires_at timestamptz;
    v_stored jobs.execution_status[] := p_statuses::jobs.execution_status[];
    v_retried integer;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT p.* INTO v_counts
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    v_now := clock_timestamp();
    SELECT j.* INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    v_status := jobs.job_status_at(v_job.status, v_job.expires_at, v_counts.in_progress, v_now);
    v_expired := coalesce(v_job.expires_at <= v_now, false);
    v_expires_at := CASE
        WHEN p_never_expires THEN NULL
        WHEN p_expires_in_hours IS NULL THEN v_job.expires_at
        ELSE v_now + make_interval(hours => p_expires_in_hours)
    END;
    IF v_status = 'CANCELED' OR v_expires_at <= v_now THEN
        RAISE EXCEPTION 'job can not be retried' USING ERRCODE = 'JB011', DETAIL = v_status;
    END IF;

    -- The expiry has made those TIMED_OUT that are stored as QUEUED. The counts say how many
    -- there are, so that a retry of none reads no executions.
    IF v_expired AND 'TIMED_OUT' = ANY (v_stored) THEN
        v_stored := v_stored || 'QUEUED'::jobs.execution_status;
    END IF;
    v_retried := CASE WHEN 'FAILED' = ANY (v_stored) THEN v_counts.failed ELSE 0 END
        + CASE WHEN 'TIMED_OUT' = ANY (v_stored) THEN v_counts.timed_out ELSE 0 END
        + CASE WHEN 'REJECTED' = ANY (v_stored) THEN v_counts.rejected ELSE 0 END
        + CASE WHEN 'QUEUED' = ANY (v_stored) THEN v_counts.queued ELSE 0 END;
    IF v_retried = 0 THEN
        RETURN QUERY SELECT 0, v_job.expires_at;
        RETURN;
    END IF;

    IF v_status <> 'IN_PROGRESS' THEN
        PERFORM jobs.admit_active_job(p_tenant_id, p_job_id, p_max_active_jobs);
    END IF;

    -- With another expiry they would come to life, so what this one made of them is written
    -- down: as history of those that are queued again, in place for the others.
    INSERT INTO jobs.execution_attempts
        (tenant_id, job_id, device_id, execution_number, status, queued_at, started_at,
         last_updated_at, status_details)
    SELECT e.tenant_id, e.job_id, e.device_id, e.execution_number,
           CASE WHEN e.status = 'QUEUED' THEN 'TIMED_OUT' ELSE e.status END,
           e.queued_at, e.started_at,
           CASE WHEN e.status = 'QUEUED' THEN v_job.expires_at ELSE e.last_updated_at END,
           CASE WHEN e.status = 'QUEUED' THEN jobs.execution_end_details('TIMED_OUT', NULL)
                ELSE e.status_details END
    FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = ANY (v_stored);

    IF v_expired AND NOT 'QUEUED' = ANY (v_stored) THEN
        UPDATE jobs.job_executions e
        SET status = 'TIMED_OUT', last_updated_at = v_job.expires_at,
            status_details = jobs.execution_end_details('TIMED_OUT', NULL)
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED';
        v_counts.timed_out := v_counts.timed_out + v_counts.queued;
        v_counts.queued := 0;
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'QUEUED', execution_number = e.execution_number + 1, version = e.version + 1,
        queued_at = v_now, started_at = NULL, times_out_at = NULL, last_updated_at = v_now,
        status_details = NULL, canceled_by_operator = false
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = ANY (v_stored);

    UPDATE jobs.job_progress p
    SET queued = v_retried
            + CASE WHEN 'QUEUED' = ANY (v_stored) THEN 0 ELSE v_counts.queued END,
        failed = CASE WHEN 'FAILED' = ANY (v_stored) THEN 0 ELSE v_counts.failed END,
        timed_out = CASE WHEN 'TIMED_OUT' = ANY (v_stored) THEN 0 ELSE v_counts.timed_out END,
        rejected = CASE WHEN 'REJECTED' = ANY (v_stored) THEN 0 ELSE v_counts.rejected END
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    UPDATE jobs.jobs j
    SET status = 'IN_PROGRESS', completed_at = NULL, expires_at = v_expires_at,
        finalized = false,
        updated_at = CASE WHEN v_status = 'IN_PROGRESS' THEN j.updated_at ELSE v_now END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    RETURN QUERY SELECT v_retried, v_expires_at;
END $$;
