-- depends on: job_states, rollout_details
-- Jobs as readers see them, with the rollout and the failure criteria.
--
-- Not s.*: CREATE OR REPLACE VIEW adds columns only at the end, and a new column of job_states would be
-- before rollout_details.
CREATE OR REPLACE VIEW jobs.job_details WITH (security_invoker = true) AS
SELECT
    s.tenant_id,
    s.job_id,
    s.document_type,
    s.document_params,
    s.target_device_id,
    s.target_group_id,
    s.target_all,
    s.status,
    s.expires_at,
    s.created_by,
    s.created_at,
    s.updated_at,
    s.cancel_reason,
    s.total_executions,
    s.queued,
    s.in_progress,
    s.succeeded,
    s.failed,
    s.timed_out,
    s.rejected,
    s.completed_at,
    s.in_progress_timeout_minutes,
    s.stored_status,
    s.paused_at,
    s.paused_by,
    s.pause_reason,
    s.revision,
    s.held,
    s.pause_cause,
    s.trip,
    s.has_rollout_details,
    CASE
        WHEN s.has_rollout_details THEN jobs.rollout_details(s.tenant_id, s.job_id)
    END AS rollout_details
FROM jobs.job_states s;
