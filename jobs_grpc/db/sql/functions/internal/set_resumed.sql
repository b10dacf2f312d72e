-- Ends the pause of a job that is IN_PROGRESS and paused, and applies its rules, which can pause it again. Resets
-- the counts of the failure criteria to 0. The release of executions and the times of the open stage's gate
-- continue where the pause stopped them; before the start of the job, they do not change. The number of rows
-- that it writes does not depend on the number of devices. The caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.set_resumed(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_user_id text  -- NULL: unknown
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_paused_at timestamptz;
    v_open_stage smallint;
    v_active_since timestamptz;
    v_gate_met_since timestamptz;
    v_release_since timestamptz;
BEGIN
    -- greatest: AdvanceJob can have opened the stage during the pause.
    SELECT j.paused_at, j.open_stage,
           s.active_since + greatest(
               jobs.elapsed_time(greatest(s.active_since, j.paused_at), p_now), '0'
           ),
           s.gate_met_since + greatest(
               jobs.elapsed_time(greatest(s.gate_met_since, j.paused_at), p_now), '0'
           ),
           j.release_since + greatest(
               jobs.elapsed_time(greatest(j.release_since, j.paused_at), p_now), '0'
           )
    INTO v_paused_at, v_open_stage, v_active_since, v_gate_met_since, v_release_since
    FROM jobs.jobs j
    LEFT JOIN jobs.job_stages s
        ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id AND s.stage = j.open_stage
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    -- greatest: the clock may have been set back after the failures that paused the job.
    PERFORM jobs.restart_criteria(p_tenant_id, p_job_id, greatest(p_now, v_paused_at));
    UPDATE jobs.job_stages s
    SET active_since = v_active_since, gate_met_since = v_gate_met_since,
        gate_failure_accepted = s.queued + s.in_progress = 0
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_open_stage;

    UPDATE jobs.jobs j
    SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, pause_cause = NULL,
        release_since = v_release_since, revision = j.revision + 1, updated_at = p_now
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    -- If the join brake has stopped joins, a new hour begins, with a full scan.
    UPDATE jobs.continuous_jobs c
    SET is_stopped = false, hour_started_at = NULL, is_behind = true, rescan_at = p_now, scan_due_at = p_now
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.is_stopped;
    PERFORM jobs.add_event(p_tenant_id, p_job_id, p_now, 'job.resumed', p_user_id);
    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, p_now);
END $$;
