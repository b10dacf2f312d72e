-- Cancels a job that is IN_PROGRESS: one row is written, however many devices it targets,
-- and also if those at work are to end with it.
--
-- JB005 no such job      JB006 the job is over; DETAIL has its status
CREATE OR REPLACE FUNCTION jobs.cancel_job(
    p_tenant_id text, p_job_id text, p_reason text, p_force boolean DEFAULT false
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_in_progress integer;
    v_status jobs.job_status;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT p.in_progress INTO v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    -- Read after the lock was had, at the time after it was had: waiting for it may
    -- have taken the job past its expiry.
    v_now := clock_timestamp();
    SELECT jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now) INTO v_status
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;
    IF v_status <> 'IN_PROGRESS' THEN
        RAISE EXCEPTION 'job is over' USING ERRCODE = 'JB006', DETAIL = v_status;
    END IF;

    UPDATE jobs.jobs
    SET status = 'CANCELED', canceled_at = v_now, cancel_reason = p_reason,
        force_canceled = p_force, finalized = false, updated_at = v_now
    WHERE tenant_id = p_tenant_id AND job_id = p_job_id;
END $$;
