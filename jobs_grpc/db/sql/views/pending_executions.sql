-- The queue of each device: its executions that are pending, as readers see them. Its order is
-- (is_queued, queue_order, queued_at, job_id), which the index job_executions_queue delivers. After the
-- queue, the index has finished executions: a condition with its expression leaves them out.
--
-- A device does not see those that wait: pages and starts leave out is_waiting, and watches
-- is_waiting_in_watch, which adds the opening_delay.
--
-- Each job is looked up by its key, whatever the statistics say: DISTINCT ON keeps the planner from
-- turning the sub-selects into joins. Unlike OFFSET 0, it lets the condition on tenant_id through, and
-- Citus needs the value of tenant_id in each sub-select.
CREATE OR REPLACE VIEW jobs.pending_executions WITH (security_invoker = true) AS
SELECT
    e.tenant_id,
    e.device_id,
    e.started_at IS NULL AS is_queued,
    e.queue_order,
    e.queued_at,
    e.job_id,
    e.status::text AS status,
    e.status_details,
    e.execution_number,
    e.version,
    e.started_at,
    e.last_updated_at,
    CASE WHEN e.status = 'IN_PROGRESS' THEN e.times_out_at END AS times_out_at,
    e.failure_code,
    j.document_type,
    j.expires_at,
    -- Whether a start would keep the job's max_in_progress.
    coalesce(p.in_progress < j.max_in_progress, true) AS has_slot,
    -- Changes whenever the device would see something else; the fingerprint of a device consists of
    -- these texts. The version of a job that is deleted and created again with the same id starts at 1
    -- again, so the text contains queued_at.
    --
    -- If the job has max_in_progress, the text also changes when a slot becomes free. While the job is
    -- full, it does not count finished attempts: another execution takes each free slot at once.
    -- Otherwise it counts them: the job may have been full for a time between two reads of the text.
    e.job_id || ' ' || e.version::text || ' ' || jobs.pg_micros(e.queued_at)::text
        || coalesce(' ' || jobs.pg_micros(j.expires_at)::text, '')
        || CASE WHEN j.canceled_at IS NULL THEN '' ELSE ' canceled' END
        || CASE WHEN p.in_progress IS NULL THEN ''
                WHEN p.in_progress >= j.max_in_progress THEN ' full'
                ELSE ' ' || j.max_in_progress::text || '/'
                     || (p.succeeded + p.failed + p.timed_out + p.rejected + p.retries)::text
           END AS state,
    e.not_before,
    j.start_windows,
    coalesce(j.window_time_zone, e.time_zone, 'UTC') AS time_zone,
    e.status = 'QUEUED' AND jobs.is_waiting_at(
        e.not_before, j.start_windows, coalesce(j.window_time_zone, e.time_zone, 'UTC'), jobs.now()
    ) AS is_waiting,
    e.status = 'QUEUED' AND jobs.is_waiting_at(
        e.not_before, j.start_windows, coalesce(j.window_time_zone, e.time_zone, 'UTC'), jobs.now(),
        jobs.opening_delay(e.device_id)
    ) AS is_waiting_in_watch,
    e.stage,
    j.document_params,
    j.window_time_zone,
    -- Only executions that are IN_PROGRESS are pending then.
    j.canceled_at IS NOT NULL AS cancel_requested
FROM jobs.job_executions e
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (j.tenant_id, j.job_id)
        j.tenant_id, j.document_type, j.document_params, j.canceled_at, j.force_canceled,
        j.expires_at, j.paused_at, j.deleted_at, j.max_in_progress, j.start_windows,
        j.window_time_zone, jobs.released_count_at(j.release, jobs.now()) AS released
    FROM jobs.jobs_with_release j
    WHERE j.tenant_id = e.tenant_id AND j.job_id = e.job_id
) j
-- Read only for executions that need a slot.
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (p.tenant_id, p.job_id)
        p.tenant_id, p.in_progress, p.succeeded, p.failed, p.timed_out, p.rejected, p.retries
    FROM jobs.job_progress p
    WHERE p.tenant_id = e.tenant_id AND p.job_id = e.job_id
      AND j.max_in_progress IS NOT NULL AND e.status = 'QUEUED'
) p ON p.tenant_id = e.tenant_id
WHERE j.tenant_id = e.tenant_id
  AND CASE WHEN e.end_cause IS NULL THEN 0 ELSE 1 END = 0
  AND e.status IN ('QUEUED', 'IN_PROGRESS')
  AND j.deleted_at IS NULL
  AND jobs.execution_status_at(
          e.status, j.canceled_at, j.force_canceled, j.expires_at, jobs.now()
      ) IN ('QUEUED', 'IN_PROGRESS')
  AND (
      e.status = 'IN_PROGRESS'
      OR j.paused_at IS NULL AND NOT jobs.is_held(e.rank, j.released)
  );
