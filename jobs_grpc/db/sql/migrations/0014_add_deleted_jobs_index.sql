-- outside a transaction
-- For jobs_to_purge.sql, across tenants. A job leaves the index when it is purged.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_deleted_at ON jobs.jobs (deleted_at)
    WHERE deleted_at IS NOT NULL;
