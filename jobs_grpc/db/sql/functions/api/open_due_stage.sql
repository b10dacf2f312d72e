-- Applies the rules of a job whose stage_due_at has passed, which may open the next stage because of a
-- bake_time or an advance_after. Returns whether the job was due. For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.open_due_stage(
    p_tenant_id text, p_job_id text, p_wait_ms integer
) RETURNS boolean
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_now timestamptz;
    v_is_due boolean;
BEGIN
    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN false;
    END IF;
    v_now := jobs.clock_time();

    -- Compared in the select list, not in WHERE. There, the planner could use an index of another
    -- search, and read other jobs.
    SELECT j.stage_due_at <= v_now AND j.paused_at IS NULL AND j.status = 'IN_PROGRESS'
               AND j.deleted_at IS NULL
    INTO v_is_due
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_is_due IS NOT TRUE THEN
        RETURN false;
    END IF;

    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);
    -- The rules do nothing if the job has expired. Without this, the search would find it again.
    SELECT j.stage_due_at <= v_now INTO v_is_due
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_is_due THEN
        UPDATE jobs.jobs j
        SET stage_due_at = NULL
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    END IF;
    RETURN true;
END $$;
