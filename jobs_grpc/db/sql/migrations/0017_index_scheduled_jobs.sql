-- outside a transaction
-- For list_jobs: the SCHEDULED jobs of a tenant. Both indexes have only active jobs with a start time.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_active_by_start_at
    ON jobs.jobs (tenant_id, start_at)
    WHERE start_at IS NOT NULL AND status = 'IN_PROGRESS' AND deleted_at IS NULL;
-- For count_scheduled_jobs, across tenants.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_of_all_tenants_by_start_at
    ON jobs.jobs (start_at)
    WHERE start_at IS NOT NULL AND status = 'IN_PROGRESS' AND deleted_at IS NULL;
