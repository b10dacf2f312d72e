-- outside a transaction

-- For list_jobs: one index per filter, each in the order of the list for each status. The status is
-- an expression of IS NULL tests (0: in progress, 1: completed, 2: canceled), because row-level
-- security does not allow a condition on an enum to use an index.
--
-- The predicates also serve to name the index: only a query that repeats a predicate can use the
-- index, so the planner cannot choose one of them to look up a job by its key.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first
    ON jobs.jobs (tenant_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE created_at > '-infinity' AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first_by_document_type
    ON jobs.jobs (tenant_id, document_type,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE document_type IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first_by_created_by
    ON jobs.jobs (tenant_id, created_by,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE created_by IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first_by_target_device
    ON jobs.jobs (tenant_id, target_device_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE target_device_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first_by_target_group
    ON jobs.jobs (tenant_id, target_group_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE target_group_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_newest_first_of_target_all
    ON jobs.jobs (tenant_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE target_all AND deleted_at IS NULL;
