-- Finds jobs that have been finished for $4 days, the oldest first: at most $1. Excludes the jobs
-- with tenant_id in $2 and job_id in $3 (parallel arrays).
SELECT tenant_id, job_id
FROM jobs.jobs
WHERE status <> 'IN_PROGRESS' AND deleted_at IS NULL
  AND updated_at < now() - make_interval(days => $4)
  AND (tenant_id, job_id) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))
ORDER BY updated_at
LIMIT $1
