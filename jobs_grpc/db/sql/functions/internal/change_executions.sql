-- Carries out the changes whose outcome is APPLIED; the others are ignored. For these changes, in this order:
-- writes the executions, counts them, adds the events of the attempts that ended, completes the jobs that have
-- no pending execution anymore, and applies failure criteria and gates. See docs/counts.md. The caller holds
-- the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.change_executions(
    p_tenant_id text,
    p_changes jobs.execution_change[],
    p_now timestamptz,
    p_user_id text DEFAULT NULL  -- the subject of the call that ended attempts; NULL: unknown or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_finished_job_ids text[];
    v_has_other_counts boolean;  -- a change affects counts other than those of statuses in job_progress
    v_has_rules boolean;         -- an attempt ended in a job with failure criteria or gates
    v_execution_events boolean;  -- an attempt ended in a job with execution_events
    v_job record;
BEGIN
    -- The row of an attempt that failed and is retried is written once: as the next attempt. decide_retries has
    -- stored the attempt that failed. canceled_by_operator is also set for a removed device, so that its own late
    -- report of REJECTED is rejected instead of counting as repeated. It is not set if the device itself accepted
    -- the cancel of the job: that is the only end with JOB_CANCELED here.
    --
    -- row_id is the ctid of the execution. It stays valid, because the caller holds the job lock, and only a
    -- transaction that holds it updates or deletes executions.
    WITH written AS (
        UPDATE jobs.job_executions e
        SET status = CASE WHEN c.is_requeued THEN 'QUEUED' ELSE c.new_status END,
            execution_number = e.execution_number + c.is_requeued::integer,
            version = e.version + 1 + c.is_requeued::integer,
            canceled_by_operator = coalesce(c.end_cause <> 'JOB_CANCELED', false),
            queued_at = CASE WHEN c.is_requeued THEN p_now ELSE e.queued_at END,
            started_at = CASE WHEN c.is_requeued THEN NULL
                              WHEN c.new_status = 'IN_PROGRESS' THEN coalesce(e.started_at, p_now)
                              ELSE e.started_at END,
            times_out_at = c.times_out_at,
            last_updated_at = p_now,
            status_details = CASE WHEN NOT c.is_requeued
                                  THEN coalesce(c.status_details, e.status_details) END,
            failure_code = CASE WHEN NOT c.is_requeued THEN c.failure_code END,
            -- See the column ended_number.
            end_cause = CASE WHEN c.new_status = 'TIMED_OUT' AND NOT c.is_requeued THEN 'TIMEOUT'
                             ELSE c.end_cause END,
            ended_number = CASE WHEN c.new_status <> 'TIMED_OUT' AND coalesce(c.end_cause = 'JOB_CANCELED', true)
                                    THEN NULL  -- the device itself changes the attempt
                                WHEN e.status = 'IN_PROGRESS' THEN e.execution_number
                                ELSE e.ended_number END,
            /* for each reported FIELD: FIELD = CASE WHEN NOT c.is_requeued THEN coalesce(c.FIELD, e.FIELD) END */,
            retries = e.retries + c.needs_retry::integer,
            not_before = c.not_before,
            failed_status = CASE WHEN c.is_requeued THEN c.new_status
                                 WHEN c.keeps_failure THEN e.failed_status END,
            failed_code = CASE WHEN c.is_requeued THEN c.failure_code
                               WHEN c.keeps_failure THEN e.failed_code END,
            failed_at = CASE WHEN c.is_requeued THEN p_now
                             WHEN c.keeps_failure THEN e.failed_at END
        FROM (
            SELECT c.*, c.not_before IS NOT NULL AS is_requeued,
                   -- The attempt neither replaces nor removes the earlier failure: see contributions.
                   c.failure_code IS NULL AND c.new_status <> 'SUCCEEDED' AS keeps_failure
            FROM unnest(p_changes) c
            WHERE c.outcome = 'APPLIED'
        ) c
        WHERE e.tenant_id = p_tenant_id AND e.ctid = c.row_id
        RETURNING c.job_id, c.stored_status AS old_status, e.status AS new_status,
                  -- Progress of an execution that stays IN_PROGRESS changes no count.
                  c.new_status <> c.stored_status
                      AND (c.stage IS NOT NULL OR c.failure_code IS NOT NULL OR c.failed_at IS NOT NULL)
                      AS has_other_counts,
                  c.is_expired, c.new_status <> 'IN_PROGRESS' AND c.has_rules AS has_rules,
                  c.new_status <> 'IN_PROGRESS' AND c.execution_events AS execution_events
    ), counted AS (
        UPDATE jobs.job_progress p
        SET queued = p.queued - c.from_queued + c.to_queued,
            in_progress = p.in_progress - c.from_in_progress + c.to_in_progress,
            succeeded = p.succeeded + c.to_succeeded, failed = p.failed + c.to_failed,
            timed_out = p.timed_out + c.to_timed_out, rejected = p.rejected + c.to_rejected
        FROM (
            SELECT c.*, p.row_id
            FROM (
                SELECT w.job_id, bool_or(w.is_expired) AS is_expired,
                       bool_or(w.has_other_counts) AS has_other_counts, bool_or(w.has_rules) AS has_rules,
                       bool_or(w.execution_events) AS execution_events,
                       count(*) FILTER (WHERE w.old_status = 'QUEUED') AS from_queued,
                       count(*) FILTER (WHERE w.old_status = 'IN_PROGRESS') AS from_in_progress,
                       count(*) FILTER (WHERE w.new_status = 'QUEUED') AS to_queued,
                       count(*) FILTER (WHERE w.new_status = 'IN_PROGRESS') AS to_in_progress,
                       count(*) FILTER (WHERE w.new_status = 'SUCCEEDED') AS to_succeeded,
                       count(*) FILTER (WHERE w.new_status = 'FAILED') AS to_failed,
                       count(*) FILTER (WHERE w.new_status = 'TIMED_OUT') AS to_timed_out,
                       count(*) FILTER (WHERE w.new_status = 'REJECTED') AS to_rejected
                FROM written w
                GROUP BY w.job_id
            ) c
            CROSS JOIN LATERAL (
                SELECT p.ctid AS row_id
                FROM jobs.job_progress p
                WHERE p.tenant_id = p_tenant_id AND p.job_id = c.job_id
                OFFSET 0
            ) p
        ) c
        WHERE p.tenant_id = p_tenant_id AND p.ctid = c.row_id
        RETURNING p.job_id, p.in_progress = 0 AND (p.queued = 0 OR c.is_expired) AS is_finished,
                  c.has_other_counts, c.has_rules, c.execution_events
    )
    SELECT array_agg(c.job_id) FILTER (WHERE c.is_finished), bool_or(c.has_other_counts),
           bool_or(c.has_rules), bool_or(c.execution_events)
    INTO v_finished_job_ids, v_has_other_counts, v_has_rules, v_execution_events
    FROM counted c;

    IF v_has_other_counts THEN
        PERFORM jobs.count_changes(p_tenant_id, p_changes, p_now);
    END IF;
    IF v_execution_events THEN
        PERFORM jobs.add_finished_events(p_tenant_id, p_changes, p_now, p_user_id);
    END IF;
    IF v_finished_job_ids IS NOT NULL THEN
        PERFORM jobs.complete_finished_jobs(p_tenant_id, v_finished_job_ids, p_now, p_user_id);
    END IF;
    IF v_has_rules THEN
        FOR v_job IN
            -- If others have ended the executions, no criterion can trip: only the gates are checked.
            SELECT c.job_id, bool_or(c.new_status <> 'SUCCEEDED') FILTER (WHERE c.end_cause IS NULL)
                       AS has_failures,
                   array_agg(c.stage) AS stages, array_agg(c.failed_at) AS failed_ats
            FROM unnest(p_changes) c
            WHERE c.outcome = 'APPLIED' AND c.has_rules AND c.new_status <> 'IN_PROGRESS'
            GROUP BY c.job_id
        LOOP
            PERFORM jobs.apply_rollout_rules(
                p_tenant_id, v_job.job_id, p_now, v_job.has_failures, v_job.stages, v_job.failed_ats
            );
        END LOOP;
    END IF;
END $$;
