-- Pauses a job that is IN_PROGRESS and returns it. If the job is paused, changes nothing; but a pause that waits
-- for the approval of the start becomes one of the operator, which the approval does not end. Writes one row,
-- however many executions the job has.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, and JOB_NOT_PAUSABLE (with the status).
CREATE OR REPLACE FUNCTION jobs.pause_job(
    p_tenant_id text, p_job_id text,
    p_reason text,     -- '': none
    p_paused_by text,  -- NULL: unknown
    p_etag text        -- '': any
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_cause text;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    IF v_job.status <> 'IN_PROGRESS' THEN
        PERFORM jobs.raise_error('JOB_NOT_PAUSABLE', v_job.status::text);
    END IF;

    IF v_job.paused_at IS NOT NULL THEN
        SELECT j.pause_cause INTO v_cause
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    END IF;
    IF v_job.paused_at IS NULL OR v_cause = 'START_APPROVAL' THEN
        PERFORM jobs.set_paused(
            p_tenant_id, p_job_id, v_job.locked_at, 'OPERATOR', p_reason, p_paused_by
        );
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
