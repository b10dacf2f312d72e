-- depends on: held_executions, pg_micros, queued_status_at, read_time, released_at
-- Returns the rollout and the failure criteria of a job as JSON: its settings, the state of each
-- stage, and the criteria. Times are numbers, see pg_micros. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.rollout_details(p_tenant_id text, p_job_id text) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_sort = off
SET jit = off
AS $$
DECLARE
    v_job record;
    v_held integer[];  -- per stage
    v_stages jsonb;
    v_criteria jsonb;
BEGIN
    SELECT j.open_stage, j.max_in_progress, j.rollout_request -> 'rollout' ->> 'seed' AS seed,
           j.has_failure_criteria, j.force_canceled, j.awaiting_approval,
           CASE WHEN j.paused_at IS NULL THEN j.stage_due_at END AS stage_due_at,
           jobs.queued_status_at(j.canceled_at, j.expires_at, now()) AS queued_status,
           jobs.released_at(
               j.release_end, j.release_base, j.release_rate, j.release_since, j.paused_at,
               jobs.read_time()
           ) AS released
    INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    IF v_job.open_stage IS NOT NULL THEN
        IF v_job.queued_status = 'QUEUED' THEN
            v_held := jobs.held_executions(p_tenant_id, p_job_id, v_job.released);
        END IF;
        SELECT jsonb_agg(
            jsonb_build_object(
                -- The settings.
                'display_name', s.display_name,
                'device_count', s.device_count,
                'percent', s.percent,
                'group_id', s.group_id,
                'releases_per_minute', s.releases_per_minute,
                'min_succeeded_percent', s.min_succeeded_percent,
                'bake_seconds', s.bake_seconds,
                'advance_after_seconds', s.advance_after_seconds,
                'require_approval', s.require_approval,
                'allow_self_approval', s.allow_self_approval,
                -- The state.
                'total_executions', s.last_rank - s.first_rank + 1,
                'released', least(greatest(v_job.released - s.first_rank + 1, 0),
                                  s.last_rank - s.first_rank + 1),
                'opened_at', jobs.pg_micros(s.opened_at),
                'approved_at', jobs.pg_micros(s.approved_at),
                'approved_by', s.approved_by,
                'approval_comment', s.approval_comment,
                -- The counts.
                'held', s.held,
                'queued', s.queued,
                'in_progress', s.in_progress,
                'succeeded', s.succeeded,
                'failed', s.failed,
                'timed_out', s.timed_out,
                'rejected', s.rejected
            )
        )
        INTO v_stages
        FROM (
            SELECT s.stage, s.display_name, s.device_count, s.percent, s.group_id,
                   s.releases_per_minute, s.min_succeeded_percent, s.bake_seconds,
                   s.advance_after_seconds, s.require_approval, s.allow_self_approval,
                   s.first_rank, s.last_rank, s.opened_at, s.approved_at, s.approved_by,
                   s.approval_comment,
                   coalesce(v_held[s.stage + 1], 0) AS held,
                   CASE WHEN v_job.queued_status = 'QUEUED' THEN s.queued - v_held[s.stage + 1]
                        ELSE 0 END AS queued,
                   CASE WHEN v_job.force_canceled THEN 0 ELSE s.in_progress END AS in_progress,
                   s.succeeded,
                   s.failed,
                   s.timed_out + CASE WHEN v_job.queued_status = 'TIMED_OUT' THEN s.queued ELSE 0 END
                       AS timed_out,
                   s.rejected + CASE WHEN v_job.queued_status = 'REJECTED' THEN s.queued ELSE 0 END
                       + CASE WHEN v_job.force_canceled THEN s.in_progress ELSE 0 END AS rejected
            FROM jobs.job_stages s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
            ORDER BY s.stage
        ) s;
    END IF;

    IF v_job.has_failure_criteria THEN
        SELECT jsonb_agg(
            jsonb_build_object(
                'statuses', c.statuses,
                'failure_codes', c.failure_codes,
                'percent', c.percent,
                'count', c.count,
                'basis', c.basis,
                'min_finished', c.min_finished,
                'scope', c.scope,
                'action', c.action
            )
        )
        INTO v_criteria
        FROM (
            SELECT c.*
            FROM jobs.job_failure_criteria c
            WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
            ORDER BY c.criterion
        ) c;
    END IF;

    RETURN jsonb_build_object(
        'open_stage', v_job.open_stage,
        'max_in_progress', v_job.max_in_progress,
        'seed', v_job.seed,
        'awaiting_approval', v_job.awaiting_approval AND v_job.queued_status = 'QUEUED',
        'stage_due_at',
            CASE WHEN v_job.queued_status = 'QUEUED' THEN jobs.pg_micros(v_job.stage_due_at) END,
        'stages', v_stages,
        'failure_criteria', v_criteria
    );
END $$;
