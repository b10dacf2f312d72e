-- Takes the job lock, and checks that a user can approve or reject the start of the job: the start needs an
-- approval, and the job is active. The caller has set the tenant.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, START_NOT_APPROVABLE (with the status and the cause) and, for an approval,
-- SELF_APPROVAL.
CREATE OR REPLACE FUNCTION jobs.lock_job_for_start_approval(
    p_tenant_id text, p_job_id text,
    p_etag text,                 -- '': any
    p_user_id text,              -- NULL: unknown
    p_approves boolean,          -- false: rejects
    OUT locked_at timestamptz,   -- this and the next two: see lock_job
    OUT expires_at timestamptz,
    OUT start_at timestamptz,
    OUT is_approved boolean      -- true: an approval changes nothing. Neither its etag nor the state is checked.
)
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
    v_start record;
    v_cause text;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, CASE WHEN p_approves THEN '' ELSE p_etag END);
    SELECT j.start_approval AS approval, coalesce(j.created_by = p_user_id, true) AS is_own_job
    INTO v_start
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    is_approved := v_start.approval <> '{}';
    IF v_start.approval IS NULL THEN
        v_cause := 'NO_APPROVAL';
    ELSIF p_approves AND v_start.is_own_job THEN
        PERFORM jobs.raise_error('SELF_APPROVAL');
    ELSIF is_approved THEN
        v_cause := CASE WHEN NOT p_approves THEN 'APPROVED' END;
    ELSE
        PERFORM jobs.check_etag(p_tenant_id, p_job_id, p_etag, v_job.revision);
        v_cause := CASE WHEN v_job.status <> 'IN_PROGRESS' THEN 'FINISHED' END;
    END IF;
    IF v_cause IS NOT NULL THEN
        PERFORM jobs.raise_error(
            'START_NOT_APPROVABLE', v_job.status_text, jsonb_build_object('cause', v_cause)
        );
    END IF;
    locked_at := v_job.locked_at;
    expires_at := v_job.expires_at;
    start_at := v_job.start_at;
END $$;
