-- Returns the attempts that others ended while the device worked on them, as a JSON array of EndedExecution, at most
-- 100: until the device acknowledges an attempt, or changes a later one of the same job. NULL: none. The caller has set
-- the tenant and has the settings `page`.
--
-- A forced cancel of the job ends attempts that are stored as IN_PROGRESS; finalize_executions then writes their
-- ended_number. Reads the first 20 executions of the queue, where these and retried ones are, and the newest 100 of
-- the finished ones: clients that never acknowledge leave thousands.
CREATE OR REPLACE FUNCTION jobs.ended_executions(p_tenant_id text, p_device_id text) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (
        SELECT jsonb_agg(jsonb_build_object(
                   'job_id', e.job_id, 'execution_number', coalesce(e.ended_number, e.execution_number),
                   'end_cause', CASE
                       WHEN e.ended_number IS NULL THEN 'JOB_CANCELED'
                       WHEN e.ended_number = e.execution_number THEN e.end_cause
                       ELSE (
                           SELECT jobs.end_cause(a.status, a.failure_code, a.end_cause, false)
                           FROM jobs.execution_attempts a
                           WHERE a.tenant_id = p_tenant_id AND a.job_id = e.job_id AND a.device_id = p_device_id
                             AND a.execution_number = e.ended_number
                       )
                   END
               ))
        FROM (
            SELECT e.job_id, e.execution_number, e.ended_number, e.end_cause
            FROM (
                SELECT e.*
                FROM (
                    (
                        SELECT e.job_id, e.status, e.execution_number, e.ended_number, e.end_cause
                        FROM jobs.job_executions e
                        WHERE e.tenant_id = p_tenant_id AND e.device_id = p_device_id
                          AND CASE WHEN e.end_cause IS NULL THEN 0 ELSE 1 END = 0
                          AND e.status IN ('QUEUED', 'IN_PROGRESS')
                        ORDER BY e.started_at IS NULL, e.queue_order, e.queued_at, e.job_id
                        LIMIT 20
                    )
                    UNION ALL
                    (
                        SELECT e.job_id, e.status, e.execution_number, e.ended_number, e.end_cause
                        FROM jobs.job_executions e
                        WHERE e.tenant_id = p_tenant_id AND e.device_id = p_device_id
                          AND CASE WHEN e.end_cause IS NULL THEN 0 ELSE 1 END = 1
                          AND e.ended_number IS NOT NULL
                        ORDER BY (e.started_at IS NULL) DESC, e.queue_order DESC, e.queued_at DESC, e.job_id DESC
                        LIMIT 100
                    )
                ) e
                WHERE e.ended_number IS NOT NULL OR e.status = 'IN_PROGRESS'
                OFFSET 0  -- before their jobs are looked up
            ) e
            CROSS JOIN LATERAL (
                SELECT j.force_canceled
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = e.job_id AND j.deleted_at IS NULL
                OFFSET 0
            ) j
            WHERE e.ended_number IS NOT NULL OR j.force_canceled
            LIMIT 100
        ) e
    );
END $$;
