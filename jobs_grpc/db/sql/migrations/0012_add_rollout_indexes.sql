-- outside a transaction
-- For held_executions.sql: the executions that an operator canceled before they were released.
CREATE INDEX CONCURRENTLY IF NOT EXISTS job_executions_finished_unstarted_by_rank
    ON jobs.job_executions (tenant_id, job_id, rank)
    WHERE rank IS NOT NULL AND started_at IS NULL AND status IN ('TIMED_OUT', 'REJECTED');

-- For stages_due.sql, across tenants.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_stage_due_at ON jobs.jobs (stage_due_at)
    WHERE stage_due_at IS NOT NULL AND paused_at IS NULL AND status = 'IN_PROGRESS'
      AND deleted_at IS NULL;

-- For list_jobs: jobs that wait for an approval. Jobs that are finished leave it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_awaiting_approval
    ON jobs.jobs (tenant_id, created_at DESC, job_id DESC)
    WHERE awaiting_approval AND status = 'IN_PROGRESS' AND deleted_at IS NULL;
