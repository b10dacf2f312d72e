-- Opens the stage after the open one. The executions of earlier stages that are not released yet are
-- released first, at the rate of the new stage. If the job has not started, the stage opens at its start. The
-- caller holds the job lock, has set the tenant, and has checked that there is a next stage.
CREATE OR REPLACE FUNCTION jobs.open_next_stage(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_cause text,   -- as in Event.cause
    p_user_id text  -- of the call that opens it; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_stage record;
BEGIN
    SELECT s.stage, s.last_rank, s.releases_per_minute, greatest(p_now, j.start_at) AS opened_at
    INTO v_stage
    FROM jobs.jobs j
    JOIN jobs.job_stages s
        ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id AND s.stage = j.open_stage + 1
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.set_release(
        p_tenant_id, p_job_id, v_stage.last_rank, v_stage.releases_per_minute, p_now
    );
    UPDATE jobs.job_stages s
    SET opened_at = v_stage.opened_at, active_since = v_stage.opened_at
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_stage.stage;
    UPDATE jobs.jobs j
    SET open_stage = v_stage.stage, stage_due_at = NULL, awaiting_approval = false
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, p_now, 'job.stage_opened', p_user_id,
        jsonb_build_object('stage', v_stage.stage, 'cause', p_cause)
    );
END $$;
