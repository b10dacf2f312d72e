-- Marks a finished job as deleted. Views and functions exclude it from then on; maintenance
-- removes its rows later (purge_job).
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED and, if the job is not finished or one of its executions is
-- IN_PROGRESS, JOB_NOT_DELETABLE (with the job's status).
CREATE OR REPLACE FUNCTION jobs.delete_job(
    p_tenant_id text, p_job_id text,
    p_user_id text DEFAULT NULL,  -- NULL: unknown
    p_etag text DEFAULT ''        -- '': any
) RETURNS void
LANGUAGE plpgsql
-- settings: tenant, index
AS $$
DECLARE
    v_job record;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    IF v_job.status = 'IN_PROGRESS' OR v_job.in_progress > 0 AND NOT v_job.force_canceled THEN
        PERFORM jobs.raise_error('JOB_NOT_DELETABLE', v_job.status_text);
    END IF;

    UPDATE jobs.jobs j
    SET deleted_at = v_job.locked_at
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.set_job_labels(p_tenant_id, p_job_id, NULL);
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_job.locked_at, 'job.deleted', p_user_id, '{"cause": "OPERATOR"}'
    );
END $$;
