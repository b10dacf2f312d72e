-- outside a transaction, after views and functions

-- Drops the index that 0014 replaced.
DROP INDEX CONCURRENTLY IF EXISTS jobs.jobs_to_purge;
