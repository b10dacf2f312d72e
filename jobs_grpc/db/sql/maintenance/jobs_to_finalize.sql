-- Finds canceled and expired jobs that are not finalized, the oldest first: at most $1. Excludes
-- the jobs with tenant_id in $2 and job_id in $3 (parallel arrays).
SELECT tenant_id, job_id
FROM jobs.jobs
WHERE NOT finalized AND deleted_at IS NULL AND coalesce(canceled_at, expires_at) <= now()
  AND (tenant_id, job_id) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))
ORDER BY coalesce(canceled_at, expires_at)
LIMIT $1
