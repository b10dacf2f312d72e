-- outside a transaction
-- For count_retrying_executions, across tenants. Only updates of jobs whose retries change are not HOT.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_progress_by_retrying
    ON jobs.job_progress (retrying)
    WHERE retrying > 0;
