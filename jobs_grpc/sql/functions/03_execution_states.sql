-- Executions as a reader sees them. A QUEUED row of a dead job reads as what the job's
-- end made of it, dated to that end.
CREATE OR REPLACE VIEW jobs.execution_states WITH (security_invoker = true) AS
SELECT
    e.tenant_id,
    e.job_id,
    e.device_id,
    d.status::text AS status,
    CASE
        WHEN d.status = e.status THEN e.status_details
        WHEN d.status = 'REJECTED' THEN jsonb_build_object('reason', j.cancel_reason)
        ELSE '{"reason": "job expired"}'
    END AS status_details,
    e.execution_number,
    e.queued_at,
    e.started_at,
    CASE
        WHEN d.status = e.status THEN e.last_updated_at
        WHEN d.status = 'REJECTED' THEN j.canceled_at
        ELSE j.expires_at
    END AS last_updated_at
FROM jobs.job_executions e
JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN e.status = 'QUEUED' THEN jobs.queued_status_at(j.canceled_at, j.expires_at, now())
        ELSE e.status
    END AS status
) d;
