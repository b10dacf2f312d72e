-- Cancels the job that a new job replaces, unless it is finished, and links it to the new job. Then checks the
-- limit of active jobs. It locks the job before the limit, as retry_executions does. Returns what
-- check_active_job_limit returns; NULL: not counted. The caller has set the tenant.
--
-- Raises JOB_NOT_FOUND and TOO_MANY_ACTIVE_JOBS.
CREATE OR REPLACE FUNCTION jobs.replace_job(
    p_tenant_id text,
    p_job_id text,             -- the new job
    p_replaced_job_id text,
    p_user_id text,            -- NULL: unknown
    p_max_active_jobs integer  -- NULL: no limit
) RETURNS integer
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_job record;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_replaced_job_id);
    -- The revision changes also if the job is finished: a retry with an earlier etag must fail.
    UPDATE jobs.jobs j
    SET replaced_by_job_id = p_job_id, revision = j.revision + 1
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_replaced_job_id;
    IF v_job.status = 'IN_PROGRESS' THEN
        PERFORM jobs.set_canceled(
            p_tenant_id, p_replaced_job_id, v_job.locked_at, 'REPLACED', 'replaced by ' || p_job_id, false,
            p_user_id, jsonb_build_object('replaced_by_job_id', p_job_id)
        );
    END IF;
    IF p_max_active_jobs IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN jobs.check_active_job_limit(p_tenant_id, p_job_id, p_max_active_jobs);
END $$;
