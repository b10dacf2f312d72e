-- Executions as readers see them, with derived status. If a cancel or expiry of the job ended an
-- execution, its details and last_updated_at come from the job until finalize_executions writes them
-- to the row of the execution.
CREATE OR REPLACE VIEW jobs.execution_states WITH (security_invoker = true) AS
SELECT
    e.tenant_id,
    e.job_id,
    e.device_id,
    CASE
        WHEN derived.status = 'QUEUED' AND jobs.is_held(
            e.rank, jobs.released_count_at(j.release, jobs.read_time())
        ) THEN 'HELD'
        ELSE derived.status::text
    END AS status,
    CASE
        WHEN derived.status = e.status THEN e.status_details
        ELSE jobs.final_status_details(derived.status, j.cancel_reason)
    END AS status_details,
    e.execution_number,
    e.queued_at,
    e.started_at,
    CASE
        WHEN derived.status = e.status THEN e.last_updated_at
        WHEN derived.status = 'REJECTED' THEN j.canceled_at
        ELSE j.expires_at
    END AS last_updated_at,
    e.version,
    e.status AS stored_status,
    j.document_type,
    j.document_params,
    j.expires_at,
    CASE WHEN derived.status = 'IN_PROGRESS' THEN e.times_out_at END AS times_out_at,
    e.failure_code,
    e.stage,
    -- Rows that were finalized before the column existed have the time of the job's cancel.
    jobs.end_cause(
        derived.status, e.failure_code, e.end_cause,
        derived.status <> e.status OR e.last_updated_at = j.canceled_at
    ) AS end_cause,
    e.queue_order,
    CASE WHEN derived.status = 'QUEUED' THEN e.not_before END AS not_before,
    CASE WHEN j.start_windows IS NOT NULL AND j.window_time_zone IS NULL
         THEN coalesce(e.time_zone, 'UTC') END AS time_zone,
    derived.status = 'IN_PROGRESS' AND j.canceled_at IS NOT NULL AS cancel_requested,
    /* for each reported FIELD: e.FIELD */
FROM jobs.job_executions e
JOIN jobs.jobs_with_release j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
CROSS JOIN LATERAL (
    SELECT jobs.execution_status_at(
        e.status, j.canceled_at, j.force_canceled, j.expires_at, jobs.now()
    ) AS status
    OFFSET 0  -- computed once
) derived
WHERE j.deleted_at IS NULL;
