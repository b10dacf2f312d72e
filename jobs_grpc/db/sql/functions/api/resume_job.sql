-- Ends the pause of a job and returns the job: see set_resumed. If the job is not paused, changes nothing.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, JOB_NOT_RESUMABLE (with the status), START_NOT_APPROVED, and GATE_NOT_MET
-- (with the stage).
CREATE OR REPLACE FUNCTION jobs.resume_job(
    p_tenant_id text, p_job_id text,
    p_etag text,                 -- '': any
    p_user_id text DEFAULT NULL  -- NULL: unknown
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_failed_stage smallint;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    IF v_job.status <> 'IN_PROGRESS' THEN
        PERFORM jobs.raise_error('JOB_NOT_RESUMABLE', v_job.status::text);
    END IF;

    IF v_job.paused_at IS NOT NULL THEN
        PERFORM jobs.check_start_approved(p_tenant_id, p_job_id);
        PERFORM jobs.set_resumed(p_tenant_id, p_job_id, v_job.locked_at, p_user_id);
        SELECT j.open_stage INTO v_failed_stage
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
          AND j.pause_cause = 'GATE_NOT_MET';
        IF FOUND THEN
            PERFORM jobs.raise_error('GATE_NOT_MET', v_failed_stage::text);
        END IF;
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
