-- Dead jobs that are not finalized: at most $1, none of the jobs $2.
SELECT tenant_id, job_id
FROM jobs.jobs
WHERE NOT finalized AND deleted_at IS NULL AND coalesce(canceled_at, expires_at) <= now()
  AND job_id || '/' || tenant_id NOT IN (SELECT unnest($2::text[]))
ORDER BY coalesce(canceled_at, expires_at)
LIMIT $1
