-- outside a transaction
-- For the pages of a job's executions with one failure code.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_by_failure_code
    ON jobs.job_executions (tenant_id, job_id, failure_code, device_id)
    WHERE failure_code IS NOT NULL;
