-- Rejects the open stage of a rollout, whose gate requires an approval: pauses the job with the cause
-- STAGE_REJECTED, also if the cause was START_APPROVAL. If the job is paused for another cause, only adds the
-- event and changes the revision. The stage can still be approved. Returns the job.
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
    v_cause text;
BEGIN
    v_job := jobs.lock_job_for_approval(
        p_tenant_id, p_job_id, p_stage, p_etag, p_rejected_by, p_approves => false
    );
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_job.locked_at, 'job.stage_rejected', p_rejected_by,
        jsonb_strip_nulls(jsonb_build_object('stage', p_stage, 'reason', nullif(p_comment, '')))
    );
    SELECT j.pause_cause INTO v_cause
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    -- An approval of the start does not end the pause of a rejection.
    IF v_job.paused_at IS NULL OR v_cause = 'START_APPROVAL' THEN
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
