-- Returns those of the given attempts of devices that ended_executions returns, or would return without its limits, as
-- changes: the stored_status of those whose end finalize_executions has not written yet is IN_PROGRESS. NULL: none. The
-- caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.unacknowledged_executions(
    p_tenant_id text,
    p_device_ids text[],           -- this and the next two are parallel
    p_job_ids text[],
    p_execution_numbers integer[]
) RETURNS jobs.execution_change[]
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
BEGIN
    -- Without device_id, so count_changes takes a change as a group of one execution.
    RETURN (
        SELECT array_agg(jobs.execution_change(
            job_id => u.job_id, row_id => e.row_id, stage => e.stage, stored_status => e.status,
            failed_at => e.failed_at, new_status => 'REJECTED'
        ))
        FROM (
            SELECT DISTINCT u.device_id, u.job_id, u.execution_number
            FROM unnest(p_device_ids, p_job_ids, p_execution_numbers) AS u (device_id, job_id, execution_number)
        ) u
        CROSS JOIN LATERAL (
            SELECT e.ctid AS row_id, e.stage, e.status, e.execution_number, e.ended_number, e.failed_at
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = u.job_id AND e.device_id = u.device_id
            OFFSET 0
        ) e
        CROSS JOIN LATERAL (
            SELECT j.force_canceled
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.deleted_at IS NULL
            OFFSET 0
        ) j
        WHERE u.execution_number = CASE WHEN e.status <> 'IN_PROGRESS' THEN e.ended_number
                                        WHEN j.force_canceled THEN e.execution_number END
    );
END $$;
