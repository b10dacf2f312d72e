-- Deletes a job that is over. One row is written; views and functions leave it out from
-- then on, and the sweeper takes its rows away.
--
-- JB005 no such job      JB012 it is IN_PROGRESS, or a device is at work; DETAIL has its status
CREATE OR REPLACE FUNCTION jobs.delete_job(p_tenant_id text, p_job_id text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_in_progress integer;
    v_status jobs.job_status;
    v_at_work boolean;
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

    v_now := clock_timestamp();
    SELECT jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now),
           v_in_progress > 0 AND NOT j.force_canceled
    INTO v_status, v_at_work
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    ELSIF v_status = 'IN_PROGRESS' OR v_at_work THEN
        RAISE EXCEPTION 'job is not over' USING ERRCODE = 'JB012', DETAIL = v_status;
    END IF;

    UPDATE jobs.jobs
    SET deleted_at = v_now
    WHERE tenant_id = p_tenant_id AND job_id = p_job_id;
END $$;
