-- Returns the rollout and the failure criteria of a job as JSON: its settings, the state of each
-- stage, the criteria, and what they have counted. Times are numbers, see pg_micros. The caller has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.rollout_details(p_tenant_id text, p_job_id text) RETURNS json
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
DECLARE
    v_job record;
    v_held integer[];  -- per stage
    v_stages json;
    v_criteria json;
    v_states json;  -- of the criteria
BEGIN
    SELECT j.open_stage, j.max_in_progress,
           j.request -> 'rollout' ->> 'seed' AS seed,
           j.has_failure_criteria, j.canceled_at, j.force_canceled, j.awaiting_approval,
           CASE WHEN j.paused_at IS NULL THEN j.stage_due_at END AS stage_due_at,
           coalesce(j.start_at > jobs.read_time(), false) AS is_before_start,
           jobs.queued_status_at(j.canceled_at, j.expires_at, jobs.now()) AS queued_status,
           jobs.released_count_at(j.release, jobs.read_time()) AS released
    INTO v_job
    FROM jobs.jobs_with_release j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    IF v_job.open_stage IS NOT NULL THEN
        IF v_job.queued_status = 'QUEUED' THEN
            v_held := jobs.held_executions(p_tenant_id, p_job_id, v_job.released);
        END IF;
        SELECT json_agg(s)
        INTO v_stages
        FROM (
            SELECT
                s.display_name, s.device_count, s.percent, s.group_id, s.selector,
                s.releases_per_minute, s.min_succeeded_percent, s.bake_seconds, s.advance_after_seconds,
                s.require_approval, s.allow_self_approval, s.allow_empty,
                s.last_rank - s.first_rank + 1 AS total_executions,
                least(greatest(v_job.released - s.first_rank + 1, 0),
                      s.last_rank - s.first_rank + 1) AS released,
                jobs.pg_micros(s.opened_at) AS opened_at,
                jobs.pg_micros(s.approved_at) AS approved_at,
                s.approved_by, s.approval_comment,
                coalesce(v_held[s.stage + 1], 0) AS held,
                CASE WHEN v_job.queued_status = 'QUEUED' THEN s.queued - v_held[s.stage + 1]
                     ELSE 0 END AS queued,
                CASE WHEN v_job.force_canceled THEN 0 ELSE s.in_progress END AS in_progress,
                s.succeeded,
                s.failed,
                s.timed_out + CASE WHEN v_job.queued_status = 'TIMED_OUT' THEN s.queued ELSE 0 END
                    AS timed_out,
                s.rejected + CASE WHEN v_job.queued_status = 'REJECTED' THEN s.queued ELSE 0 END
                    + CASE WHEN v_job.force_canceled THEN s.in_progress ELSE 0 END AS rejected,
                CASE WHEN v_job.queued_status = 'QUEUED' THEN s.retrying
                     WHEN v_job.force_canceled THEN 0 ELSE s.retrying_in_progress END AS retrying
            FROM jobs.job_stages s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
            ORDER BY s.stage
        ) s;
    END IF;

    IF v_job.has_failure_criteria THEN
        SELECT json_agg(c)
        INTO v_criteria
        FROM (
            SELECT c.statuses, c.failure_codes, c.percent, c.count, c.basis, c.min_finished, c.scope,
                   c.action
            FROM jobs.job_failure_criteria c
            WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
            ORDER BY c.criterion
        ) c;
        SELECT json_agg(s)
        INTO v_states
        FROM (
            SELECT s.criterion, nullif(s.stage, -1) AS stage, s.failures, s.basis_size, s.threshold
            FROM jobs.criterion_states(
                -- A cancel ends the release of executions.
                p_tenant_id, p_job_id, least(jobs.read_time(), v_job.canceled_at), NULL
            ) s
            WHERE s.stage <= coalesce(v_job.open_stage, -1)
            ORDER BY s.criterion, s.stage
        ) s;
    END IF;

    RETURN json_build_object(
        'open_stage', v_job.open_stage,
        'max_in_progress', v_job.max_in_progress,
        'seed', v_job.seed,
        'is_before_start', v_job.is_before_start,
        'is_ended_early', v_job.queued_status <> 'QUEUED',  -- canceled or expired: no execution can start
        'awaiting_approval', v_job.awaiting_approval AND v_job.queued_status = 'QUEUED',
        'stage_due_at',
            CASE WHEN v_job.queued_status = 'QUEUED' THEN jobs.pg_micros(v_job.stage_due_at) END,
        'stages', v_stages,
        'failure_criteria', v_criteria,
        'criterion_states', v_states
    );
END $$;
