-- Rejects the start of a job that was created with require_start_approval and is not approved: cancels the job with the
-- cause START_REJECTED. Returns the job.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, and START_NOT_APPROVABLE (with the status and the cause).
CREATE OR REPLACE FUNCTION jobs.reject_start(
    p_tenant_id text, p_job_id text,
    p_rejected_by text,  -- NULL: unknown
    p_comment text,
    p_etag text          -- '': any
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
BEGIN
    v_job := jobs.lock_job_for_start_approval(
        p_tenant_id, p_job_id, p_etag, p_rejected_by, p_approves => false
    );
    PERFORM jobs.set_canceled(
        p_tenant_id, p_job_id, v_job.locked_at, 'START_REJECTED', p_comment, false, p_rejected_by
    );

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
