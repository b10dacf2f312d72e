-- Opens the next stage of a rollout, even if the gate of the open stage is not met, and returns the job.
-- If p_stage is already open or has passed, changes nothing. No stage opens before the job starts. The number
-- of rows that it writes does not depend on the number of devices.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, JOB_NOT_ADVANCEABLE (with the status, the open stage and the last
-- stage), START_NOT_APPROVED, and APPROVAL_REQUIRED (with the stage).
CREATE OR REPLACE FUNCTION jobs.advance_job(
    p_tenant_id text, p_job_id text,
    p_stage integer,  -- the stage to open; NULL: the one after the open stage
    p_etag text,      -- '': any
    p_user_id text DEFAULT NULL  -- NULL: unknown
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_last_stage integer;
    v_is_approved boolean;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);

    IF p_stage IS NULL OR v_job.open_stage IS NULL OR p_stage > v_job.open_stage THEN
        SELECT max(s.stage) INTO v_last_stage
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
        IF v_last_stage IS NULL OR v_job.open_stage = v_last_stage OR p_stage > v_job.open_stage + 1
           OR v_job.status <> 'IN_PROGRESS' OR v_job.start_at > v_job.locked_at THEN
            PERFORM jobs.raise_error(
                'JOB_NOT_ADVANCEABLE', v_job.status_text,
                jsonb_build_object(
                    'stage', p_stage, 'open_stage', v_job.open_stage, 'last_stage', v_last_stage,
                    'is_started', coalesce(v_job.start_at <= v_job.locked_at, true)
                )
            );
        END IF;

        PERFORM jobs.check_start_approved(p_tenant_id, p_job_id);
        SELECT NOT s.require_approval OR s.approved_at IS NOT NULL INTO v_is_approved
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_job.open_stage;
        IF NOT v_is_approved THEN
            PERFORM jobs.raise_error('APPROVAL_REQUIRED', v_job.open_stage::text);
        END IF;

        PERFORM jobs.open_next_stage(
            p_tenant_id, p_job_id, v_job.locked_at, 'OPERATOR', p_user_id
        );
        UPDATE jobs.jobs j
        SET revision = j.revision + 1
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_job.locked_at);
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
