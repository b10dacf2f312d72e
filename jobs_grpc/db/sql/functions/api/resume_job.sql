-- depends on: job_states
-- Ends the pause of a job and returns the job. If the job is not paused, changes nothing.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, and JOB_NOT_RESUMABLE (with the status).
CREATE OR REPLACE FUNCTION jobs.resume_job(
    p_tenant_id text,
    p_job_id text,
    p_etag text  -- '': any
) RETURNS SETOF jobs.job_states
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Planning takes longer than these lookups by primary key.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_job record;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    v_job := jobs.lock_job(p_tenant_id, p_job_id);
    PERFORM jobs.check_etag(p_etag, v_job.revision);
    IF v_job.status <> 'IN_PROGRESS' THEN
        PERFORM jobs.raise_error('JOB_NOT_RESUMABLE', v_job.status::text);
    END IF;

    IF v_job.paused_at IS NOT NULL THEN
        PERFORM jobs.restart_criteria(p_tenant_id, p_job_id, v_job.locked_at);
    END IF;
    UPDATE jobs.jobs j
    SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, pause_cause = NULL,
        revision = j.revision + 1, updated_at = v_job.locked_at
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.paused_at IS NOT NULL;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
