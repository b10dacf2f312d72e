-- Jobs as readers see them, with derived status and counts.
CREATE OR REPLACE VIEW jobs.job_states WITH (security_invoker = true) AS
SELECT
    j.tenant_id,
    j.job_id,
    j.document_type,
    j.document_params,
    j.target_device_id,
    j.target_group_id,
    j.target_all,
    jobs.job_status_with_pause_at(
        j.status, j.expires_at, p.in_progress, j.paused_at,
        j.start_at IS NOT NULL AND j.start_at > jobs.read_time(), jobs.now()
    ) AS status,
    j.expires_at,
    j.created_by,
    j.created_at,
    CASE WHEN derived.status = j.status THEN j.updated_at ELSE j.expires_at END AS updated_at,
    nullif(j.cancel_reason, '') AS cancel_reason,
    p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected
        AS total_executions,
    CASE WHEN derived.queued_status = 'QUEUED' THEN p.queued - rollout.held ELSE 0 END AS queued,
    CASE WHEN j.force_canceled THEN 0 ELSE p.in_progress END AS in_progress,
    p.succeeded,
    p.failed,
    p.timed_out + CASE WHEN derived.queued_status = 'TIMED_OUT' THEN p.queued ELSE 0 END
        AS timed_out,
    p.rejected + CASE WHEN derived.queued_status = 'REJECTED' THEN p.queued ELSE 0 END
        + CASE WHEN j.force_canceled THEN p.in_progress ELSE 0 END AS rejected,
    CASE WHEN derived.status = j.status THEN j.completed_at ELSE j.expires_at END AS completed_at,
    j.in_progress_timeout_minutes,
    j.status AS stored_status,
    j.paused_at,
    j.paused_by,
    j.pause_reason,
    j.revision,
    rollout.held,
    CASE WHEN j.paused_at IS NOT NULL THEN coalesce(j.pause_cause, 'OPERATOR') END AS pause_cause,
    j.trip,
    j.release_end IS NOT NULL OR j.has_failure_criteria AS has_rollout_details,
    j.labels,
    j.description,
    j.target_selector,
    j.target_device_count,
    j.target_failed_in,
    j.start_at,
    j.start_windows,
    CASE WHEN j.start_windows IS NULL THEN '' ELSE coalesce(j.window_time_zone, 'DEVICE') END
        AS window_time_zone,
    j.retry_policy,
    j.priority,
    CASE WHEN derived.queued_status = 'QUEUED' THEN p.retrying
         WHEN j.force_canceled THEN 0 ELSE p.retrying_in_progress END AS retrying_count,
    jobs.exceeds_retry_budget(
        p.retried_devices,
        coalesce(
            -- A cancel ends the release of executions.
            jobs.released_count_at(j.release, least(jobs.read_time(), j.canceled_at)),
            p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected
        )
    ) AS retry_budget_exhausted,
    j.execution_events,
    j.replaces_job_id,
    j.replaced_by_job_id,
    j.start_approval,
    j.is_continuous AND derived.queued_status = 'QUEUED' AS continuous,
    j.joined_count,
    CASE WHEN j.joined_count IS NOT NULL THEN jobs.joins_details(j.tenant_id, j.job_id) END AS joins
FROM jobs.jobs_with_release j
JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
CROSS JOIN LATERAL (
    SELECT
        jobs.job_status_at(j.status, j.expires_at, p.in_progress, jobs.now()) AS status,
        jobs.queued_status_at(j.canceled_at, j.expires_at, jobs.now()) AS queued_status
    OFFSET 0  -- computed once
) derived
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN j.release_since IS NULL OR p.queued = 0 OR derived.queued_status <> 'QUEUED' THEN 0
        -- Without a rollout, all are HELD until the start.
        WHEN j.release_end IS NULL THEN CASE
            WHEN least(jobs.read_time(), j.paused_at) < j.release_since THEN p.queued ELSE 0
        END
        ELSE (
            SELECT sum(stages.held)::integer
            FROM unnest(jobs.held_executions(
                j.tenant_id, j.job_id,
                jobs.released_count_at(j.release, jobs.read_time())
            )) AS stages (held)
        )
    END AS held
    OFFSET 0  -- computed once
) rollout
WHERE j.deleted_at IS NULL;
