-- Takes the job lock, and checks that a user can approve or reject a stage: its gate requires an approval,
-- and it is the open stage of an active job. The caller has set the tenant.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, STAGE_NOT_APPROVABLE (with the stage, the cause, the status and the
-- open stage) and, for an approval, SELF_APPROVAL (with the stage).
CREATE OR REPLACE FUNCTION jobs.lock_job_for_approval(
    p_tenant_id text, p_job_id text, p_stage integer,
    p_etag text,                -- '': any
    p_user_id text,             -- NULL: unknown
    p_approves boolean,         -- false: rejects
    OUT locked_at timestamptz,  -- see lock_job
    OUT paused_at timestamptz,  -- see lock_job
    OUT is_approved boolean     -- true: an approval changes nothing. Neither its etag nor the state is checked.
)
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
    v_stage record;
    v_cause text;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, CASE WHEN p_approves THEN '' ELSE p_etag END);
    SELECT s.require_approval, s.approved_at,
           NOT s.allow_self_approval AND coalesce(j.created_by = p_user_id, true) AS is_own_job
    INTO v_stage
    FROM jobs.jobs j
    JOIN jobs.job_stages s ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND s.stage = p_stage;
    IF NOT FOUND THEN
        v_cause := 'NO_STAGE';
    ELSIF NOT v_stage.require_approval THEN
        v_cause := 'NO_APPROVAL';
    ELSIF p_approves AND v_stage.is_own_job THEN
        PERFORM jobs.raise_error('SELF_APPROVAL', p_stage::text);
    ELSIF v_stage.approved_at IS NOT NULL THEN
        v_cause := CASE WHEN NOT p_approves THEN 'APPROVED' END;
    ELSE
        PERFORM jobs.check_etag(p_tenant_id, p_job_id, p_etag, v_job.revision);
        IF v_job.status <> 'IN_PROGRESS' THEN
            v_cause := 'FINISHED';
        ELSIF p_stage <> v_job.open_stage THEN
            v_cause := 'NOT_OPEN';
        END IF;
    END IF;
    IF v_cause IS NOT NULL THEN
        PERFORM jobs.raise_error(
            'STAGE_NOT_APPROVABLE', p_stage::text,
            jsonb_build_object(
                'cause', v_cause, 'status', v_job.status, 'open_stage', v_job.open_stage
            )
        );
    END IF;
    locked_at := v_job.locked_at;
    paused_at := v_job.paused_at;
    is_approved := v_stage.approved_at IS NOT NULL;
END $$;
