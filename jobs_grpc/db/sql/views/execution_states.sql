-- depends on: execution_end_details, execution_status_at
-- Executions as a reader sees them. A row that a dead job left QUEUED, or IN_PROGRESS by a
-- forced cancel, reads as what the job's end made of it, dated to that end.
CREATE OR REPLACE VIEW jobs.execution_states WITH (security_invoker = true) AS
SELECT
    e.tenant_id,
    e.job_id,
    e.device_id,
    d.status::text AS status,
    CASE
        WHEN d.status = e.status THEN e.status_details
        ELSE jobs.execution_end_details(d.status, j.cancel_reason)
    END AS status_details,
    e.execution_number,
    e.queued_at,
    e.started_at,
    CASE
        WHEN d.status = e.status THEN e.last_updated_at
        WHEN d.status = 'REJECTED' THEN j.canceled_at
        ELSE j.expires_at
    END AS last_updated_at,
    e.version,
    e.status IN ('QUEUED', 'IN_PROGRESS') AS stored_pending,
    j.document_type,
    j.document_params,
    j.expires_at,
    CASE WHEN d.status = 'IN_PROGRESS' THEN e.times_out_at END AS times_out_at
FROM jobs.job_executions e
JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
CROSS JOIN LATERAL (
    SELECT jobs.execution_status_at(
        e.status, j.canceled_at, j.force_canceled, j.expires_at, now()
    ) AS status
) d
WHERE j.deleted_at IS NULL;
