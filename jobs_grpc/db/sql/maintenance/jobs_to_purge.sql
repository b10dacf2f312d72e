-- Deleted jobs: at most $1, none of the jobs $2.
SELECT tenant_id, job_id
FROM jobs.jobs
WHERE deleted_at IS NOT NULL
  AND job_id || '/' || tenant_id NOT IN (SELECT unnest($2::text[]))
ORDER BY tenant_id, job_id
LIMIT $1
