-- Rejects the open stage of a rollout, whose gate requires an approval: pauses the job with the cause
-- STAGE_REJECTED. If the job is paused, only adds the event and changes the revision. The stage can still be
-- approved. Returns the job.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, and STAGE_NOT_APPROVABLE (with the stage, the cause, the status and the
-- open stage).
CREATE OR REPLACE FUNCTION jobs.reject_stage(
    p_tenant_id text, p_job_id text,
    p_stage integer,
    p_rejected_by text,  -- NULL: unknown
    p_comment text,
    p_etag text          -- '': any
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_stage record;
    v_cause text;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    SELECT s.require_approval, s.approved_at IS NOT NULL AS is_approved
    INTO v_stage
    FROM jobs.job_stages s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = p_stage;
    IF NOT FOUND THEN
        v_cause := 'NO_STAGE';
    ELSIF NOT v_stage.require_approval THEN
        v_cause := 'NO_APPROVAL';
    ELSIF v_stage.is_approved THEN
        v_cause := 'APPROVED';
    ELSIF v_job.status <> 'IN_PROGRESS' THEN
        v_cause := 'FINISHED';
    ELSIF p_stage <> v_job.open_stage THEN
        v_cause := 'NOT_OPEN';
    END IF;
    IF v_cause IS NOT NULL THEN
        PERFORM jobs.raise_error(
            'STAGE_NOT_APPROVABLE', p_stage::text,
            jsonb_build_object(
                'cause', v_cause, 'status', v_job.status, 'open_stage', v_job.open_stage
            )
        );
    END IF;

    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_job.locked_at, 'job.stage_rejected', p_rejected_by,
        jsonb_strip_nulls(jsonb_build_object('stage', p_stage, 'reason', nullif(p_comment, '')))
    );
    IF v_job.paused_at IS NULL THEN
        PERFORM jobs.set_paused(
            p_tenant_id, p_job_id, v_job.locked_at, 'STAGE_REJECTED', p_comment, p_rejected_by
        );
    ELSE
        -- A repeated call with the same etag must not add another event.
        UPDATE jobs.jobs j
        SET revision = j.revision + 1
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
