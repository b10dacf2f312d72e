-- Cancels a job that is IN_PROGRESS or paused: see set_canceled.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, and JOB_NOT_CANCELABLE (with the status).
CREATE OR REPLACE FUNCTION jobs.cancel_job(
    p_tenant_id text, p_job_id text,
    p_reason text,                -- '': none
    p_force boolean DEFAULT false,
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
    IF v_job.status <> 'IN_PROGRESS' THEN
        PERFORM jobs.raise_error('JOB_NOT_CANCELABLE', v_job.status::text);
    END IF;

    PERFORM jobs.set_canceled(
        p_tenant_id, p_job_id, v_job.locked_at, 'OPERATOR', p_reason, p_force, p_user_id
    );
END $$;
