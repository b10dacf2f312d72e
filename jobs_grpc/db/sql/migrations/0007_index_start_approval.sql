-- outside a transaction
-- For list_jobs: jobs that wait for an approval of a stage or of their start. Jobs that are finished leave it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first_awaiting_approval
    ON jobs.jobs (tenant_id, created_at DESC, job_id DESC)
    WHERE (awaiting_approval OR start_approval = '{}') AND status = 'IN_PROGRESS' AND deleted_at IS NULL;
