-- Finds deleted jobs: at most $1. Excludes the jobs with tenant_id in $2 and job_id in $3 (parallel
-- arrays).
SELECT tenant_id, job_id
FROM jobs.jobs
WHERE deleted_at IS NOT NULL
  AND (tenant_id, job_id) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))
ORDER BY tenant_id, job_id
LIMIT $1
