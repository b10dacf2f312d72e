-- Returns whether ended_executions may return something. NULL: it returns nothing, and the queue is empty. Most devices
-- that poll have this answer, and then the caller needs no other query. The caller has set the tenant and has the
-- settings `page`: to set them again would take longer than the query.
CREATE OR REPLACE FUNCTION jobs.has_ended_executions(p_tenant_id text, p_device_id text) RETURNS boolean
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    -- The queue, then the finished executions, in the order of the index. After 20 rows, there may be more.
    RETURN (
        SELECT count(*) = 20 OR bool_or(
                   q.ended_number IS NOT NULL OR q.status = 'IN_PROGRESS' AND (
                       SELECT j.force_canceled
                       FROM jobs.jobs j
                       WHERE j.tenant_id = p_tenant_id AND j.job_id = q.job_id
                   ) IS TRUE
               )
        FROM (
            SELECT e.job_id, e.status, e.ended_number
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.device_id = p_device_id
              AND (e.status IN ('QUEUED', 'IN_PROGRESS') OR e.ended_number IS NOT NULL)
            ORDER BY CASE WHEN e.end_cause IS NULL THEN 0 ELSE 1 END, e.started_at IS NULL, e.queue_order,
                     e.queued_at, e.job_id
            LIMIT 20
        ) q
    );
END $$;
