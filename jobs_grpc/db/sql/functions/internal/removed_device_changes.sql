-- Returns the changes that end executions as REJECTED because their devices were deleted: of those that readers see as
-- QUEUED or HELD. NULL: none. The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.removed_device_changes(
    p_tenant_id text,
    p_job_ids text[],
    p_device_ids text[],  -- parallel
    p_now timestamptz
) RETURNS jobs.execution_change[]
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
BEGIN
    RETURN (
        SELECT array_agg(jobs.execution_change(
            n => u.n, job_id => u.job_id, device_id => u.device_id, row_id => e.row_id, stage => e.stage,
            execution_number => e.execution_number, stored_status => e.status,
            failed_status => e.failed_status, failed_code => e.failed_code, failed_at => e.failed_at,
            retries => e.retries,
            new_status => 'REJECTED', status_details => '{"reason": "device deleted"}',
            end_cause => 'DEVICE_DELETED',
            has_rules => e.stage IS NOT NULL, execution_events => j.execution_events
        ))
        FROM unnest(p_job_ids, p_device_ids) WITH ORDINALITY AS u (job_id, device_id, n)
        CROSS JOIN LATERAL (
            SELECT e.ctid AS row_id, e.*
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = u.job_id AND e.device_id = u.device_id
            OFFSET 0
        ) e
        CROSS JOIN LATERAL (
            SELECT j.canceled_at, j.expires_at, j.deleted_at, j.execution_events
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id
            OFFSET 0
        ) j
        WHERE e.status = 'QUEUED' AND j.deleted_at IS NULL
          AND jobs.queued_status_at(j.canceled_at, j.expires_at, p_now) = 'QUEUED'
    );
END $$;
