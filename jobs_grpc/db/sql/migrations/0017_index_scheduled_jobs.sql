-- outside a transaction
-- For list_jobs: the jobs of a tenant that start in the future. Without a condition on the status, which
-- other indexes have as well, no other index looks as cheap.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_start_at
    ON jobs.jobs (tenant_id, start_at)
    WHERE start_at IS NOT NULL AND deleted_at IS NULL;
-- For count_scheduled_jobs, across tenants.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_of_all_tenants_by_start_at
    ON jobs.jobs (start_at)
    WHERE start_at IS NOT NULL AND status = 'IN_PROGRESS' AND deleted_at IS NULL;
