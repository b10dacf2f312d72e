-- Ends the pause of a job and returns the job. If the job is not paused, changes nothing. Resets the
-- counts of the failure criteria to 0. The release of executions and the times of the open stage's gate
-- continue where the pause stopped them; before the start of the job, they do not change. The number of rows
-- that it writes does not depend on the number of devices.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, JOB_NOT_RESUMABLE (with the status), and GATE_NOT_MET (with the
-- stage).
CREATE OR REPLACE FUNCTION jobs.resume_job(
    p_tenant_id text, p_job_id text,
    p_etag text,                 -- '': any
    p_user_id text DEFAULT NULL  -- NULL: unknown
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_open_stage smallint;
    v_failed_stage smallint;
    v_active_since timestamptz;
    v_gate_met_since timestamptz;
    v_release_since timestamptz;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    IF v_job.status <> 'IN_PROGRESS' THEN
        PERFORM jobs.raise_error('JOB_NOT_RESUMABLE', v_job.status::text);
    END IF;

    IF v_job.paused_at IS NOT NULL THEN
        -- greatest: the clock may have been set back after the failures that paused the job.
        PERFORM jobs.restart_criteria(
            p_tenant_id, p_job_id, greatest(v_job.locked_at, v_job.paused_at)
        );
        -- greatest: AdvanceJob can have opened the stage during the pause.
        SELECT j.open_stage,
               s.active_since + greatest(
                   jobs.elapsed_time(greatest(s.active_since, j.paused_at), v_job.locked_at), '0'
               ),
               s.gate_met_since + greatest(
                   jobs.elapsed_time(greatest(s.gate_met_since, j.paused_at), v_job.locked_at), '0'
               ),
               j.release_since + greatest(
                   jobs.elapsed_time(greatest(j.release_since, j.paused_at), v_job.locked_at), '0'
               )
        INTO v_open_stage, v_active_since, v_gate_met_since, v_release_since
        FROM jobs.jobs j
        LEFT JOIN jobs.job_stages s
            ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id AND s.stage = j.open_stage
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        UPDATE jobs.job_stages s
        SET active_since = v_active_since, gate_met_since = v_gate_met_since,
            gate_failure_accepted = s.queued + s.in_progress = 0
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_open_stage;

        UPDATE jobs.jobs j
        SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, pause_cause = NULL,
            release_since = v_release_since, revision = j.revision + 1, updated_at = v_job.locked_at
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, v_job.locked_at, 'job.resumed', p_user_id
        );

        PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_job.locked_at);
        SELECT j.open_stage INTO v_failed_stage
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
          AND j.pause_cause = 'GATE_NOT_MET';
        IF FOUND THEN
            PERFORM jobs.raise_error('GATE_NOT_MET', v_failed_stage::text);
        END IF;
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
