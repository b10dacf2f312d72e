-- Approves the open stage of a rollout, which opens the next one if the rest of the gate is met, and
-- returns the job. If the stage is already approved, changes nothing.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, STAGE_NOT_APPROVABLE and SELF_APPROVAL (both with the stage).
-- STAGE_NOT_APPROVABLE also has the cause, the status and the open stage.
CREATE OR REPLACE FUNCTION jobs.approve_stage(
    p_tenant_id text, p_job_id text,
    p_stage integer,
    p_approved_by text,
    p_comment text,
    p_etag text DEFAULT ''  -- '': any. Not checked if the stage is approved, so that the call is safe to repeat.
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_stage record;
    v_cause text;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id);
    SELECT s.require_approval, s.approved_at,
           NOT s.allow_self_approval
               AND coalesce(j.created_by = p_approved_by, true) AS is_self_approval
    INTO v_stage
    FROM jobs.jobs j
    JOIN jobs.job_stages s ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND s.stage = p_stage;
    IF NOT FOUND THEN
        v_cause := 'NO_STAGE';
    ELSIF NOT v_stage.require_approval THEN
        v_cause := 'NO_APPROVAL';
    ELSIF v_stage.is_self_approval THEN
        PERFORM jobs.raise_error('SELF_APPROVAL', p_stage::text);
    ELSIF v_stage.approved_at IS NULL THEN
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

    IF v_stage.approved_at IS NULL THEN
        UPDATE jobs.job_stages s
        SET approved_at = v_job.locked_at, approved_by = p_approved_by,
            approval_comment = p_comment
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = p_stage;
        UPDATE jobs.jobs j
        SET awaiting_approval = false, revision = j.revision + 1
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, v_job.locked_at, 'job.approved', p_approved_by,
            jsonb_strip_nulls(
                jsonb_build_object('stage', p_stage, 'reason', nullif(p_comment, ''))
            )
        );
        PERFORM jobs.apply_rollout_rules(
            p_tenant_id, p_job_id, v_job.locked_at, p_user_id => p_approved_by
        );
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
