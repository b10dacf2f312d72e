-- outside a transaction, after views and functions

-- Drops the indexes of job_executions that 0002 replaced.
DROP INDEX CONCURRENTLY IF EXISTS jobs.job_executions_pending_by_device;
DROP INDEX CONCURRENTLY IF EXISTS jobs.job_executions_by_device;
