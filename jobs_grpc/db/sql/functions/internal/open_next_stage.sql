-- depends on: release_with_rate
-- Opens the stage after the open one. The executions of earlier stages that are not released yet are
-- released first, at the rate of the new stage. If the job has not started, the stage opens at its start. The
-- caller holds the job lock, has set the tenant, and has checked that there is a next stage.
CREATE OR REPLACE FUNCTION jobs.open_next_stage(
    p_tenant_id text,
    p_job_id text,
    p_now timestamptz,
    p_cause text,   -- as in Event.cause
    p_user_id text  -- of the call that opens it; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_stage smallint;
    v_release_end integer;
    v_release_rate integer;
    v_release record;
    v_opened_at timestamptz;
BEGIN
    SELECT s.stage, s.last_rank, s.releases_per_minute, greatest(p_now, j.start_at)
    INTO v_stage, v_release_end, v_release_rate, v_opened_at
    FROM jobs.jobs j
    JOIN jobs.job_stages s
        ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id AND s.stage = j.open_stage + 1
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    v_release := jobs.release_with_rate(p_tenant_id, p_job_id, v_release_rate, p_now);

    UPDATE jobs.job_stages s
    SET opened_at = v_opened_at, active_since = v_opened_at
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_stage;

    UPDATE jobs.jobs j
    SET open_stage = v_stage, release_end = v_release_end, release_base = v_release.release_base,
        release_rate = v_release_rate, release_since = v_release.release_since, stage_due_at = NULL,
        awaiting_approval = false
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, p_now, 'job.stage_opened', p_user_id,
        jsonb_build_object('stage', v_stage, 'cause', p_cause)
    );
END $$;
