-- Checks the gate of a job's open stage. If it is met, opens the next stage, and repeats the check for
-- that stage. Pauses the job if the gate cannot be met anymore. Before the start of the job, gates are
-- evaluated as of the start, so that their times count from it. The caller holds the job lock, has set
-- the tenant, and has checked that the job has a rollout and is neither finished nor paused.
CREATE OR REPLACE FUNCTION jobs.apply_gates(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_user_id text  -- of the call that approved the open stage; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
    v_stage record;
    v_is_empty boolean;
    v_is_finished boolean;
    v_is_successful boolean;  -- the part of the gate that counts executions is met
    v_met_since timestamptz;
    v_opens_at timestamptz;   -- the time at which the gate opens the next stage; NULL: unknown
    v_can_open boolean;       -- apart from a missing approval
BEGIN
    LOOP
        SELECT j.open_stage, j.awaiting_approval, p.queued + p.in_progress AS pending,
               greatest(p_now, j.start_at) AS evaluated_at
        INTO v_job
        FROM jobs.jobs j
        JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
          AND NOT jobs.is_expired_at(j.expires_at, p_now);
        IF NOT FOUND THEN
            RETURN;
        END IF;

        SELECT s.* INTO v_stage
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_job.open_stage;
        PERFORM FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_job.open_stage + 1;
        IF NOT FOUND THEN
            RETURN;  -- The last stage has no gate.
        END IF;

        v_is_empty := v_stage.last_rank < v_stage.first_rank;
        v_is_finished := v_stage.queued + v_stage.in_progress = 0;
        v_is_successful := CASE
            WHEN v_is_empty THEN true
            WHEN v_stage.min_succeeded_percent IS NULL THEN v_is_finished
            ELSE v_stage.succeeded::bigint * 100
                 >= v_stage.min_succeeded_percent::bigint
                    * (v_stage.last_rank - v_stage.first_rank + 1)
        END;
        v_met_since := CASE WHEN v_is_successful
                            THEN coalesce(v_stage.gate_met_since, v_job.evaluated_at) END;
        -- least() ignores NULL. An empty stage has no bake_time.
        v_opens_at := least(
            v_met_since + make_interval(
                secs => CASE WHEN v_is_empty THEN 0 ELSE v_stage.bake_seconds END
            ),
            v_stage.active_since + make_interval(secs => v_stage.advance_after_seconds)
        );
        v_can_open := coalesce(v_opens_at <= v_job.evaluated_at, false);

        IF v_met_since IS DISTINCT FROM v_stage.gate_met_since
           OR v_stage.gate_failure_accepted AND NOT v_is_finished THEN
            UPDATE jobs.job_stages s
            SET gate_met_since = v_met_since,
                gate_failure_accepted = s.gate_failure_accepted AND v_is_finished
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
              AND s.stage = v_job.open_stage;
        END IF;

        EXIT WHEN NOT v_can_open OR v_stage.require_approval AND v_stage.approved_at IS NULL;
        PERFORM jobs.open_next_stage(p_tenant_id, p_job_id, p_now, 'GATE', p_user_id);
    END LOOP;

    UPDATE jobs.jobs j
    SET awaiting_approval = v_can_open,
        stage_due_at = CASE WHEN NOT v_can_open THEN v_opens_at END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND (j.awaiting_approval, j.stage_due_at) IS DISTINCT FROM
          (v_can_open, CASE WHEN NOT v_can_open THEN v_opens_at END);
    IF v_can_open AND NOT v_job.awaiting_approval THEN
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, p_now, 'job.awaiting_approval', NULL,
            jsonb_build_object('stage', v_stage.stage)
        );
    ELSIF v_is_finished AND NOT v_is_successful AND NOT v_can_open AND v_job.pending > 0
          AND (v_stage.advance_after_seconds IS NULL OR NOT v_stage.gate_failure_accepted) THEN
        PERFORM jobs.set_paused(
            p_tenant_id, p_job_id, p_now, 'GATE_NOT_MET',
            format(
                'stage %s is finished: %s %% succeeded, %s %% required',
                v_stage.stage,
                v_stage.succeeded::bigint * 100 / (v_stage.last_rank - v_stage.first_rank + 1),
                v_stage.min_succeeded_percent
            ),
            NULL
        );
    END IF;
END $$;
