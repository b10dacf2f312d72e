-- outside a transaction

-- Builds the indexes that deliver rows in the order in which the functions read them. Later
-- migrations drop those that they replace. See docs/decisions/plans.md.
--
-- Row-level security allows only leakproof operators as index conditions. Those of enums are not
-- leakproof, so a status is an expression of IS NULL tests here, or in the predicate of the index.

-- For a device's queue: the execution that is IN_PROGRESS first, then those that are QUEUED, the
-- oldest first. started_at is NULL exactly if a pending execution is QUEUED. Executions of canceled
-- and expired jobs stay in the index until finalize_job updates their rows.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_queue
    ON jobs.job_executions (tenant_id, device_id, (started_at IS NULL), queued_at, job_id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');

-- For list_device_executions. The predicate is always true. Only a query that repeats it can use
-- the index, so the planner cannot choose it to look up an execution by its key.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_newest_first
    ON jobs.job_executions (tenant_id, device_id, queued_at DESC, job_id DESC)
    WHERE queued_at > '-infinity';

-- For the executions of a job that did not succeed. Creating a job adds nothing to these indexes.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_failed
    ON jobs.job_executions (tenant_id, job_id, device_id) WHERE status = 'FAILED';
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_timed_out
    ON jobs.job_executions (tenant_id, job_id, device_id) WHERE status = 'TIMED_OUT';
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_rejected
    ON jobs.job_executions (tenant_id, job_id, device_id) WHERE status = 'REJECTED';
