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
BEGIN
    v_job := jobs.lock_job_for_approval(
        p_tenant_id, p_job_id, p_stage, p_etag, p_approved_by, p_approves => true
    );
    IF NOT v_job.is_approved THEN
        UPDATE jobs.job_stages s
        SET approved_at = v_job.locked_at, approved_by = p_approved_by,
            approval_comment = p_comment
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = p_stage;
        UPDATE jobs.jobs j
        SET awaiting_approval = false, revision = j.revision + 1
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, v_job.locked_at, 'job.stage_approved', p_approved_by,
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
