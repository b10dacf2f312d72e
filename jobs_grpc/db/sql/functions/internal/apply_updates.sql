-- Applies those of the decided updates that have the outcome APPLIED, and counts them in the progress of
-- their jobs. The caller holds the job locks, and its settings apply to the query.
CREATE OR REPLACE FUNCTION jobs.apply_updates(
    p_tenant_id text,
    p_updates jobs.decided_update[],
    p_now timestamptz,
    p_reported_bys text[],     -- as in update_executions
    OUT idle_job_ids text[],   -- the updated jobs without an execution that is IN_PROGRESS; NULL: none
    OUT ruled_job_ids text[]   -- the updated jobs with failure criteria or a rollout; NULL: none
)
LANGUAGE plpgsql
AS $$
BEGIN
    -- row_id is the ctid of the execution. It stays valid, because the caller holds the job lock, and
    -- only a transaction that holds it updates or deletes executions.
    WITH updated AS (
        UPDATE jobs.job_executions e
        SET status = u.new_status,
            status_details = coalesce(u.status_details, e.status_details),
            version = e.version + 1,
            started_at = CASE WHEN u.new_status = 'IN_PROGRESS' THEN coalesce(e.started_at, p_now)
                              ELSE e.started_at END,
            times_out_at = u.times_out_at,
            last_updated_at = p_now,
            failure_code = CASE WHEN u.new_status IN ('FAILED', 'REJECTED')
                                THEN coalesce(u.failure_code, '') END,
            reported_by = coalesce(u.reported_by, e.reported_by)
        FROM (SELECT u.*, p_reported_bys[u.n] AS reported_by FROM unnest(p_updates) u) u
        WHERE u.outcome = 'APPLIED' AND e.tenant_id = p_tenant_id AND e.ctid = u.row_id
        RETURNING u.job_id, u.has_rules, u.stored_status AS old_status, u.new_status
    ), status_changes AS (
        SELECT u.job_id, bool_or(u.has_rules) AS has_rules,
               count(*) FILTER (WHERE u.old_status = 'QUEUED') AS from_queued,
               count(*) FILTER (WHERE u.old_status = 'IN_PROGRESS') AS from_in_progress,
               count(*) FILTER (WHERE u.new_status = 'IN_PROGRESS') AS to_in_progress,
               count(*) FILTER (WHERE u.new_status = 'SUCCEEDED') AS to_succeeded,
               count(*) FILTER (WHERE u.new_status = 'FAILED') AS to_failed,
               count(*) FILTER (WHERE u.new_status = 'REJECTED') AS to_rejected
        FROM updated u
        GROUP BY u.job_id
    ), updated_progress AS (
        UPDATE jobs.job_progress p
        SET queued = p.queued - c.from_queued,
            in_progress = p.in_progress - c.from_in_progress + c.to_in_progress,
            succeeded = p.succeeded + c.to_succeeded,
            failed = p.failed + c.to_failed,
            rejected = p.rejected + c.to_rejected
        FROM (
            SELECT c.*, p.row_id
            FROM status_changes c
            CROSS JOIN LATERAL (
                SELECT p.ctid AS row_id
                FROM jobs.job_progress p
                WHERE p.tenant_id = p_tenant_id AND p.job_id = c.job_id
                OFFSET 0
            ) p
        ) c
        WHERE p.tenant_id = p_tenant_id AND p.ctid = c.row_id
        RETURNING p.job_id, p.in_progress, c.has_rules
    )
    SELECT array_agg(p.job_id) FILTER (WHERE p.in_progress = 0),
           array_agg(p.job_id) FILTER (WHERE p.has_rules)
    INTO idle_job_ids, ruled_job_ids
    FROM updated_progress p;
END $$;
