-- outside a transaction
-- For a device's queue, as job_executions_queue_by_priority, and after it the finished executions with an
-- ended_number. The CASE has no status, because row-level security allows only leakproof conditions.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_queue
    ON jobs.job_executions
        (tenant_id, device_id, (CASE WHEN end_cause IS NULL THEN 0 ELSE 1 END), (started_at IS NULL), queue_order,
         queued_at, job_id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS') OR ended_number IS NOT NULL;
