-- outside a transaction, after views and functions
DROP INDEX CONCURRENTLY IF EXISTS jobs.job_executions_queue;
