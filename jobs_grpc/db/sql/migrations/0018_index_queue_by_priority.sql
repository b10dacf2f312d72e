-- outside a transaction
-- For a device's queue: the execution that is IN_PROGRESS first, then those that are QUEUED, by
-- priority, and the oldest first. started_at is NULL exactly if a pending execution is QUEUED.
-- Executions of canceled and expired jobs stay in the index until finalize_executions updates their
-- rows.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_queue_by_priority
    ON jobs.job_executions
        (tenant_id, device_id, (started_at IS NULL), queue_order, queued_at, job_id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');
