-- Locks a job's mutex for the sweeper, which waits p_wait_ms for one that is busy, or with
-- 0 not at all; SQLSTATE 55P03 if it is not to be had. Answers whether there is the job: one
-- that is not must be left alone even if it is there a moment later.
CREATE OR REPLACE FUNCTION jobs.lock_job(
    p_tenant_id text, p_job_id text, p_wait_ms integer
) RETURNS boolean
LANGUAGE plpgsql
-- Has what is set below end with the function.
SET lock_timeout = '1s'
AS $$
BEGIN
    IF p_wait_ms > 0 THEN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);
        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        FOR UPDATE;
    ELSE
        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        FOR UPDATE NOWAIT;
    END IF;
    RETURN FOUND;
END $$;
