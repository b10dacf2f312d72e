-- depends on: job_details
-- Approves the open stage of a rollout, which opens the next one if the rest of the gate is met, and
-- returns the job. If the stage is already approved, changes nothing.
--
-- Raises JOB_NOT_FOUND, STAGE_NOT_APPROVABLE and SELF_APPROVAL (both with the stage).
CREATE OR REPLACE FUNCTION jobs.approve_stage(
    p_tenant_id text, p_job_id text, p_stage integer, p_approved_by text, p_comment text
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Planning takes longer than these lookups by primary key.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_job record;
    v_stage record;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    v_job := jobs.lock_job(p_tenant_id, p_job_id);
    PERFORM jobs.set_read_time(v_job.locked_at);
    SELECT s.approved_at, s.stage = j.open_stage AND v_job.status = 'IN_PROGRESS' AS is_open,
           NOT s.allow_self_approval
               AND coalesce(j.created_by = p_approved_by, true) AS is_self_approval
    INTO v_stage
    FROM jobs.jobs j
    JOIN jobs.job_stages s ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND s.stage = p_stage AND s.require_approval;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('STAGE_NOT_APPROVABLE', p_stage::text);
    ELSIF v_stage.is_self_approval THEN
        PERFORM jobs.raise_error('SELF_APPROVAL', p_stage::text);
    END IF;

    IF v_stage.approved_at IS NULL THEN
        IF NOT v_stage.is_open THEN
            PERFORM jobs.raise_error('STAGE_NOT_APPROVABLE', p_stage::text);
        END IF;
        UPDATE jobs.job_stages s
        SET approved_at = v_job.locked_at, approved_by = p_approved_by,
            approval_comment = p_comment
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = p_stage;
        UPDATE jobs.jobs j
        SET awaiting_approval = false, revision = j.revision + 1
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_job.locked_at);
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
