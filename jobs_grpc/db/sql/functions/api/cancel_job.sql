-- Cancels a job that is IN_PROGRESS. Writes one row, however many executions the job has: readers
-- derive the status of those that are QUEUED and, with p_force, of those that are IN_PROGRESS.
--
-- Raises JOB_NOT_FOUND and JOB_NOT_CANCELABLE (with the status).
CREATE OR REPLACE FUNCTION jobs.cancel_job(
    p_tenant_id text, p_job_id text, p_reason text, p_force boolean DEFAULT false
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
    v_job record;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    v_job := jobs.lock_job(p_tenant_id, p_job_id);
    IF v_job.status <> 'IN_PROGRESS' THEN
        PERFORM jobs.raise_error('JOB_NOT_CANCELABLE', v_job.status::text);
    END IF;

    UPDATE jobs.jobs j
    SET status = 'CANCELED', canceled_at = v_job.locked_at, cancel_reason = p_reason,
        force_canceled = p_force, finalized = false, updated_at = v_job.locked_at,
        revision = j.revision + 1
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
