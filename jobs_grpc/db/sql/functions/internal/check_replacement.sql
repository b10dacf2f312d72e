-- Checks, without locks, that create_job can replace a job: the job exists, and fewer than p_max_active_jobs other
-- jobs are active. replace_job checks both again, under locks; this check is made before executions are inserted,
-- because rolling back a million inserted rows leaves dead rows. Returns the number of these other jobs; NULL: not
-- counted. The caller has set the tenant.
--
-- Raises JOB_NOT_FOUND and TOO_MANY_ACTIVE_JOBS.
CREATE OR REPLACE FUNCTION jobs.check_replacement(
    p_tenant_id text,
    p_job_id text,           -- the new job
    p_replaced_job_id text,
    p_max_active_jobs integer  -- NULL: no limit
) RETURNS integer
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_active integer;
BEGIN
    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_replaced_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND', '', jsonb_build_object('job_id', p_replaced_job_id));
    END IF;
    IF p_max_active_jobs IS NOT NULL THEN
        v_active := jobs.count_active_jobs(p_tenant_id, ARRAY[p_job_id, p_replaced_job_id], p_max_active_jobs);
        IF v_active >= p_max_active_jobs THEN
            PERFORM jobs.raise_error('TOO_MANY_ACTIVE_JOBS');
        END IF;
    END IF;
    RETURN v_active;
END $$;
