-- outside a transaction, after views and functions

-- Drops the index that 0006 replaced.
DROP INDEX CONCURRENTLY IF EXISTS jobs.jobs_by_created_at;
