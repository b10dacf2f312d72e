-- outside a transaction, after views and functions
-- job_executions_queue replaces it.
DROP INDEX CONCURRENTLY IF EXISTS jobs.job_executions_queue_by_priority;
